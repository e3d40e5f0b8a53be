"""Against a running server: FISCUS_URL is its address, FISCUS_KEY an API key it knows."""

from __future__ import annotations

import os

from fiscus import BudgetExceeded, Client


def main() -> None:
    with Client(os.environ["FISCUS_URL"], os.environ["FISCUS_KEY"], tenant="example") as client:
        budget = client.create_budget(
            budget_name="Every user, daily",
            budget_amount=1,
            period_type="daily",
            allocated_to_type="user",
            allocated_to_id="*",
        )
        with client.reserve(user="u-17", resource_type="gpu", estimate="0.80") as r:
            r.settle("0.75", usage_quantity=90, usage_unit="seconds")
        try:
            with client.reserve(user="u-17", resource_type="gpu", estimate="0.80"):
                print("this does not happen")
        except BudgetExceeded as refused:
            print(f"refused; {refused.answer.max_allowed_cost} would pass now")
        report = client.report(report_type="by_user", group_by=["resource_type"])
        for group in report.groups:
            print(group.key, group.cost, report.currency)
        client.delete_budget(budget.budget_id, force=True)


if __name__ == "__main__":
    main()
