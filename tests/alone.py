"""Workers that run tests side by side, and tests that want the machine for themselves."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait for a turn among all who name the same folder: alone, or with others who do not mind each other."""
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (folder / "gate.lock").open("w") as gate, (folder / "room.lock").open("w") as room:
        # Who waits to be alone waits inside the gate, so that nobody who comes later overtakes.
        fcntl.flock(gate, how)
        fcntl.flock(room, how)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
