"""The errors Fiscus raises: a small tree with stable codes, no HTTP in it.

A refusal by a rule is a value (see `budgets.model`), never one of these.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeVar

E = TypeVar("E", bound="FiscusError")


class FiscusError(Exception):
    """Base of every error. `code` is stable; `message` is for people; `details` name the field.

    `retriable` says whether the same call may succeed later without a change,
    `suggested_action` what the caller should do, in one sentence. `correlation_id` names the
    request in the server's logs, when a server answered with this.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    retriable: bool = False

    def __init__(
        self,
        message: str,
        *,
        details: dict[str, object] | None = None,
        suggested_action: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or {}
        self.suggested_action = suggested_action
        self.retry_after_seconds = retry_after_seconds
        self.correlation_id: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # by itself an exception is made again by its message alone, which no constructor here takes
        return _unpickled, (type(self), self.args), self.__dict__


UNKNOWN_OUTCOME: Final[dict[str, object]] = {"outcome": "unknown"}
"""In the `details` of an error: what was asked for may have been done all the same."""


def may_be_done(error: FiscusError) -> bool:
    """Whether what failed may have been done all the same, as its details say."""
    return error.details.items() >= UNKNOWN_OUTCOME.items()


class ValidationError(FiscusError):
    """The request is wrong in itself; `details["field"]` names where."""

    code = "VALIDATION_ERROR"

    def __init__(self, message: str, *, field: str, suggested_action: str | None = None) -> None:
        super().__init__(message, details={"field": field}, suggested_action=suggested_action)
        self.field = field

    @classmethod
    def of_field(cls, field: str, what: str, suggested_action: str) -> ValidationError:
        """What is wrong with a field, as it goes on after its name: "must be above 0"."""
        return cls(f"{field} {what}", field=field, suggested_action=suggested_action)

    def within(self, place: str) -> ValidationError:
        """The same error of a part of a request, which is at `place` in it."""
        return ValidationError(
            self.message, field=f"{place}.{self.field}", suggested_action=self.suggested_action
        )


class NotFound(FiscusError):
    """There is no such thing, or it is another tenant's."""

    code = "NOT_FOUND"


class Conflict(FiscusError):
    """The request is sound but the present state forbids it (stale version, already settled)."""

    code = "CONFLICT"


class IdempotencyConflict(FiscusError):
    """An idempotency key was used again with another body."""

    code = "IDEMPOTENCY_CONFLICT"


class Refused(FiscusError):
    """A refusal by a rule, where a caller asked for refusals to be errors.

    `answer` is the answer that explains it, such as `budgets.calls.CheckAnswer`; None when the
    server refused the call itself.
    """

    def __init__(
        self,
        message: str,
        *,
        answer: Any,
        details: dict[str, object] | None = None,
        suggested_action: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(
            message,
            details=details,
            suggested_action=suggested_action,
            retry_after_seconds=retry_after_seconds,
        )
        self.answer: Any = answer


class BudgetExceeded(Refused):
    """No room in a budget, or it is frozen."""

    code = "BUDGET_EXCEEDED"


class RateLimitViolated(Refused):
    """Too many operations for now: a throttled budget or a rate limit."""

    code = "RATE_LIMIT_VIOLATED"
    retriable = True


class QuotaExhausted(Refused):
    """A quota has less left than the operation needs."""

    code = "QUOTA_EXHAUSTED"


class CostCalculationError(FiscusError):
    """A cost cannot be worked out, e.g. usage that no price covers."""

    code = "COST_CALCULATION_ERROR"


class Unauthorized(FiscusError):
    """No valid credential was given."""

    code = "UNAUTHORIZED"


class Forbidden(FiscusError):
    """The credential is good, but may not do this."""

    code = "FORBIDDEN"


class PayloadTooLarge(FiscusError):
    """The request is larger, or has more items, than is taken at once."""

    code = "PAYLOAD_TOO_LARGE"


class ServiceUnavailable(FiscusError):
    """The store cannot answer in time or the queue is full; nothing was promised."""

    code = "SERVICE_UNAVAILABLE"
    retriable = True


class OutcomeUnknown(ServiceUnavailable):
    """The answer was lost, so it may have been done: to do it again may be once too often."""

    retriable = False


class InternalError(FiscusError):
    """Something that should not happen; the message never carries a stack trace or SQL."""

    code = "INTERNAL_ERROR"


ERROR_BY_CODE: Final[dict[str, type[FiscusError]]] = {
    kind.code: kind
    for kind in (
        BudgetExceeded,
        Conflict,
        CostCalculationError,
        Forbidden,
        IdempotencyConflict,
        InternalError,
        NotFound,
        PayloadTooLarge,
        QuotaExhausted,
        RateLimitViolated,
        ServiceUnavailable,
        Unauthorized,
        ValidationError,
    )
}
"""The errors by their code."""


def too_many(field: str, count: int, most: int) -> PayloadTooLarge:
    """A batch has `count` items in `field`, where `most` are taken at once."""
    return PayloadTooLarge(
        f"{field} has {count} items; at most {most} are taken at once",
        details={"field": field, "maximum": most},
        suggested_action=f"Send several batches of up to {most}.",
    )


def rebuild_error(
    kind: type[FiscusError],
    message: str,
    details: dict[str, Any],
    suggested_action: str | None,
    retry_after_seconds: int | None,
) -> FiscusError:
    """The error that another process raised, from what it sent of it."""
    if issubclass(kind, ValidationError):
        error: FiscusError = kind(
            message,
            field=str(details.get("field", "body")),
            suggested_action=suggested_action,
        )
        error.details = details
        error.retry_after_seconds = retry_after_seconds
        return error
    if issubclass(kind, Refused):
        return kind(
            message,
            answer=None,
            details=details,
            suggested_action=suggested_action,
            retry_after_seconds=retry_after_seconds,
        )
    return kind(
        message,
        details=details,
        suggested_action=suggested_action,
        retry_after_seconds=retry_after_seconds,
    )


def _unpickled(kind: type[E], args: tuple[Any, ...]) -> E:
    """An error without its attributes, which pickle adds."""
    return kind.__new__(kind, *args)
