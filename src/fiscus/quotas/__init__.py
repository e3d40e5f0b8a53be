"""Quotas: amounts of a resource per period, taken by consumptions; and how they are shared out."""
