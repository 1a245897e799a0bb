"""A service process, and waiting for something to become true."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from sandbox.courier import Target
from sandbox.town import Town

ROOT = Path(__file__).parent.parent
SECRET = "test-secret-0123456789"
GENEROUS_SECONDS = 30.0


def environment(town: Town, folder: Path) -> dict[str, str]:
    """Return the settings of a service that talks to the town."""
    return {
        **town.environment(),
        "KOMMO_WEBHOOK_SECRET": SECRET,
        "ENCHARGE_WEBHOOK_SECRET": SECRET,
        "ORTTO_WEBHOOK_SECRET": SECRET,
        "KOMMO_CF_EMAIL_ACTIVITY": "800110",
        "KOMMO_CF_EMAIL_STATUS": "800111",
        "DATABASE_URL": f"sqlite:///{folder / 'journal.db'}",
        "MAPPING_FILE": str(ROOT / "config" / "mapping.yaml"),
        "LOG_LEVEL": "INFO",
    }


def eventually(true: Callable[[], Any], seconds: float = GENEROUS_SECONDS) -> Any:
    """Wait until something is true and return it; fail if it does not become so."""
    deadline = time.monotonic() + seconds
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds} s")
        time.sleep(0.05)


class Service:
    """The service as a process of its own under gunicorn, on a free port of loopback."""

    def __init__(self, variables: dict[str, str], log: Path, command: tuple[str, ...] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._output = log.open("wb")
        self.process = subprocess.Popen(
            command or (sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.conf.py", "wsgi:app"),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(port), **variables},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        self._session = requests.Session()

    def wait_until_ready(self) -> None:
        """Wait until it answers, or fail with its log."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log()}")
            try:
                return self._session.get(f"{self.url}/readyz", timeout=5).ok
            except requests.ConnectionError:
                return False

        eventually(ready)

    def post(self, route: str, body: bytes, content_type: str, **headers: str) -> requests.Response:
        """Post a webhook with the secret, on a connection of its own."""
        return requests.post(
            f"{self.url}/webhooks/{route}",
            data=body,
            headers={"Content-Type": content_type, "X-Webhook-Secret": SECRET, **headers},
            timeout=30,
        )

    def connect(self, town: Town) -> None:
        """Have the town's vendors send their webhooks here."""
        town.kommo.hook(f"{self.url}/webhooks/kommo/{SECRET}")
        town.encharge.target = Target(f"{self.url}/webhooks/encharge?secret={SECRET}")
        town.ortto.target = Target(f"{self.url}/webhooks/ortto", {"X-Webhook-Secret": SECRET})

    def log(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """End it as a power cut would: master and workers at once."""
        subprocess.run(["pkill", "-KILL", "-P", str(self.process.pid)], check=False)
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to stop and wait for it."""
        self._session.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.kill()
        self._output.close()
