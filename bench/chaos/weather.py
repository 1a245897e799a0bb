"""What goes wrong, drawn from a seed: at the vendors, with the processes, the database and the clock."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos.processes import Database, Postgresql, Process, Sqlite
from bench.chaos.saboteur import CLOCK, DISK, write_order
from sandbox.town import Town
from sandbox.vendor import Vendor

# The journal's named writes, each with both of its sides. `release` is reached by SIGTERM only.
COMMITS = (
    "record",
    "claim",
    "write_steps",
    "settle",
    "claim_cooldown",
    "let_go",
    "renew",
    "pause",
    "hurry",
    "release",
)
POINTS = tuple((name, when) for name in COMMITS for when in ("before", "after"))
REACH_SECONDS = 4.0  # how long the processes may take to reach the commit at which one is to die
AN_HOUR = 3600

# Some commits come only when something is wrong: what to do to Ortto, and for how long.
PROVOCATIONS: Mapping[str, tuple[float, dict[str, object]]] = {
    "renew": (3.0, {"seconds": 0.9}),  # slow batches
    "pause": (1.0, {"status": 500}),
    "hurry": (7.0, {"status": 500}),  # an outage of several attempts, and its end
}


@dataclass
class Tally:
    """What was done to the service."""

    kills: Counter[str] = field(default_factory=Counter)  # by commit point, or how else
    faults: Counter[str] = field(default_factory=Counter)  # by kind: calls hit, or times
    unanswered_events: int = 0  # calls to Encharge's ingest that took effect and got no answer


# -- the vendors ---------------------------------------------------------------------------------------------------


def vendor_faults(late: float) -> Mapping[str, dict[str, object]]:
    """Return what vendors do to us; a `late` answer comes just after we have given up waiting for it."""
    return {
        "500, nothing done": {"status": 500},
        "500, but done": {"status": 500, "after": True},
        # Not the vendors' own bodies: Kommo's asks for five minutes, and would get them.
        "429": {"status": 429, "body": "Too Many Requests", "headers": {"Retry-After": "1"}},
        "dropped, nothing done": {"drop": True},
        "dropped, but done": {"drop": True, "after": True},
        "time-out, but done": {"seconds": late, "after": True},
    }


class VendorWeather(threading.Thread):
    """Lets vendors misbehave, one fault after the other, until it is ended."""

    def __init__(
        self,
        town: Town,
        tally: Tally,
        seed: int,
        faults: Mapping[str, dict[str, object]],
        *,
        lasts: tuple[float, float] = (0.3, 2.5),
        pause: tuple[float, float] = (0.2, 2.0),
        times: Sequence[int] = (1, 2, 5, 20),
    ) -> None:
        """`lasts`: seconds of one fault, from and to; `pause`: until the next. `times`: calls it hits at most."""
        super().__init__(daemon=True)
        self.calm = threading.Event()  # set: no new faults
        self._lasts = lasts
        self._pause = pause
        self._times = times
        self._town = town
        self._tally = tally
        self._random = random.Random(f"vendors {seed}")
        self._faults = faults
        self._over = threading.Event()

    def run(self) -> None:
        """Draw a vendor and a fault, let it last, take it away, and have a pause."""
        while not self._over.is_set():
            if not self.calm.is_set():
                self._spoil(self._random.choice(list(self._town.vendors.values())))
            self._over.wait(self._random.uniform(*self._pause))

    def end(self) -> None:
        """Take all faults away, for good."""
        self._over.set()
        if self.is_alive():
            self.join()

    def _spoil(self, vendor: Vendor) -> None:
        kind = self._random.choice(list(self._faults))
        times = self._random.choice(self._times)
        # Only a write can have been done: most of Kommo's calls are reads.
        method = (
            self._random.choice(("POST", "POST", "PATCH")) if vendor.name == "kommo" and "but done" in kind else ""
        )
        fault = vendor.faults.add(times=times, method=method, **self._faults[kind])
        self._over.wait(self._random.uniform(*self._lasts))
        vendor.faults.clear()
        hits = times - max(0, fault.times or 0)
        if hits:
            self._tally.faults[f"{vendor.name}: {kind}"] += hits
        if vendor.name == "ingest" and "but done" in kind:
            self._tally.unanswered_events += hits


# -- processes, database, clock ------------------------------------------------------------------------------------


class Troubles:
    """What happens to the machine: each method is one trouble, from its beginning to its end."""

    def __init__(
        self,
        town: Town,
        processes: Sequence[Process],
        database: Database,
        shared: Path,
        start: Callable[[Process], None],
        tally: Tally,
        seed: int,
        lease: float,
    ) -> None:
        self._town = town
        self._processes = processes
        self._database = database
        self._shared = shared
        self._start = start
        self._tally = tally
        self._random = random.Random(f"troubles {seed}")
        self._lease = lease
        self._points: list[tuple[str, str]] = []
        self._orders = 0

    def all(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """Return the troubles by name, with how often they are drawn."""
        return {
            "commit": (10, self.kill_at_commit),
            "kill": (4, self.kill_at_random),
            "power": (1, self.cut_power),
            "restart": (1, self.restart),
            "freeze": (2, self.freeze),
            "clock": (1, self.set_clock),
            "database": (3, self.spoil_database),
        }

    # -- deaths --

    def kill_at_commit(self) -> None:
        """Let the first process die that comes to the next commit point of the list."""
        if not self._points:
            self._points = self._random.sample(POINTS, len(POINTS))
        name, when = self._points.pop()
        which = 1 if name in PROVOCATIONS or name == "release" else self._random.choice((1, 1, 2, 5))
        scope = self._random.choice(("group", "worker"))
        self._orders += 1
        # Only a process that is stopped lets go of what it holds.
        victims = [self._random.choice(self._processes)] if name == "release" else self._processes
        for victim in victims:
            write_order(victim.order, f"{name} {when} {which} {scope} {self._orders}")
        if name == "release":
            threading.Thread(target=victims[0].stop, daemon=True).start()
        dead = self._wait_for_a_death(victims, name)
        if dead:
            self._tally.kills[f"{when} {name}"] += len(dead)
        else:
            self._tally.faults[f"{when} {name}: not reached"] += 1
        for victim in victims:
            self._revive(victim)

    def _wait_for_a_death(self, victims: Sequence[Process], name: str) -> list[Process]:
        """Return those that have died, as soon as there is one."""
        seconds, fault = PROVOCATIONS.get(name, (0.0, {}))
        provoked = self._town.ortto.faults.add(**fault) if fault else None
        began = time.monotonic()
        while not any(victim.has_died_as_ordered() for victim in victims):
            passed = time.monotonic() - began
            if provoked and passed > seconds:
                self._town.ortto.faults.clear()
                provoked = None
            if passed > seconds + REACH_SECONDS:
                break
            time.sleep(0.02)
        self._town.ortto.faults.clear()
        for victim in victims:
            write_order(victim.order, "")
        return [victim for victim in victims if victim.forget_death()]

    def kill_at_random(self) -> None:
        """Kill a process, or only the part of it that does the work, at some moment."""
        victim = self._random.choice(self._processes)
        time.sleep(self._random.uniform(0, 0.5))
        if self._random.random() < 0.4 and victim.kill_worker():
            self._tally.kills["at random, worker only"] += 1
            return
        victim.kill()
        self._tally.kills["at random"] += 1
        self._revive(victim)

    def cut_power(self) -> None:
        """Kill everything at once."""
        for process in self._processes:
            process.kill()
            self._tally.kills["all at once"] += 1
        for process in self._processes:
            self._revive(process)

    def restart(self) -> None:
        """Stop a process as a deployment does, and start it again."""
        victim = self._random.choice(self._processes)
        victim.stop()
        self._tally.faults["stopped with SIGTERM"] += 1
        self._revive(victim)

    def _revive(self, process: Process) -> None:
        if not process.alive:
            time.sleep(self._random.choice((0, 0.3, 1.5)))
            self._start(process)

    # -- worse than death --

    def freeze(self) -> None:
        """Stop a process until its leases are long over, and let it go on as if nothing had been."""
        victim = self._random.choice(self._processes)
        victim.freeze()
        self._tally.faults["frozen"] += 1
        time.sleep(self._lease + self._random.uniform(0.5, 2.5))
        victim.thaw()

    def set_clock(self) -> None:
        """Let the clock jump an hour, forwards or back, and back again."""
        offset = self._random.choice((AN_HOUR, -AN_HOUR))
        with self._order(CLOCK, str(offset)):
            time.sleep(self._random.uniform(1.0, 4.0))
        time.sleep(self._lease)  # every process has seen it, and looked again
        self._tally.faults[f"clock {offset:+d} s and back"] += 1

    def spoil_database(self) -> None:
        """Let the database be down, full, read-only or locked for a while."""
        if isinstance(self._database, Postgresql):
            mode = self._random.choice(("fast", "immediate"))
            self._database.stop_server(mode)
            time.sleep(self._random.uniform(0.2, 3.0))
            self._database.start_server()
            self._tally.faults[f"PostgreSQL stopped ({mode})"] += 1
        elif isinstance(self._database, Sqlite):
            mode = self._random.choice(("full", "read-only", "locked"))
            with self._database.locked() if mode == "locked" else self._order(DISK, mode):
                time.sleep(self._random.uniform(0.5, 7.0 if mode == "locked" else 3.0))
            self._tally.faults[f"SQLite {mode}"] += 1

    @contextlib.contextmanager
    def _order(self, name: str, text: str) -> Iterator[None]:
        write_order(self._shared / name, text)
        try:
            yield
        finally:
            write_order(self._shared / name, "")
