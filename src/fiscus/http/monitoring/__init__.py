"""How Fiscus is: health probes, and metrics for Prometheus."""
