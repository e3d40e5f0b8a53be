"""How a total is shared out over entities: four strategies, exact to the last digit.

Everything is counted in whole units of the last digit that parts have (`10 ** -decimals`), so
parts add up to the total by construction. What does not divide evenly goes by largest remainder
(Hamilton: everyone gets the whole units of its share, the units left over go to the largest
fractions), ties to the least (scope_type, scope_id); so the order of entities never matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from fiscus.errors import ValidationError
from fiscus.money import EXACT, ZERO, parse_amount, parse_not_negative, parse_positive, plain
from fiscus.quotas.calls import DistributeRequest, Entity
from fiscus.quotas.model import Strategy
from fiscus.scopes import ScopeType

TIER_SHARES: Final = {1: 50, 2: 30, 3: 20}
"""What the tiers of `priority` get of the total, in percent."""
LAST_TIER: Final = 3
USAGE_DAYS: Final = 30
"""How far back `dynamic` looks."""
MAX_ENTITIES: Final = 1000
MAX_DECIMALS: Final = 12

Usage = Mapping[tuple[ScopeType, str], Decimal]
"""What each scope used of the resource in the last `USAGE_DAYS` days, given back taken off."""


def share_out(request: DistributeRequest, usage: Usage) -> list[Decimal]:
    """What each entity of `request` gets, in their order; together exactly `total_amount`.

    - `fair_share`: all the same.
    - `priority`: tier 1 gets 50 %, tier 2 30 %, tier 3 20 %, shared equally inside the tier. What a
      tier without entities would get goes to the others in proportion to theirs.
    - `dynamic`: in proportion to 120 % of the average daily use of the last 30 days, scaled to the
      total (which makes it in proportion to `usage`), but at least one unit each; if nobody used
      anything, all the same.
    - `reserved`: who has a `reserved_amount` gets exactly that; the rest is shared out by `then`
      over those who have none.

    Raises `ValidationError` naming the field: an entity listed twice, a tier outside 1 to 3, an
    amount with more digits than `decimals`, a negative reservation, reservations that pass the
    total or leave something that is nobody's, too little for a unit each with `dynamic`, and fields
    that the strategy has no use for.
    """
    _check_shape(request)
    total = _units(
        parse_positive(request.total_amount, "total_amount"), request.decimals, "total_amount"
    )
    entities = request.entities
    if request.strategy is Strategy.RESERVED:
        parts = _reserved(total, entities, request, usage)
    else:
        parts = _shared(request.strategy, total, entities, usage)
    return [plain(Decimal(part).scaleb(-request.decimals, EXACT)) for part in parts]


# ---------------------------------------------------------------- strategies, in whole units


def fair_share(total: int, entities: Sequence[Entity]) -> list[int]:
    """All the same, up to one unit."""
    return proportional(total, [1] * len(entities), entities)


def priority(total: int, entities: Sequence[Entity]) -> list[int]:
    """First the total over the tiers that have entities, then each tier's part inside it."""
    tiers: dict[int, list[int]] = {}
    for index, entity in enumerate(entities):
        tiers.setdefault(LAST_TIER if entity.tier is None else entity.tier, []).append(index)
    ranks = sorted(tiers)
    amounts = _largest_remainder(total, [TIER_SHARES[tier] for tier in ranks], ranks)
    parts = [0] * len(entities)
    for tier, amount in zip(ranks, amounts, strict=True):
        inside = fair_share(amount, [entities[index] for index in tiers[tier]])
        for index, part in zip(tiers[tier], inside, strict=True):
            parts[index] = part
    return parts


def dynamic(total: int, entities: Sequence[Entity], usage: Usage) -> list[int]:
    """In proportion to use, at least one unit each. Raises `ValidationError` for too small a total.

    Who would get less than a unit gets one, and the others share what is left in proportion; that
    may bring the next below a unit, so it goes from the least use up. (Use scaled to 120 % and then
    to the total is use scaled to the total.)
    """
    count = len(entities)
    if total < count:
        raise ValidationError(
            "total_amount is too small: with dynamic, each entity gets at least one unit "
            "of its last digit",
            field="total_amount",
            suggested_action="Send a larger total_amount, more decimals or fewer entities.",
        )
    weights = [_weight(usage, entity) for entity in entities]
    left, weight = total, sum(weights)
    if not weight:
        return fair_share(total, entities)
    parts = [1] * count
    ascending = sorted(range(count), key=weights.__getitem__)
    first = 0
    while weights[ascending[first]] * left < weight:
        left -= 1
        weight -= weights[ascending[first]]
        first += 1
    above = sorted(ascending[first:])
    shared = proportional(
        left, [weights[index] for index in above], [entities[index] for index in above]
    )
    for index, part in zip(above, shared, strict=True):
        parts[index] = part
    return parts


def proportional(total: int, weights: Sequence[int], entities: Sequence[Entity]) -> list[int]:
    """`total` in proportion to `weights` (not negative, not all 0), by largest remainder."""
    return _largest_remainder(total, weights, [_name(entity) for entity in entities])


