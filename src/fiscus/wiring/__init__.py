"""Joins stores to domains and edges: the only place that knows both."""
