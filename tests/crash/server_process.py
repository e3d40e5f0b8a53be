"""A real `fiscus serve`, which may be killed at any moment and started again where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port

ADMIN_KEY = "crash-tests-admin-key-0123456789"
TENANT = "default"
WAIT_SECONDS = 60


class ServerProcess:
    """The server on a free port; `close` ends it."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **{name: value for name, value in os.environ.items() if "FISCUS" not in name},
            "FISCUS_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
            "FISCUS_DATABASE_URL": database_url,
        }

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fiscus", "serve", "--port", str(self.port)),
                    *("--data-dir", str(self._folder / "data")),
                ],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)  # for another process, whose clock is the real one

    def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(WAIT_SECONDS)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(WAIT_SECONDS)

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"{self.base}/budget/v1",
            headers={"X-API-Key": ADMIN_KEY},
            timeout=15,
            trust_env=False,
        )

    def budget(self, amount: object, **fields: Any) -> str:
        """The id of a new budget of the project `p`."""
        body = {
            "budget_name": "B",
            "budget_amount": amount,
            "period_type": "yearly",
            "allocated_to_type": "project",
            "allocated_to_id": "p",
            **fields,
        }
        with self.client() as client:
            answer = client.post("/budgets", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()["budget_id"]

    def quota(self, amount: object, **fields: Any) -> str:
        """The id of a new quota of the project `p` for this month."""
        body = {
            "resource_type": "llm",
            "allocated_amount": amount,
            "scope_type": "project",
            "scope_id": "p",
            **fields,
        }
        with self.client() as client:
            answer = client.post("/quotas", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()["quota_id"]

    def log(self) -> str:
        return (self._folder / "server.log").read_text(errors="replace")[-4000:]

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.base}/health/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False
