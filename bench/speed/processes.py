"""The processes of a run: the sandbox, the service, the reference, each on its own port of loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import requests

from bench.chaos.processes import ROOT, free_port

SECRET = "bench-webhook-secret"
START_SECONDS = 40.0
STOP_SECONDS = 20.0
STAGES = (61_000_102, 61_000_103, 61_000_104)  # as in config/mapping.yaml
THREADS = 32


_started: list[Process] = []


def kill_all() -> None:
    """End whatever was started here, also what failed on its way up."""
    for process in _started:
        process.kill()
    _started.clear()


class Process:
    """A process with a log, the leader of a group of its own, whose memory is watched."""

    def __init__(self, name: str, arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.peak = 0  # bytes of the largest single process of the group
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                (sys.executable, *arguments),
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _started.append(self)
        self._leader = psutil.Process(self._process.pid)

    def wait_for(self, url: str) -> None:
        """Wait until it answers; fail with the end of its log if it does not."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                if requests.get(url, timeout=5).ok:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not answer:\n{self.log()[-3000:]}")

    def log(self) -> str:
        """Return what it has written."""
        return self._log.read_text(errors="replace")

    def members(self) -> list[psutil.Process]:
        """Return its processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._leader, *self._leader.children(recursive=True)]
        return []

    def look(self) -> None:
        """Note its memory."""
        for member in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                self.peak = max(self.peak, member.memory_info().rss)

    def cpu_seconds(self) -> float:
        """Return how long its processes have used a processor."""
        used = 0.0
        for member in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                used += times.user + times.system
        return used

    def kill(self) -> None:
        """End it and all it has started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_SECONDS)


class Sandbox(Process):
    """`python -m sandbox`, by its levers."""

    def __init__(self, folder: Path) -> None:
        super().__init__("sandbox", ("-m", "sandbox", "--port", "0"), {}, folder)
        deadline = time.monotonic() + START_SECONDS
        while "Ctrl-C" not in self.log():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the sandbox does not start:\n{self.log()}")
            time.sleep(0.05)
        self.environment = dict(re.findall(r"^([A-Z_]+)=(.*)$", self.log(), re.MULTILINE))
        self._session = requests.Session()
        found = re.search(r"http://[\d.:]+", self.log())
        assert found
        self.url = found[0]

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Pull a lever."""
        answer = self._session.request(method, self.url + path, json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def start_over(self, *, deals: int, latency: float, rate: float) -> dict[int, str]:
        """Forget everything; `rate`: Kommo's limit, 0 = none. Return the emails of so many new deals, by deal."""
        self.ask("POST", "/reset", {})
        crowd = self.ask("POST", "/kommo/crowd", {"count": deals, "status_id": STAGES[0]})
        self.ask("POST", "/kommo/switches", {"rate": rate})
        self.ask("POST", "/latency", dict.fromkeys(("kommo", "encharge", "ingest", "ortto"), latency))
        return {int(deal): email for deal, email in crowd.items()}


class Server(Process):
    """What is measured: it takes webhooks."""

    def __init__(
        self, name: str, arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path, port: int
    ) -> None:
        self.target = f"127.0.0.1:{port}"
        super().__init__(name, arguments, {**environment, "HOST": "127.0.0.1", "PORT": str(port)}, folder)


def service(sandbox: Sandbox, folder: Path, name: str, database: str, *, limit: bool, **more: str) -> Server:
    """Start the service as it is shipped; without `limit`, it does not keep Kommo's."""
    variables = {
        **sandbox.environment,
        **{f"{vendor}_WEBHOOK_SECRET": SECRET for vendor in ("KOMMO", "ENCHARGE", "ORTTO")},
        "DATABASE_URL": database,
        "WEB_THREADS": str(THREADS),
        # The load generator tells of moves that the sandbox's log knows nothing of, and that log of deals that were
        # only made to be moved: what the service found in it would be delivered in place of what is measured.
        "RECONCILE_MINUTES": "0",
        **more,
    }
    module = "gunicorn" if limit else "bench.speed.launch"
    arguments = ("-m", module, "-c", "config/gunicorn.conf.py", "wsgi:app")
    return Server(name, arguments, variables, folder, free_port())


def reference(sandbox: Sandbox, folder: Path, name: str, *, limit: bool) -> Server:
    """Start the reference under the same server with the same threads."""
    variables = {
        **sandbox.environment,
        "KOMMO_WEBHOOK_SECRET": SECRET,
        "WEB_THREADS": str(THREADS),
        "REFERENCE_LIMIT": "7" if limit else "0",
    }
    port = free_port()
    arguments = ("-m", "gunicorn", "--worker-class", "gthread", "--threads", str(THREADS), "--keep-alive", "75")
    # Its clients wait as long as it takes.
    arguments += ("--timeout", "300", "--no-control-socket", "-b", f"127.0.0.1:{port}", "bench.speed.reference:app")
    return Server(name, arguments, variables, folder, port)


class Watch:
    """Notes the memory of processes, several times a second."""

    def __init__(self) -> None:
        self.watched: list[Process] = []
        threading.Thread(target=self._look_on, daemon=True).start()

    def _look_on(self) -> None:
        while True:
            time.sleep(0.25)
            for process in list(self.watched):
                process.look()
