"""`fiscus worker`: the background work in a process of its own."""

from __future__ import annotations

from fiscus.cli.configuration import DataDir, read_settings
from fiscus.cli.terminal import CommandError
from fiscus.runtime.logs import configure_logs, get_logger

log = get_logger(__name__)


def worker(data_dir: DataDir = None) -> None:
    """Do the background work apart from the servers; of several workers, one leads. PostgreSQL."""
    import signal
    import threading

    from fiscus.cli.signals import leave, on_signals
    from fiscus.wiring.engine import open_engine
    from fiscus.worker import Worker

    settings = read_settings(data_dir=data_dir)
    if settings.resolved_database_url.startswith("sqlite"):
        raise CommandError(
            "on SQLite the background work is part of the server",
            suggested_action="run `fiscus serve`, or set FISCUS_DATABASE_URL to a PostgreSQL.",
        )
    configure_logs(settings.log_level)
    on_signals(leave)
    engine = open_engine(settings, migrates=False)
    rounds = Worker(engine)
    # in a thread, so that a signal ends the waiting here and lets the work in hand be finished
    thread = rounds.start()
    log.info("worker_started")
    try:
        leave.if_told()
        # A join that a signal interrupts would take the thread for ended (Python before 3.13).
        threading.Event().wait()
    finally:
        on_signals(signal.SIG_IGN)
        rounds.stop()
        thread.join()
        engine.close()
        log.info("worker_stopped")
