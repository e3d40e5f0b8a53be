"""`fiscus quotas`: what is allocated and used, on a running server."""
