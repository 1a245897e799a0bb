"""Restarts of one part of the service, as deployments, crashes and the want of memory bring them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from bench.chaos.processes import Process
from bench.chaos.weather import Tally
from bench.soak.watch import Downs

STOP, KILL, KILL_WORKER = "SIGTERM", "kill -9", "kill -9 of the worker process only"


class Restarts(threading.Thread):
    """Stops or kills one of the victims every now and then and starts it again, until it is ended."""

    def __init__(
        self,
        victims: Sequence[Process],
        start: Callable[[Process], None],
        downs: Downs,
        tally: Tally,
        seed: int,
        pause: tuple[float, float],
    ) -> None:
        """`pause`: seconds from one restart to the next, at least and at most."""
        super().__init__(daemon=True)
        self.failure = ""
        self._victims = victims
        self._start = start
        self._downs = downs
        self._tally = tally
        self._random = random.Random(f"restarts {seed}")
        self._pause = pause
        self._ways: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        """Wait, restart, and so on."""
        while not self._over.wait(self._random.uniform(*self._pause)):
            victim = self._random.choice(self._victims)
            self._downs.begin(victim.name)
            try:
                self._restart(victim)
                victim.wait_until_it_answers()
            except RuntimeError as error:
                self.failure = str(error)
                return
            self._downs.end(victim.name)

    def end(self) -> None:
        """Restart nothing any more; one that is under way is brought to its end."""
        self._over.set()
        if self.is_alive():
            self.join()

    def _restart(self, victim: Process) -> None:
        if not self._ways:  # each as often as the others
            self._ways = self._random.sample((STOP, KILL, KILL_WORKER), 3)
        way = self._ways.pop()
        if way == KILL_WORKER and not (victim.url and victim.kill_worker()):
            way = KILL  # `flask work` has no other process
        if way == KILL_WORKER:
            self._tally.kills[way] += 1
            return
        if way == KILL:
            victim.kill()
            self._tally.kills[way] += 1
        else:
            victim.stop()
            self._tally.faults[f"stopped with {way}"] += 1
        self._start(victim)
