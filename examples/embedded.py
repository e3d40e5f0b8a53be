"""Fiscus inside a program, with no server: a budget, operations that fit, one that does not."""

from __future__ import annotations

import tempfile
from decimal import Decimal
from typing import NamedTuple

from fiscus import BudgetExceeded, Fiscus


class ModelAnswer(NamedTuple):
    text: str
    cost: Decimal
    tokens: int


def call_the_model(question: str) -> ModelAnswer:
    """Stands for the paid call of your program."""
    tokens = 10 * len(question)
    return ModelAnswer("42", Decimal(tokens) * Decimal("0.0001"), tokens)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Fiscus.open(data_dir=folder, tenant="acme") as fiscus,
    ):
        budget = fiscus.create_budget(
            budget_name="Search, daily",
            budget_amount="0.08",
            period_type="daily",
            allocated_to_type="project",
            allocated_to_id="search",
        )
        for question in ("What is a budget?", "And who spent it?", "What is left of it now?"):
            try:
                with fiscus.reserve(project="search", resource_type="llm", estimate="0.05") as r:
                    answer = call_the_model(question)
                    r.settle(answer.cost, usage={"tokens": answer.tokens})
                print(f"{question} {answer.text}, for {answer.cost}")
            except BudgetExceeded as refused:
                print(f"{question} refused: {refused.answer.message}")
        now = fiscus.utilization(budget.budget_id).periods[0]
        print(f"spent {now.spent} of {now.amount} {budget.currency}")


if __name__ == "__main__":
    main()
