"""Workers that run tests side by side, and tests that want the machine for themselves."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_kept: list[ExitStack] = []
"""The locks of a worker that has been alone and goes on so."""


@contextmanager
def turn(folder: Path, *, alone: bool, go_on: bool) -> Iterator[None]:
    """Wait for a turn among all who name the same folder: alone, or with others who do not mind each other.

    `go_on`: the next turn is to be alone too. Others are not let in between: one would have to wait for them again.
    """
    locks = _kept.pop() if _kept else _lock(folder, alone=alone)
    with locks:
        yield
        if alone and go_on:
            _kept.append(locks.pop_all())


def _lock(folder: Path, *, alone: bool) -> ExitStack:
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with ExitStack() as locks, (folder / "gate.lock").open("w") as gate:
        room = locks.enter_context((folder / "room.lock").open("w"))
        # Who waits to be alone waits inside the gate, so that nobody who comes later overtakes.
        fcntl.flock(gate, how)
        fcntl.flock(room, how)
        return locks.pop_all()
