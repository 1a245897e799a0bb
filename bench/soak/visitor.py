"""Who else looks at a service: Prometheus, the probes of an orchestrator, and now and then a person."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import requests

from bench.chaos.processes import Process
from bench.soak.watch import Downs

TOKEN = "soak-ops-token-0123456789"
PATIENCE_SECONDS = 30.0
NUMBER = re.compile(r"/\d+$")
WAITING = re.compile(r"^kommo_relay_jobs_waiting\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


class Visitor(threading.Thread):
    """Asks each replica in turn for its health, its numbers and its pages; notes what is not answered 200."""

    def __init__(
        self, replicas: Sequence[Process], downs: Downs, seed: int, known: Callable[[], int], every: float
    ) -> None:
        """`known` gives the id of an event that was acknowledged, 0: none yet. `every`: seconds between visits."""
        super().__init__(daemon=True)
        self.visits: Counter[str] = Counter()
        self.failures: list[str] = []
        self.queue: list[int] = []  # jobs that are owed, as each scrape tells
        self._replicas = replicas
        self._downs = downs
        self._random = random.Random(f"visitor {seed}")
        self._known = known
        self._every = every
        self._over = threading.Event()

    def run(self) -> None:
        """Go round until ended."""
        while not self._over.wait(self._every):
            for replica in self._replicas:
                self._visit(replica, "/healthz")
                self._visit(replica, "/readyz")
                numbers = self._visit(replica, "/metrics")
                if numbers:
                    self.queue.append(round(sum(map(float, WAITING.findall(numbers)))))
            self._visit(self._random.choice(self._replicas), self._page())

    def end(self) -> None:
        """Stop going round."""
        self._over.set()
        if self.is_alive():
            self.join()

    def _page(self) -> str:
        """Return what a person would look at: mostly how it stands, else a search or the story of an event."""
        event = self._known()
        return self._random.choice(
            (
                "/ops",
                "/ops/now",
                "/ops/now",
                "/ops?state=pending",
                f"/ops?q=person{self._random.randrange(200):03d}@chaos.example",
                f"/ops/events/{event}" if event else "/ops",
            )
        )

    def _visit(self, replica: Process, path: str) -> str:
        began = time.monotonic()
        status, text = 0, ""
        try:
            answer = requests.get(
                replica.url + path, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE_SECONDS
            )
            status, text = answer.status_code, answer.text
        except requests.RequestException as error:
            text = str(error)
        if status == 200:
            self.visits[NUMBER.sub("/…", path.partition("?")[0])] += 1
            return text
        if not self._downs.excuse(replica.name, began, time.monotonic()):
            self.failures.append(f"{replica.name}: GET {path} got {status}: {text[:300]}")
        return ""
