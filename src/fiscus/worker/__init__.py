"""The background worker: rounds that free, prepare and tidy, run by one leader at a time."""

from fiscus.worker.rounds import Worker

__all__ = ["Worker"]
