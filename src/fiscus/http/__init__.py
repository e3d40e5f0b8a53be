"""The HTTP edge: a fast lane for decisions, FastAPI for what people read and manage.

`app` joins `fast_lane`, `management` and `monitoring`; all ask `auth` who calls, and the first two
`api_limits` whether there is room. `openapi` describes them, from the tables that they are made of.
"""
