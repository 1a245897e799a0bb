"""Numbers for Prometheus: what this process counted, and how the journal stands for all of them.

No label has a value that comes from outside: no deal, address, campaign or id, and of a call's path only its form.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import prometheus_client
import structlog
from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.access import UNKNOWN
from app.access import Standing as Access
from app.clients.http import Call
from app.events import HELD, Kind, Lane, Source, State
from app.journal import Journal, JournalError, Settlement, Standing
from app.ops import access
from app.strangers import Strangers

log = structlog.get_logger("relay.metrics")

WEBHOOK_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 5.0)
CALL_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DELAY_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)

KINDS = frozenset(Kind)
NUMBER = re.compile(r"/[0-9]+(?=/|$)")
UNTAKEN = {400: "refused", 413: "refused", 503: "not_recorded"}  # answers to webhooks of which nothing was taken


class Metrics:
    """What one process counts; every method is safe to call from any thread, and costs some microseconds."""

    def __init__(self, version: str, clock: Callable[[], float] = time.time) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._clock = clock
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._events = self._counter(
            "events",
            "Events by what was answered about them; `reconciled`: found in Kommo's log, no webhook told.",
            "source",
            "kind",
            "outcome",
        )
        self._webhooks = self._counter("webhooks", "Answers to webhooks, by HTTP status.", "route", "code")
        self._webhook_seconds = self._histogram(
            "webhook_duration_seconds", "Time to answer a webhook.", WEBHOOK_SECONDS, "route"
        )
        self._unauthorized = self._counter(
            "unauthorized",
            "Requests without the right secret, by whether one was tried.",
            "door",
            "tried",
        )
        self._deliveries = self._counter(
            "deliveries", "Jobs that came to their end, by how: done, skipped or dead.", "lane", "outcome"
        )
        self._retries = self._counter(
            "retries", "Attempts of jobs that failed and are made again by themselves.", "lane"
        )
        self._delays = self._histogram(
            "delivery_delay_seconds", "Time from the receipt of an event to its job done.", DELAY_SECONDS, "lane"
        )
        self._calls = self._counter(
            "vendor_calls",
            "Calls to vendors, by the HTTP status of the answer; `none`: there was no answer.",
            "vendor",
            "operation",
            "code",
        )
        self._call_seconds = self._histogram(
            "vendor_call_duration_seconds", "Time a vendor took to answer.", CALL_SECONDS, "vendor", "operation"
        )
        build = Gauge(
            "kommo_relay_build_info", "The version that runs.", ["version", "python"], registry=self.registry
        )
        build.labels(version, platform.python_version()).set(1)
        # What has not happened yet is a 0 and not missing, where the labels are known: rates need a start.
        for door in (*Source, "ops"):
            for tried in ("yes", "no"):
                self._unauthorized(str(door), tried)
        for lane in Lane:
            self._retries(lane.value)
            for state in (State.DONE, State.SKIPPED, State.DEAD):
                self._deliveries(lane.value, state.value)

    def _counter(self, name: str, words: str, *labels: str) -> Callable[..., Counter]:
        # To look up a child again costs more than to count; there are few.
        return cache(Counter(f"kommo_relay_{name}", words, labels, registry=self.registry).labels)

    def _histogram(self, name: str, words: str, buckets: Iterable[float], *labels: str) -> Callable[..., Histogram]:
        made = Histogram(f"kommo_relay_{name}", words, labels, buckets=tuple(buckets), registry=self.registry)
        return cache(made.labels)

    def answered(self, source: Source, code: int, body: Mapping[str, Any], seconds: float) -> None:
        """Count a webhook, and what its answer says of each event in it."""
        self._webhooks(source.value, str(code)).inc()
        self._webhook_seconds(source.value).observe(seconds)
        if code in UNTAKEN:
            self._events(source.value, Kind.OTHER.value, UNTAKEN[code]).inc()
        for entry in body.get("events", ()):
            kind = entry["kind"] if entry["kind"] in KINDS else Kind.OTHER
            self._events(source.value, kind, entry["status"]).inc()

    def refused(self, door: str, tried: bool) -> None:
        """Count a request without the right secret."""
        self._unauthorized(door, "yes" if tried else "no").inc()

    def reconciled(self, count: int) -> None:
        """Count stage changes of which no webhook told."""
        if count:
            self._events(Source.KOMMO.value, Kind.STAGE_CHANGED.value, "reconciled").inc(count)

    def settled(self, settlement: Settlement) -> None:
        """Count a job that came to its end, or an attempt that failed."""
        job, outcome = settlement.job, settlement.outcome
        if outcome.state == State.PENDING:
            if outcome is not HELD:
                self._retries(job.lane.value).inc()
            return
        self._deliveries(job.lane.value, outcome.state.value).inc()
        if outcome.state == State.DONE:
            delay = max(0.0, self._clock() - job.event.received_at)
            self._delays(job.lane.value).observe(delay)

    def called(self, call: Call) -> None:
        """Count a call to a vendor."""
        operation = f"{call.method} {NUMBER.sub('/{id}', call.path)}".strip()
        code = "none" if call.status is None else str(call.status)
        self._calls(call.vendor, operation, code).inc()
        self._call_seconds(call.vendor, operation).observe(call.seconds)

    def watch(
        self,
        journal: Journal,
        vendors: Iterable[str],
        per_second: float,
        let_in: Callable[[], Access] = lambda: UNKNOWN,
    ) -> None:
        """Tell with each scrape how the journal stands; `per_second`: the limit of calls to Kommo.

        `let_in`: how long Kommo lets us in.
        """
        self.registry.register(_JournalCollector(journal, sorted(set(vendors)), per_second, let_in, self._clock))


class _JournalCollector(Collector):
    """Reads the journal when it is asked: the same numbers from every process."""

    def __init__(
        self,
        journal: Journal,
        vendors: Iterable[str],
        per_second: float,
        let_in: Callable[[], Access],
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._vendors = tuple(vendors)
        self._per_second = per_second
        self._let_in = let_in
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield how the journal stands, or only that it cannot be read."""
        now = self._clock()
        try:
            standing, let_in = self._journal.standing("kommo", self._per_second, now=now), self._let_in()
        except JournalError as error:
            log.error("the journal cannot be counted", error=str(error))
            yield _gauge("journal_up", "Whether the journal can be read.", 0)
            return
        yield _gauge("journal_up", "Whether the journal can be read.", 1)
        yield _gauge("journal_size_bytes", "What the journal takes on disk.", standing.size)
        yield from self._queues(standing, now)
        yield from self._pauses(standing, now)
        calls = standing.calls
        yield _gauge("kommo_calls_left", "Calls to Kommo that may still go at once, of its limit.", calls.left)
        yield _gauge(
            "kommo_calls_booked", "Calls to Kommo that wait for their turn within its limit.", calls.booked
        )
        words = "Calls a second that may go to Kommo now: fewer than the limit for a while after a 429."
        yield _gauge("kommo_calls_per_second", words, calls.per_second)
        words = "Calls a second that may go to Kommo at most: KOMMO_RATE_LIMIT."
        yield _gauge("kommo_calls_per_second_limit", words, self._per_second)
        words = "Whether a person must act before Kommo lets us in (again)."
        yield _gauge("kommo_access_needs_a_person", words, int(let_in.over(now)))
        if let_in.ends is not None:
            words = "When Kommo lets us in no more, in Unix seconds, unless a person acts; missing: nobody knows."
            yield _gauge("kommo_access_expires_timestamp_seconds", words, let_in.ends)

    @staticmethod
    def _queues(standing: Standing, now: float) -> Iterator[Metric]:
        queues = {lane.value: queue for lane, queue in standing.queues.items()}
        yield _by("lane", "jobs_waiting", "Jobs that are owed.", {n: q.waiting for n, q in queues.items()})
        yield _by("lane", "jobs_dead", "Jobs that were given up and wait for a person.", _dead(queues))
        ages = {name: _age(queue.oldest, now) for name, queue in queues.items()}
        yield _by("lane", "oldest_waiting_job_seconds", "Age of the oldest job that is owed; 0: none is.", ages)
        due = {name: _age(queue.due, now) for name, queue in queues.items()}
        words = "For how long a job has been due without being carried out; 0: none is."
        yield _by("lane", "oldest_due_job_seconds", words, due)

    def _pauses(self, standing: Standing, now: float) -> Iterator[Metric]:
        left = {name: _left(standing, name, now) for name in self._vendors}
        paused = {name: int(seconds > 0) for name, seconds in left.items()}
        yield _by("vendor", "vendor_paused", "Whether a vendor is left alone for now, and its lanes stand.", paused)
        yield _by("vendor", "vendor_pause_remaining_seconds", "For how long a vendor is left alone yet.", left)


def make_blueprint(metrics: Metrics, tokens: Collection[str], strangers: Strangers) -> Blueprint:
    """Build the blueprint of /metrics."""
    blueprint = Blueprint("metrics", __name__)
    access.guard(blueprint, tokens, strangers)

    @blueprint.get("/metrics")
    def show() -> Response:
        """Return all numbers in Prometheus' text format, or in OpenMetrics where that is asked for."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(metrics.registry), content_type=content_type)

    return blueprint


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"kommo_relay_{name}", words, value=value)


def _by(label: str, name: str, words: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"kommo_relay_{name}", words, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _dead(queues: Mapping[str, Any]) -> dict[str, float]:
    return {name: queue.dead for name, queue in queues.items()}


def _age(since: float | None, now: float) -> float:
    return 0.0 if since is None else max(0.0, now - since)


def _left(standing: Standing, vendor: str, now: float) -> float:
    pause = standing.pauses.get(vendor)
    return max(0.0, pause.until - now) if pause else 0.0
