"""The HTTP edge: a fast lane for decisions, FastAPI for what people read and manage.

`app` joins them, inside `edge`. Both ask `auth` who calls and `api_limits` whether there is room.
"""
