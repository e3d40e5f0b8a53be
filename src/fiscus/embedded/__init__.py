"""`Fiscus`: the Python API in process, with no server."""
