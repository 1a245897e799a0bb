"""Processes of the service that start at once: forked from one that has imported everything already.

To import the service takes a second of a processor, and the tests start some hundreds of its processes. What is
forked here is a real process all the same: `python -m …` and `python -c …` run in it as in a fresh one. That a
fresh one starts is held by the tests that use `subprocess`: the image, the demo, the walk through the docs, others.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
IMPORTED = (
    "alembic.command",
    "app",
    "flask.cli",
    "gunicorn.app.wsgiapp",
    "gunicorn.workers.gthread",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
)
"""What a process of the service imports before it does anything; none of it reads the environment."""
LENGTH = 4  # bytes of a number on the way to the nursery and back

# -- for tests ---------------------------------------------------------------------------------------------------


class Process:
    """A process from the nursery; what it has of subprocess.Popen works as there."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: IO[Any] | None = None,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> None:
        """`command` is one of this Python; files not given are /dev/null.

        `constants`: what has another value there, by its full name.
        """
        python, *arguments = command
        assert python == sys.executable, f"no {python} here"
        self.returncode: int | None = None
        order = Order(arguments, str(cwd), dict(env), dict(constants or {}))
        self._end, told = os.pipe()
        with Path(os.devnull).open("r+b") as nothing:
            files = [(file or nothing).fileno() for file in (stdin, stdout, stderr)]
            self.pid = _nursery().bear(order, [*files, told])
        os.close(told)

    def poll(self) -> int | None:
        """Return how it ended, None if it has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return how."""
        if self.returncode is None:
            end = select.poll()
            end.register(self._end)
            if not end.poll(None if timeout is None else 1000 * timeout):
                raise subprocess.TimeoutExpired("a process of the nursery", timeout or 0.0)
            told = os.read(self._end, LENGTH)
            assert told, "the nursery is gone"
            self.returncode = _number(told)
            os.close(self._end)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], answer: str = "", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as subprocess.run does when it captures text; `answer`: what is typed."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(answer.encode())
        given.seek(0)
        process = Process(command, cwd=cwd, env=env, stdin=given, stdout=out, stderr=err)
        try:
            process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, process.wait(), _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


# -- the way there -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """What a process is to be."""

    arguments: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    constants: Mapping[str, float]


class Nursery:
    """The process that forks, as seen by who gives it orders."""

    def __init__(self) -> None:
        self._way, other = socket.socketpair()
        self._lock = threading.Lock()
        with other:
            self._process = subprocess.Popen(
                (sys.executable, __file__, str(other.fileno())),
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
            )

    def bear(self, order: Order, files: Sequence[int]) -> int:
        """Have a process made; return its id. `files`: its first three, and where to tell how it ended."""
        words = json.dumps(vars(order)).encode()
        with self._lock:
            socket.send_fds(self._way, [len(words).to_bytes(LENGTH)], files)
            self._way.sendall(words)
            return _number(_receive(self._way, LENGTH))

    def close(self) -> None:
        """Let it end."""
        self._way.close()
        self._process.wait()


@cache
def _nursery() -> Nursery:
    made = Nursery()
    atexit.register(made.close)
    return made


def _receive(way: socket.socket, length: int) -> bytes:
    found = way.recv(length, socket.MSG_WAITALL)
    if len(found) < length:
        raise EOFError("the nursery is gone")
    return found


def _number(written: bytes) -> int:
    return int.from_bytes(written, signed=True)


# -- in the nursery ----------------------------------------------------------------------------------------------


def serve(way: socket.socket) -> tuple[Order, list[int]]:
    """Fork for each order; return in the children only, with what the child is to be, and its files."""
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that the line above is heeded
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    ends: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([way, woken], [], [])
        if woken in ready:
            woken.recv(1000)
            _tell_who_ended(ends)
        if way not in ready:
            continue
        head, files, _, _ = socket.recv_fds(way, LENGTH, 4)
        if not head:  # the tests are over
            sys.exit()
        order = Order(**json.loads(_receive(way, _number(head))))
        pid = os.fork()
        if not pid:
            return order, files
        ends[pid] = files.pop()
        for file in files:
            os.close(file)
        way.sendall(pid.to_bytes(LENGTH))


def _tell_who_ended(ends: dict[int, int]) -> None:
    while ends:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        end = ends.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody wants to know
            os.write(end, os.waitstatus_to_exitcode(status).to_bytes(LENGTH, signed=True))
        os.close(end)


def become(order: Order, files: Sequence[int], paths: Sequence[str]) -> None:
    """Be a Python that was started with these arguments."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(order.cwd)
    os.environ.clear()
    os.environ.update(order.env)
    time.tzset()
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in order.env
    sys.path[:] = [order.cwd, *filter(None, order.env.get("PYTHONPATH", "").split(os.pathsep)), *paths]
    for name, value in order.constants.items():
        place, _, constant = name.rpartition(".")
        module = importlib.import_module(place)
        assert hasattr(module, constant), name
        setattr(module, constant, value)
    how, what, *arguments = order.arguments
    sys.argv = [how, *arguments]
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    assert how == "-c"
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), vars(main))  # noqa: S102 - that is what -c is for


if __name__ == "__main__":
    usual = [path for path in sys.path if path not in (str(ROOT), str(Path(__file__).parent))]
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # its pages stay shared with the children
    become(*serve(socket.socket(fileno=int(sys.argv[1]))), usual)
