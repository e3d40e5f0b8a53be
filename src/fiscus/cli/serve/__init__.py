"""`fiscus serve`: a server, of one process or several."""
