"""Quotas inside a program, with no server: shared out, taken around blocks and calls, refused."""

from __future__ import annotations

import tempfile

import fiscus
from fiscus import Fiscus, QuotaExhausted


@fiscus.quota("reports", 1, user="ada", give_back_on_error=True)
def make_report(name: str) -> str:
    """Takes one report of Ada's at every call; gives it back when the call fails."""
    if not name:
        raise ValueError("a report needs a name")
    return f"report {name}"


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Fiscus.open(data_dir=folder, tenant="acme") as engine,
    ):
        fiscus.use(engine)
        shared = engine.distribute_quota(
            resource_type="gpu_hours",
            total_amount=100,
            strategy="priority",
            entities=[
                {"scope_type": "project", "scope_id": "search", "tier": 1},
                {"scope_type": "project", "scope_id": "lab", "tier": 3},
            ],
        )
        for part in shared.parts:
            print(f"{part.scope_id} gets {part.allocated_amount}")
        with fiscus.quota("gpu_hours", 2.5, project="lab") as taken:
            taken.release("0.5")
        engine.allocate_quota(
            scope_type="user", scope_id="*", resource_type="reports", allocated_amount=2
        )
        for name in ("one", "", "two", "three"):
            try:
                print(make_report(name))
            except ValueError as error:
                print(f"given back: {error}")
            except QuotaExhausted as refused:
                print(f"refused: {refused.message}")
        for quota in engine.quotas(resource_type="gpu_hours").items:
            print(f"{quota.scope_id} used {quota.used_amount} of {quota.allocated_amount}")


if __name__ == "__main__":
    main()
