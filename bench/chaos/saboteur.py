"""Inside a service process: what makes it die at a commit, see another time, and have a bad disk.

It patches the app from outside, before any of it is made, and is told by files what to do. CHAOS_FOLDER names the
process's own folder, CHAOS_SHARED the one of all processes, CHAOS_SECONDS (JSON) the times that are made shorter.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

KILL, CLOCK, DISK = "kill", "clock", "disk"  # names of the files with orders
DONE = ".done"  # its suffix once it is carried out
LOOK_SECONDS = 0.1  # how often the clock's file is looked at
NO_LIMIT = 4_294_967_294  # pages of an SQLite file at most

DISKS = {
    # No page more than there are: SQLITE_FULL, as from a disk that is full.
    "full": ("PRAGMA max_page_count = 1",),
    # SQLITE_READONLY, as from a file that may not be written.
    "read-only": ("PRAGMA query_only = ON",),
    "": (f"PRAGMA max_page_count = {NO_LIMIT}", "PRAGMA query_only = OFF"),
}


def arm() -> None:
    """Put all patches in place; must run before anything of the app is made."""
    own, shared = Path(os.environ["CHAOS_FOLDER"]), Path(os.environ["CHAOS_SHARED"])
    _bend_clock(shared / CLOCK)
    _shorten(json.loads(os.environ["CHAOS_SECONDS"]))
    _watch_commits(own / KILL)
    _spoil_disk(shared / DISK)


def write_order(file: Path, text: str) -> None:
    """Write an order so that nobody reads half of it; an empty one takes it back."""
    if not text:
        file.unlink(missing_ok=True)
        return
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(file)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


# -- time ----------------------------------------------------------------------------------------------------------


def _bend_clock(file: Path) -> None:
    """Let `time.time` be off by as many seconds as the file says; monotonic time stays, as in real life."""
    straight = time.time
    offset, look_at = 0.0, 0.0

    def bent() -> float:
        nonlocal offset, look_at
        now = time.monotonic()
        if now >= look_at:
            look_at = now + LOOK_SECONDS
            offset = float(_read(file) or 0)
        return straight() + offset

    time.time = bent


def _shorten(seconds: dict[str, float]) -> None:
    """Replace the app's times with shorter ones, so that many take-overs and retries fit into a run."""
    from app import dispatcher, retry
    from app.clients.http import Http
    from app.journal import store

    places = {
        "lease": ((store, "LEASE_SECONDS"),),
        "renew": ((dispatcher, "RENEW_SECONDS"),),
        "backoff": ((retry, "LONGEST_SECONDS"),),
        "pause": ((retry, "LONGEST_PAUSE_SECONDS"),),
        "locked out": ((retry, "LOCKED_OUT_SECONDS"), (dispatcher, "LOCKED_OUT_SECONDS")),
    }
    for name, constants in places.items():
        for module, constant in constants if name in seconds else ():
            _ = getattr(module, constant)  # a constant that the app no longer has must not pass in silence
            setattr(module, constant, seconds[name])
    defaults = Http.__init__.__kwdefaults__
    if not defaults or "read_seconds" not in defaults:
        raise AttributeError("app.clients.http.Http takes no read_seconds any more: mend bench/chaos/saboteur.py")
    defaults["read_seconds"] = seconds.get("read", defaults["read_seconds"])


# -- death at a commit ---------------------------------------------------------------------------------------------


def _watch_commits(file: Path) -> None:
    """Die at the commit that the file names: `<name> <before|after> <which of them> <group|worker> <number>`.

    `before`: the transaction's work is done and not committed. `after`: it is committed, and nobody was told.
    """
    from app.journal.writer import Writer

    commit = Writer._commit
    seen: dict[str, int] = {}

    def watched(self: Writer, group: list[Any]) -> None:
        order = _read(file)
        if order:
            name, when, which, scope, _ = order.split()
            if any(write.name == name for write in group):
                seen[order] = seen.get(order, 0) + 1
                if seen[order] >= int(which):
                    _mine(group, when, lambda: _die(file, scope))
        commit(self, group)

    Writer._commit = watched  # type: ignore[method-assign]


def _mine(group: list[Any], when: str, die: Callable[[], None]) -> None:
    """Make a group of writes deadly."""
    if when == "before":
        last = group[-1]
        work = last.work

        def work_and_die(connection: Connection, items: Sequence[Any]) -> None:
            work(connection, items)
            die()

        for write in group:
            if write is last or (write.together and write.name == last.name):  # whichever of them does it for all
                write.work = work_and_die
    else:
        for write in group:
            write.committed = lambda result: die()


def _die(file: Path, scope: str) -> None:
    """Die as by a power cut, the gunicorn master too (`group`) or not (`worker`). The order is used up first."""
    file.rename(file.with_suffix(DONE))
    if scope == "group" and os.getpgrp() in (os.getpid(), os.getppid()):
        os.killpg(os.getpgrp(), signal.SIGKILL)  # the service's own: each is started as the leader of one
    os.kill(os.getpid(), signal.SIGKILL)


# -- a bad disk ----------------------------------------------------------------------------------------------------


def _spoil_disk(file: Path) -> None:
    """Let SQLite's writing connection meet a disk that is full or read-only, while the file says so."""
    from app.journal import schema

    open_engines = schema.open_engines

    def opened(url: str) -> tuple[Engine, Engine]:
        writer, reader = open_engines(url)
        if writer.dialect.name == "sqlite":
            event.listen(writer, "checkout", spoil)
        return writer, reader

    def spoil(connection: Any, record: Any, _: object) -> None:
        mode = _read(file)
        if record.info.get(DISK, "") != mode:
            record.info[DISK] = mode
            for pragma in DISKS[mode]:
                connection.execute(pragma)

    schema.open_engines = opened