def _shared(strategy: Strategy, total: int, entities: Sequence[Entity], usage: Usage) -> list[int]:
    """By a strategy that gives the whole total to all of `entities`."""
    match strategy:
        case Strategy.PRIORITY:
            return priority(total, entities)
        case Strategy.DYNAMIC:
            return dynamic(total, entities, usage)
        case _:
            return fair_share(total, entities)


def _reserved(
    total: int, entities: Sequence[Entity], request: DistributeRequest, usage: Usage
) -> list[int]:
    pools = [
        None
        if entity.reserved_amount is None
        else _pool(entity.reserved_amount, request.decimals, f"entities[{index}].reserved_amount")
        for index, entity in enumerate(entities)
    ]
    rest = total - sum(pool for pool in pools if pool is not None)
    others = [entity for entity, pool in zip(entities, pools, strict=True) if pool is None]
    if len(others) == len(entities):
        raise _bad_entities(
            "reserved_amount is missing: with reserved, at least one entity must have one",
            "Send reserved_amount for who gets a fixed pool, or another strategy.",
        )
    if rest < 0:
        raise _bad_entities(
            "The reserved amounts are together more than total_amount",
            "Send smaller reserved amounts or a larger total_amount.",
        )
    if rest and not others:
        raise _bad_entities(
            "The reserved amounts do not add up to total_amount, and no entity is without one "
            "to get the rest",
            "Send amounts that add up, or leave reserved_amount out for who shares the rest.",
        )
    shared = iter(_shared(request.then, rest, others, usage) if others else ())
    return [next(shared) if pool is None else pool for pool in pools]


def _largest_remainder(total: int, weights: Sequence[int], ties: Sequence[object]) -> list[int]:
    whole = sum(weights)
    divided = [divmod(total * weight, whole) for weight in weights]
    parts = [part for part, _ in divided]
    order = sorted(range(len(parts)), key=lambda index: (-divided[index][1], ties[index]))
    for index in order[: total - sum(parts)]:
        parts[index] += 1
    return parts


# ---------------------------------------------------------------- what is asked for


def _check_shape(request: DistributeRequest) -> None:
    """What can be said without amounts. Raises `ValidationError` naming the field."""
    if not 0 <= request.decimals <= MAX_DECIMALS:
        raise ValidationError.of_field(
            "decimals", f"must be between 0 and {MAX_DECIMALS}", "Send 0 to 12."
        )
    if not 1 <= len(request.entities) <= MAX_ENTITIES:
        raise ValidationError.of_field(
            "entities", f"must be 1 to {MAX_ENTITIES}", "Send who gets a part."
        )
    reserved = request.strategy is Strategy.RESERVED
    if reserved and request.then is Strategy.RESERVED:
        raise ValidationError.of_field(
            "then", "must not be reserved", "Send fair_share, priority or dynamic."
        )
    if not reserved and request.then is not Strategy.FAIR_SHARE:
        raise ValidationError.of_field(
            "then", "goes with the strategy reserved only", "Leave then out."
        )
    tiered = Strategy.PRIORITY in {request.strategy, request.then}
    seen: set[tuple[str, str]] = set()
    for index, entity in enumerate(request.entities):
        name = _name(entity)
        if name in seen:
            raise ValidationError.of_field(
                f"entities[{index}]",
                f"is listed twice: {entity.scope_type} {entity.scope_id}",
                "Send every entity once.",
            )
        seen.add(name)
        if entity.tier is not None:
            field = f"entities[{index}].tier"
            if not tiered:
                raise ValidationError.of_field(
                    field, "goes with the strategy priority only", "Leave tier out."
                )
            if entity.tier not in TIER_SHARES:
                raise ValidationError.of_field(field, "must be 1, 2 or 3", "Send 1, 2 or 3.")
            if reserved and entity.reserved_amount is not None:
                raise ValidationError.of_field(
                    field, "has no use beside reserved_amount", "Send one of the two."
                )
        if entity.reserved_amount is not None and not reserved:
            raise ValidationError.of_field(
                f"entities[{index}].reserved_amount",
                "goes with the strategy reserved only",
                "Leave reserved_amount out.",
            )


def _name(entity: Entity) -> tuple[str, str]:
    return entity.scope_type.value, entity.scope_id


def _pool(amount: Decimal, decimals: int, field: str) -> int:
    return _units(parse_not_negative(amount, field), decimals, field)


def _units(amount: Decimal, decimals: int, field: str) -> int:
    units = amount.scaleb(decimals, EXACT)
    whole = int(units)
    if whole != units:
        raise ValidationError.of_field(
            field,
            f"has more than {decimals} digits after the point",
            "Send decimals with the digits that parts may have.",
        )
    return whole


def _weight(usage: Usage, entity: Entity) -> int:
    """Use in whole steps of the last stored digit.

    What was given back can be more than what was used within the days looked at: that counts as
    nothing.
    """
    used = parse_amount(usage.get((entity.scope_type, entity.scope_id), ZERO), "usage")
    return int(max(used, ZERO).scaleb(MAX_DECIMALS, EXACT))


def _bad_entities(message: str, action: str) -> ValidationError:
    return ValidationError(message, field="entities", suggested_action=action)
