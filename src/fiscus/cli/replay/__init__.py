"""`fiscus replay`: a trace of requests sent to a running server."""
