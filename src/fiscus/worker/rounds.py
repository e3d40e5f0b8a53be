"""What is done in the background, and when it is due next.

One small table of due times; every process may run a `Worker`, and the store elects the one whose
rounds count. Nothing here decides anything: holds are freed through the ledger, as by a check.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from fiscus.engine import Engine
from fiscus.errors import FiscusError, ServiceUnavailable
from fiscus.ledger.commands import Expire, Expired
from fiscus.ledger.loop import answer_or_raise
from fiscus.quotas.port import DueRenewal
from fiscus.runtime.logs import get_logger
from fiscus.runtime.portions import ShouldContinue, for_each_tenant, raise_any, to_the_end

log = get_logger(__name__)

EXPIRE_SECONDS: Final = 2
PARTITIONS_SECONDS: Final = 3600
ANSWERS_SECONDS: Final = 300
LEARN_SECONDS: Final = 3600
USAGE_SECONDS: Final = 3600
RENEW_SECONDS: Final = 30
HISTORY_SECONDS: Final = 3600
RENEW_PORTION: Final = 100
"""Quotas that are read at once to be renewed."""
CATCH_UP_SECONDS: Final = 20.0
"""How long a server may be kept from starting by renewals that were missed."""
SHARE_SECONDS: Final = 20.0
"""How long a job may keep the others waiting; what it leaves is gone on with in the next round, or
where it failed, when it is due again."""
LEAD_SECONDS: Final = 5
"""How often a process that does not lead asks whether it may, and one that is at work whether it
still does."""


class Job(NamedTuple):
    """One kind of background work; `run` takes the present and tells how much it did."""

    name: str
    every_seconds: int
    run: Callable[[datetime, ShouldContinue], int]


class _Share:
    """Lets a job go on for as long as the worker does, but no longer than its share of a round."""

    def __init__(self, goes_on: ShouldContinue) -> None:
        self._goes_on = goes_on
        self._until = time.monotonic() + SHARE_SECONDS
        self.is_used_up = False

    def __call__(self) -> bool:
        self.is_used_up = time.monotonic() >= self._until
        return not self.is_used_up and self._goes_on()


class Worker:
    """The rounds of one process. `run` blocks until stopped; `step` does what is due now."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self._partitions = Job("prepare_partitions", PARTITIONS_SECONDS, self._prepare_partitions)
        self._jobs = (
            self._partitions,
            Job("renew_quotas", RENEW_SECONDS, self._renew_quotas),
            Job("expire_reservations", EXPIRE_SECONDS, self._expire_reservations),
            Job("drop_expired_answers", ANSWERS_SECONDS, self._drop_expired_answers),
            Job("learn_usage_patterns", LEARN_SECONDS, engine.usage.learn),
            Job("drop_old_usage", USAGE_SECONDS, self._drop_old_usage),
            Job("drop_quota_history", HISTORY_SECONDS, self._drop_quota_history),
        )
        self._due: dict[str, datetime] = {}
        self._failing: set[str] = set()
        """Jobs that failed when they were due last."""
        self._expire_late: set[str] = set()
        self._renew_late: set[str] = set()
        """Tenants whose rows could not be had the last time, which come last."""
        self._leads = False
        self._asked_at = 0.0
        """When the store was asked last whether this process leads, by the monotonic clock."""

    @property
    def leads(self) -> bool:
        """Whether this process did the last round."""
        return self._leads

    def catch_up(self) -> None:
        """Make the present month's partitions, and renew the quotas that are due, for
        `CATCH_UP_SECONDS` at most; raises nothing.

        For a server before it answers, whether or not it leads: a month whose first cost comes
        before its partition never gets one, and a quota whose period is over applies to nobody
        until it is renewed, and lets everything through.
        """
        self._run(self._partitions, self._engine.clock.now(), to_the_end)
        now, until = self._engine.clock.now(), time.monotonic() + CATCH_UP_SECONDS
        try:
            renewed = self._renew_quotas(now, lambda: time.monotonic() < until)
            left = len(self._engine.quotas.due_renewals(now, 1)) > 0
        except FiscusError as error:
            log.warning("quotas_not_caught_up", reason=error.message)
            return
        except Exception:
            # whatever it was: the rounds try again, and tell
            log.exception("quotas_not_caught_up")
            return
        if renewed or left:
            log.info("quotas_caught_up", count=renewed, some_are_left=left)

    def run(self) -> None:
        """Round after round until `stop`; errors are logged and the work is tried again."""
        self._engine.background.runs = True
        while not self._stop.is_set():
            self._stop.wait(self.step())

    def start(self) -> threading.Thread:
        """`run` in a thread of its own."""
        thread = threading.Thread(target=self.run, name="fiscus-worker", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Let `run` return after the piece of work in hand."""
        self._stop.set()

    def step(self) -> float:
        """Do what is due now, if this process leads; seconds until the next is due.

        Raises nothing: a round that fails is tried again.
        """
        background = self._engine.background
        try:
            wait_seconds = self._round()
        except Exception as error:
            # whatever it was: nobody would notice that the rounds have come to an end
            log.exception("round_failed")
            background.trouble = f"its last round failed: {type(error).__name__}"
            return LEAD_SECONDS
        failing = ", ".join(sorted(self._failing))
        background.trouble = f"these failed and are tried again: {failing}" if failing else None
        return wait_seconds

    def _round(self) -> float:
        if not self._may_lead():
            self._failing.clear()  # whoever leads tries again, and tells
            return LEAD_SECONDS
        now = self._engine.clock.now()
        for job in self._jobs:
            # a clock that was set back must not put work off for longer than its interval
            if self._due.get(job.name, now) > now + timedelta(seconds=job.every_seconds):
                self._due[job.name] = now
            if self._due.get(job.name, now) <= now and self._goes_on():
                share = _Share(self._goes_on)
                self._run(job, now, share)
                goes_on_at_once = share.is_used_up and job.name not in self._failing
                pause_seconds = 0 if goes_on_at_once else job.every_seconds
                self._due[job.name] = now + timedelta(seconds=pause_seconds)
        soonest = min(self._due.get(job.name, now) for job in self._jobs)
        return max(0.0, (soonest - now).total_seconds())

    def _goes_on(self) -> bool:
        """Whether to begin on another piece of work: not when told to stop, nor when another leads.

        A round may last for hours, and who says nothing to the store for a minute leads no more.
        """
        if self._stop.is_set() or not self._leads:
            return False
        return time.monotonic() - self._asked_at < LEAD_SECONDS or self._may_lead()

    def _may_lead(self) -> bool:
        self._asked_at = time.monotonic()
        try:
            leads = self._engine.maintenance.try_lead()
        except FiscusError as error:
            log.warning("worker_cannot_lead", reason=error.message)
            leads = False
        if leads != self._leads:
            log.info("worker_leads" if leads else "worker_follows")
            self._due.clear()
        self._leads = leads
        return leads

    def _run(self, job: Job, now: datetime, goes_on: ShouldContinue) -> None:
        try:
            done = job.run(now, goes_on)
        except FiscusError as error:
            self._failing.add(job.name)
            log.warning("job_failed", job=job.name, reason=error.message)
        except Exception:
            # one job's fault must not keep the others from being done
            self._failing.add(job.name)
            log.exception("job_failed", job=job.name)
        else:
            self._failing.discard(job.name)
            if done:
                log.info("job_done", job=job.name, count=done)

    def _expire_reservations(self, now: datetime, goes_on: ShouldContinue) -> int:
        def expire(tenant_id: str) -> int:
            freed = 0
            # one command frees a limited number, so that it does not hold up the group it is in
            while goes_on() and (count := self._expire(tenant_id, now)):
                freed += count
            return freed

        tenants = self._engine.reservations.tenants_with_due(now)
        return for_each_tenant(tenants, expire, goes_on, self._expire_late)

    def _expire(self, tenant_id: str, now: datetime) -> int:
        outcome = answer_or_raise(self._engine.ledger.execute(Expire(tenant_id=tenant_id, now=now)))
        assert isinstance(outcome, Expired)
        return outcome.count

    def _prepare_partitions(self, _now: datetime, _goes_on: ShouldContinue) -> int:
        return len(self._engine.maintenance.prepare_partitions())

    def _drop_expired_answers(self, _now: datetime, goes_on: ShouldContinue) -> int:
        return self._engine.maintenance.drop_expired_answers(goes_on)

    def _drop_old_usage(self, now: datetime, goes_on: ShouldContinue) -> int:
        days = self._engine.settings.rate_limit_usage_days
        return self._engine.usage.drop_before(now - timedelta(days=days), goes_on)

    def _renew_quotas(self, now: datetime, goes_on: ShouldContinue) -> int:
        """Allocate next periods until none is due: after downtime, a next one may be due, too.

        Tenants whose rows could not be had before come last: a few whose locks are waited for take
        up the whole share of a round, and of each one after it.
        """
        failed: dict[str, FiscusError] = {}
        late = frozenset(self._renew_late)
        renewed = self._renew_but(late, failed, now, goes_on)
        if late:
            renewed += self._renew_but(frozenset(), failed, now, goes_on)
        raise_any(failed)
        return renewed

    def _renew_but(
        self,
        late: frozenset[str],
        failed: dict[str, FiscusError],
        now: datetime,
        goes_on: ShouldContinue,
    ) -> int:
        """Renew what is due of tenants that are neither `late` nor have `failed`."""
        quotas, tried, renewed = self._engine.quotas, set[DueRenewal](), 0
        while True:
            # what was left out is due all the same, and before the rest
            left_out = sum(one.tenant_id in failed or one.tenant_id in late for one in tried)
            found = quotas.due_renewals(now, RENEW_PORTION + left_out)
            due = [one for one in found if one not in tried]
            if not due:
                return renewed
            for one in due:
                if not goes_on():
                    return renewed
                tried.add(one)
                if one.tenant_id in failed or one.tenant_id in late:
                    continue
                try:
                    renewed += self._renew(one, now)
                except ServiceUnavailable as error:
                    # perhaps rows of this tenant are locked, for which the others are not to wait
                    failed[one.tenant_id] = error
                    self._renew_late.add(one.tenant_id)
                else:
                    self._renew_late.discard(one.tenant_id)

    def _renew(self, due: DueRenewal, now: datetime) -> bool:
        """Whether the next period was allocated; what fails is tried three times, then told."""
        try:
            return self._engine.quotas.renew(due.tenant_id, due.quota_id, now) is not None
        except ServiceUnavailable:
            raise  # the store's fault, not the quota's: that costs none of its tries
        except FiscusError as error:
            reason = error.message
        except Exception as error:  # noqa: BLE001 - one quota's fault must not hold up the others
            reason = repr(error)
        if self._engine.quotas.renewal_failed(due, reason, now):
            log.error(
                "quota_renewal_failed",
                tenant_id=due.tenant_id,
                quota_id=due.quota_id,
                reason=reason,
            )
        return False

    def _drop_quota_history(self, now: datetime, goes_on: ShouldContinue) -> int:
        days = self._engine.settings.quota_history_days
        return self._engine.quotas.drop_history_before(now - timedelta(days=days), goes_on)
