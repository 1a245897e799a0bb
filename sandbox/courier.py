"""Delivers the vendors' webhooks: in time, with their retries, and as badly as the switches say."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests

DELIVERIES_KEPT = 20_000


@dataclass
class Target:
    """Where a vendor's webhooks go. `headers` are those that the user set at the vendor."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Delivery:
    """One attempt to deliver one webhook. `status` 0 = no answer in time."""

    at: float
    vendor: str
    kind: str
    url: str
    attempt: int
    status: int
    milliseconds: float
    answer: Any


@dataclass
class Switches:
    """How badly webhooks are delivered."""

    duplicates: int = 0
    """How many times more each webhook is sent, at once."""
    reorder: int = 0
    """Webhooks are held back until this many wait, then sent in random order."""
    delay_seconds: float = 0.0
    lost: int = 0
    """How many of the next webhooks vanish."""
    retry_scale: float = 0.0
    """Factor on the vendor's retry intervals; 0 = no retries."""


class Courier:
    """Sends webhooks from a pool of threads and keeps a log of every attempt.

    `retries` given with a webhook are the vendor's intervals in seconds between attempts, by the status of the
    failed one: a function from status (0 = no answer) to a tuple of waits; the n-th wait follows the n-th failure.
    `on_result` hears the status of every attempt (Kommo counts the bad ones).
    """

    def __init__(self, threads: int = 64, seed: int = 1) -> None:
        self.switches = Switches()
        self.deliveries: deque[Delivery] = deque(maxlen=DELIVERIES_KEPT)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="courier")
        self._random = random.Random(seed)
        self._held: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._local = threading.local()
        self._open = 0
        self._idle = threading.Condition()
        self._stopped = threading.Event()

    def send(
        self,
        vendor: str,
        kind: str,
        target: Target,
        body: bytes,
        content_type: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 2.0,
        ok: Callable[[int, bytes], bool] = lambda status, answer: 200 <= status < 300,
        retries: Callable[[int], tuple[float, ...]] = lambda status: (),
        on_result: Callable[[int], None] = lambda status: None,
    ) -> None:
        """Send one webhook, in the background."""
        sent_headers = {"Content-Type": content_type, **(headers or {}), **target.headers}

        def attempt(number: int = 1) -> None:
            began = time.monotonic()
            at = time.time()
            try:
                answer = self._session().post(
                    target.url, data=body, headers=sent_headers, timeout=timeout, allow_redirects=False
                )
                status, content = answer.status_code, answer.content
            except requests.RequestException as error:
                status, content = 0, str(error).encode()
            self.deliveries.append(
                Delivery(
                    at=at,
                    vendor=vendor,
                    kind=kind,
                    url=target.url.split("?")[0],
                    attempt=number,
                    status=status,
                    milliseconds=round((time.monotonic() - began) * 1000, 1),
                    answer=content.decode(errors="replace")[:4000],
                )
            )
            on_result(status)
            if ok(status, content):
                return
            waits = retries(status)
            if self.switches.retry_scale and number <= len(waits):
                self._later(waits[number - 1] * self.switches.retry_scale, lambda: attempt(number + 1))

        with self._lock:
            if self.switches.lost > 0:
                self.switches.lost -= 1
                return
            jobs: list[Callable[[], None]] = [attempt] * (1 + self.switches.duplicates)
            if self.switches.reorder:
                self._held += jobs
                if len(self._held) < self.switches.reorder:
                    return
                jobs, self._held = self._held, []
                self._random.shuffle(jobs)
        for job in jobs:
            self._later(self.switches.delay_seconds, job)

    def flush(self) -> None:
        """Send what the reorder switch still holds back."""
        with self._lock:
            jobs, self._held = self._held, []
            self._random.shuffle(jobs)
        for job in jobs:
            self._later(0, job)

    def wait(self, seconds: float = 30) -> bool:
        """Wait until nothing is under way; return whether that came true in time."""
        with self._idle:
            return self._idle.wait_for(lambda: self._open == 0, seconds)

    def reset(self) -> None:
        """Forget the log, the switches and what is held back."""
        with self._lock:
            self._held.clear()
        self.switches = Switches()
        self.deliveries.clear()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()
        # Not cancelled: each one still runs, sees the stop, and is counted off.
        self._pool.shutdown(wait=False)

    def _later(self, seconds: float, job: Callable[[], None]) -> None:
        with self._idle:
            self._open += 1

        def run() -> None:
            try:
                if not self._stopped.is_set():
                    job()
            finally:
                with self._idle:
                    self._open -= 1
                    self._idle.notify_all()

        def submit() -> None:
            if self._stopped.is_set():
                run()  # sends nothing, but counts itself off
            else:
                self._pool.submit(run)

        if seconds <= 0:
            submit()
        else:
            timer = threading.Timer(seconds, submit)
            timer.daemon = True
            timer.start()

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
        session: requests.Session = self._local.session
        return session
