"""The HTTP edge: a fast lane for decisions, FastAPI for what people read and manage."""
