"""Budgets: amounts of money per period for a scope, and the rules that decide on them."""
