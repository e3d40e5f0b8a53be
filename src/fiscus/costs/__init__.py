"""Costs: what something cost, in which currency, and who it is attributed to."""
