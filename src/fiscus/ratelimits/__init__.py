"""Rate limits: policies, four algorithms as pure functions, and the limiter that applies them."""
