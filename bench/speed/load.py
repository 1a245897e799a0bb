"""Webhooks as the vendors send them, fired by the load generator; and what then arrived at the sandbox."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from bench.chaos.processes import ROOT
from bench.speed.processes import SECRET, STAGES, Sandbox

PIPELINE = 7_100_010
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
HEADER = f"X-Webhook-Secret: {SECRET}"
BEGAN = int(time.time()) - 20_000

Request = tuple[str, str, str, str]  # path, content type, a header line, body
_clicks = itertools.count(1)


def moves(deals: Iterable[int], count: int, entered: Counter[int]) -> list[Request]:
    """Return webhooks of Kommo, each of one deal that entered a stage; the deals take turns.

    `entered`: how many stages each deal has entered so far. None enters the one in which it is: that is a repeat.
    """
    requests = []
    for deal in itertools.islice(itertools.cycle(deals), count):
        stage = STAGES[entered[deal] % len(STAGES)]
        entered[deal] += 1
        values = {"id": deal, "status_id": stage, "pipeline_id": PIPELINE, "updated_at": BEGAN + entered[deal]}
        fields = {"account[subdomain]": "examplebakery", "account[id]": 30_900_001}
        body = urlencode(fields | {f"leads[status][0][{name}]": value for name, value in values.items()})
        requests.append(("/webhooks/kommo", FORM, HEADER, body))
    return requests


def clicks(deals: Mapping[int, str], count: int, entered: object = None) -> list[Request]:
    """Return webhooks of Encharge, each of a click in a mail; they name the deal."""
    del entered
    return [
        (
            "/webhooks/encharge",
            JSON,
            HEADER,
            json.dumps(
                {
                    "event": "email_link_clicked",
                    "email": email,
                    "broadcastName": "Our prices",
                    "kommo_lead_id": str(deal),
                    "event_id": f"bench-{next(_clicks)}",
                }
            ),
        )
        for deal, email in itertools.islice(itertools.cycle(deals.items()), count)
    ]


@dataclass(frozen=True)
class Answers:
    """What the load generator saw. Each answer: when it was asked for, milliseconds, status (0 = none), word."""

    all: Sequence[tuple[float, float, int, str]]
    unanswered: int
    cpu_seconds: float

    @property
    def good(self) -> int:
        """How many were answered 200."""
        return sum(answer[2] == 200 for answer in self.all)

    @property
    def first(self) -> float:
        """When the first webhook went out, Unix seconds."""
        return min(answer[0] for answer in self.all)

    @property
    def last(self) -> float:
        """When the last webhook went out, Unix seconds."""
        return max(answer[0] for answer in self.all)

    @property
    def seconds(self) -> float:
        """From the first webhook to the last answer."""
        return max(at + took / 1000 for at, took, _, _ in self.all) - self.first

    @property
    def slowest(self) -> float:
        """The longest answer, in milliseconds."""
        return max(answer[1] for answer in self.all)

    def percentile(self, percent: float) -> float:
        """Return a percentile of the answers' times, in milliseconds."""
        return percentile([answer[1] for answer in self.all], percent)

    def share(self, word: str) -> float:
        """Return which part of the answers said a word."""
        return sum(answer[3] == word for answer in self.all) / len(self.all)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def fire(
    targets: Sequence[str],
    requests: Sequence[Request],
    connections: int,
    *,
    seconds: float = 60.0,
    spread: float = 0.0,
    patience: float = 60.0,
    pace: float = 0.0,
) -> Answers:
    """Send webhooks over so many connections, each the next when the last is answered, for so many seconds at most.

    `spread`: each connection is opened at a time of its own within so many seconds. `patience`: how long answers
    are waited for after the end. `pace`: no more than so many a second.
    """
    plan = {
        "targets": targets,
        "requests": requests,
        "connections": min(connections, len(requests)),
        "seconds": seconds,
        "spread": spread,
        "patience": patience,
        "pace": pace,
    }
    ran = subprocess.run(
        (sys.executable, "-m", "bench.speed.client"),
        cwd=ROOT,
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=seconds + patience + 30,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"the load generator failed:\n{ran.stderr[-3000:]}")
    seen: dict[str, Any] = json.loads(ran.stdout)
    return Answers([tuple(answer) for answer in seen["answers"]], seen["unanswered"], seen["cpu_seconds"])


@dataclass(frozen=True)
class Arrivals:
    """What arrived at the vendors: when, by kind (Unix seconds), and the calls that it took, by vendor."""

    times: Mapping[str, Sequence[float]]
    calls: Mapping[str, int]
    too_many: int  # calls that Kommo refused with 429

    def count(self, *kinds: str) -> int:
        """Return how many have arrived of the kind of which the fewest have."""
        return min(len(self.times.get(kind, ())) for kind in kinds)

    def last(self, *kinds: str) -> float:
        """Return when the last one arrived."""
        return max((at for kind in kinds for at in self.times.get(kind, ())), default=0.0)


def arrivals(sandbox: Sandbox) -> Arrivals:
    """Return what has arrived since the calls were forgotten."""
    times: dict[str, list[float]] = defaultdict(list)
    calls = sandbox.ask("GET", "/calls")
    for name, made in calls.items():
        for call in made:
            kind, count = _contents(name, call)
            if kind and 200 <= call["status"] < 300:
                times[kind] += [call["at"] + call["milliseconds"] / 1000] * count
    counts = {name: len(made) for name, made in calls.items()}
    counts["encharge"] += counts.pop("ingest")
    return Arrivals(times, counts, sum(call["status"] == 429 for call in calls["kommo"]))


def _contents(vendor: str, call: Mapping[str, Any]) -> tuple[str, int]:
    """Return what a call brought, and how many."""
    if call["method"] != "POST":
        return "", 0
    if vendor == "ingest":
        return "event", 1
    if vendor == "ortto" and call["path"].endswith("/activities/create"):
        return "activity", len(call["body"]["activities"])
    if vendor == "kommo":
        kind = {"/api/v4/tasks": "task", "/api/v4/leads/notes": "note"}.get(call["path"], "")
        return kind, len(call["body"] or ())
    return "", 0


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)
