"""How long the work of a dead or frozen process lies around until another takes it over."""

from __future__ import annotations

import threading
import time

from bench.chaos.processes import Database, is_at_work

LOOK_SECONDS = 0.25
HELD = "SELECT id, owner FROM jobs WHERE state = 'pending' AND owner IS NOT NULL"


class TakeoverWatch(threading.Thread):
    """Measures how long each job of a process that is not at work stays its own, by looking at the journal."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self.count = 0
        self._database = database
        self._orphans: dict[int, tuple[str, float]] = {}  # by job: owner, and since when it is not at work
        self._over = threading.Event()

    def run(self) -> None:
        """Look until ended."""
        while not self._over.wait(LOOK_SECONDS):
            try:
                held = {int(job): str(owner) for job, owner in self._database.rows(HELD)}
            except OSError:
                continue  # the database has its own troubles
            self._compare(held, time.monotonic())

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
        if self.is_alive():
            self.join()

    def held_by(self, pids: set[int]) -> set[int]:
        """Return the jobs that processes hold now. Raises OSError."""
        return {int(job) for job, owner in self._database.rows(HELD) if _pid(str(owner)) in pids}

    def _compare(self, held: dict[int, str], now: float) -> None:
        idle = {owner for owner in held.values() if not is_at_work(_pid(owner))}
        for job, (owner, since) in list(self._orphans.items()):
            if held.get(job) == owner and owner in idle:
                continue
            del self._orphans[job]
            if held.get(job) != owner and not is_at_work(_pid(owner)):  # not thawed and gone on by itself
                self.count += 1
                self.longest = max(self.longest, now - since)
        for job, owner in held.items():
            if owner in idle:
                self._orphans.setdefault(job, (owner, now))


def _pid(owner: str) -> int:
    """Return the process id in a job's owner, `host:pid:random`."""
    return int(owner.split(":")[1])
