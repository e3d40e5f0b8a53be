"""Which budgets and periods an operation meets, with the anchors of floating budgets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from fiscus.budgets.matching import Matched, PreparedBudget
from fiscus.ledger.workspace import Workspace
from fiscus.operations import Operation


def plan_matches(workspace: Workspace, operation: Operation, moment: datetime) -> None:
    """Add the balances an operation will read to the group's needs.

    A floating budget's period is known only once its anchor is loaded; it sends the group round.
    """
    budgets, balances = workspace.tenant(operation.tenant_id).budgets, workspace.needs.balances
    met = budgets.met(operation, moment)
    if met is not None:
        for matched in met:
            balances[matched.blank.key] = matched.blank
        workspace.planned[id(operation)] = met
        return
    found: list[Matched] = []
    complete = True
    for prepared, scope_id in budgets.matches(operation):
        anchor = None
        if prepared.floats:
            anchor = prepared.anchors.get(scope_id)
            if anchor is None:
                key = (prepared.budget.budget_id, scope_id)
                workspace.needs.anchors[key] = operation.tenant_id
                complete = False
                continue
        matched = prepared.met(scope_id, moment, anchor)
        if matched is not None:
            balances[matched.blank.key] = matched.blank
            found.append(matched)
    if complete:
        workspace.planned[id(operation)] = found


def find_matches(workspace: Workspace, operation: Operation, moment: datetime) -> Sequence[Matched]:
    """Every budget that counts `operation` at `moment`, with its period."""
    planned = workspace.planned.get(id(operation))
    if planned is not None:
        return planned
    found: list[Matched] = []
    for prepared, scope_id in workspace.tenant(operation.tenant_id).budgets.matches(operation):
        anchor = _anchor(workspace, prepared, scope_id, moment) if prepared.floats else None
        matched = prepared.met(scope_id, moment, anchor)
        if matched is not None:
            found.append(matched)
    return found


def keep_anchor(workspace: Workspace, matched: Matched, moment: datetime) -> None:
    """Store the anchor of a floating budget with its first hold or charge."""
    prepared, scope_id = matched.prepared, matched.scope_id
    if scope_id in prepared.anchors:
        return
    key = (prepared.budget.budget_id, scope_id)
    if workspace.anchor(key, prepared.budget.tenant_id) is None:
        workspace.put_anchor(key, prepared.budget.tenant_id, prepared.anchor_for(moment))


def _anchor(
    workspace: Workspace, prepared: PreparedBudget, scope_id: str, moment: datetime
) -> date:
    known = prepared.anchors.get(scope_id)
    if known is not None:
        return known
    budget = prepared.budget
    stored = workspace.anchor((budget.budget_id, scope_id), budget.tenant_id)
    return stored if stored is not None else prepared.anchor_for(moment)
