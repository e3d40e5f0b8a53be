"""Which budgets and periods an operation matches, with the anchors of floating budgets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from fiscus.budgets.matching import MatchedBudget, PreparedBudget
from fiscus.ledger.workspace import Workspace
from fiscus.operations import Operation


def plan_matches(workspace: Workspace, operation: Operation, moment: datetime) -> int:
    """Add the balances an operation will read to the group's needs; how many budgets it matches.

    A floating budget's period is known only once its anchor is loaded; it sends the group round.
    """
    budgets = workspace.tenant(operation.tenant_id).budgets
    matched = budgets.matched_at(operation, moment)
    complete = True
    if matched is None:
        matched, complete = _matched_by_anchors(workspace, operation, moment)
    if matched is not workspace.last_matched:  # most of a batch matches the same
        workspace.last_matched = matched
        for one in matched:
            workspace.needs.balances[one.blank.key] = one.blank
    if complete:
        workspace.planned[id(operation)] = matched
        return len(matched)
    return len(budgets.matches(operation))


def _matched_by_anchors(
    workspace: Workspace, operation: Operation, moment: datetime
) -> tuple[list[MatchedBudget], bool]:
    """What is matched as far as anchors are known, and whether all are; the others become needs."""
    found: list[MatchedBudget] = []
    complete = True
    for prepared, scope_id in workspace.tenant(operation.tenant_id).budgets.matches(operation):
        anchor = prepared.anchors.get(scope_id)
        if prepared.is_floating and anchor is None:
            key = (prepared.budget.budget_id, scope_id)
            workspace.needs.anchors[key] = operation.tenant_id
            complete = False
            continue
        matched = prepared.matched_at(scope_id, moment, anchor)
        if matched is not None:
            found.append(matched)
    return found, complete


def find_matches(
    workspace: Workspace, operation: Operation, moment: datetime
) -> Sequence[MatchedBudget]:
    """Every budget that counts `operation` at `moment`, with its period.

    All that is to be loaded for them is asked for at once.
    """
    planned = workspace.planned.get(id(operation))
    if planned is not None:
        return planned
    found: list[MatchedBudget] = []
    matches = workspace.tenant(operation.tenant_id).budgets.matches(operation)
    workspace.need_anchors(
        [
            (prepared.budget.budget_id, scope_id)
            for prepared, scope_id in matches
            if prepared.is_floating and scope_id not in prepared.anchors
        ],
        operation.tenant_id,
    )
    for prepared, scope_id in matches:
        anchor = _anchor(workspace, prepared, scope_id, moment) if prepared.is_floating else None
        matched = prepared.matched_at(scope_id, moment, anchor)
        if matched is not None:
            found.append(matched)
    workspace.need_balances([matched.blank for matched in found])
    return found


def keep_anchor(workspace: Workspace, matched: MatchedBudget, moment: datetime) -> None:
    """Store the anchor of a floating budget with its first hold or charge."""
    prepared, scope_id = matched.prepared, matched.scope_id
    if scope_id in prepared.anchors:
        return
    key = (prepared.budget.budget_id, scope_id)
    if workspace.anchor(key) is None:
        workspace.put_anchor(key, prepared.budget.tenant_id, prepared.anchor_for(moment))


def _anchor(
    workspace: Workspace, prepared: PreparedBudget, scope_id: str, moment: datetime
) -> date:
    known = prepared.anchors.get(scope_id)
    if known is not None:
        return known
    stored = workspace.anchor((prepared.budget.budget_id, scope_id))
    return stored if stored is not None else prepared.anchor_for(moment)
