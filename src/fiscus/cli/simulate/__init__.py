"""`fiscus simulate`: policies of rate limits, on a log of requests that was recorded before."""
