"""Every version of every budget."""

from __future__ import annotations

from typing import Final

from fiscus.budgets.model import Budget
from fiscus.stores.sql.tables import budget_versions
from fiscus.stores.sql.versions import Versions

versions: Final = Versions(budget_versions, Budget, "budget")

__all__ = ["versions"]
