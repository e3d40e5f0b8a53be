"""Fiscus: budgets, rate limits, quotas and cost observability for multi-tenant platforms."""
