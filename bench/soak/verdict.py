"""Whether what was seen is flat, bounded and faultless. Nothing here depends on how fast the machine was."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from bench.soak.watch import WORKER, JournalSample, Life, Sample

MEGABYTE = 1 << 20
LOOKED_AT = 0.8  # of the run, at least
JUDGED_SECONDS = 20 * 60.0  # a shorter life has not yet come to rest

# How much may be added in the second half of a life, on the line through it.
MEMORY_BYTES = 8 * MEGABYTE
HANDLES = 6
THREADS = 4
# And how much there may be at any time: pools are bounded, WEB_THREADS is 32.
MOST_HANDLES = 256
MOST_THREADS = 96
WAL_BYTES = 64 * MEGABYTE  # of SQLite; a checkpoint comes after 4
POSTGRESQL_WAL_BYTES = 1536 * MEGABYTE  # max_wal_size is 1 GB, and a soft limit

Measure = Callable[[Sample], float]


@dataclass(frozen=True)
class Trend:
    """The line through the last part of a life."""

    slope: float  # a second
    growth: float  # over that part
    level: float  # the median there
    most: float  # in the whole life


def trend(life: Life, measure: Measure, since: float = 0.5) -> Trend:
    """Return the line by the median of the slopes between any two points: it minds no peaks. `since`: 0 to 1."""
    begin = life.samples[0].at + life.seconds * since
    points = [(sample.at, measure(sample)) for sample in life.samples if sample.at >= begin]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]]
    slope = statistics.median(slopes) if slopes else 0.0
    return Trend(
        slope,
        slope * (points[-1][0] - points[0][0]),
        statistics.median(value for _, value in points),
        max(measure(sample) for sample in life.samples),
    )


def rss(sample: Sample) -> float:
    """Return the memory of a sample."""
    return sample.rss


def handles(sample: Sample) -> float:
    """Return the open files and sockets of a sample."""
    return sample.handles


def threads(sample: Sample) -> float:
    """Return the threads of a sample."""
    return sample.threads


def judged(lives: Sequence[Life]) -> list[Life]:
    """Return those that were long enough."""
    return [life for life in lives if life.seconds >= JUDGED_SECONDS]


def growth_faults(life: Life) -> list[str]:
    """Return what a process takes more and more of, as sentences."""
    who = f"{life.name}, {life.role} {life.pid}"
    said = []
    memory = trend(life, rss)
    if memory.growth > MEMORY_BYTES:
        said.append(
            f"{who}: memory grew by {memory.growth / MEGABYTE:.1f} MB in the second half of its life, "
            f"{memory.slope * 3600 / MEGABYTE:.1f} MB an hour"
        )
    for what, measure, growth, most in (
        ("open handles", handles, HANDLES, MOST_HANDLES),
        ("threads", threads, THREADS, MOST_THREADS),
    ):
        found = trend(life, measure)
        # A pool that is filled once is a step, and then it is over.
        if found.growth > growth and trend(life, measure, since=0.75).growth > growth / 4:
            said.append(f"{who}: {found.growth:.0f} {what} more came in the second half of its life")
        if found.most > most:
            said.append(f"{who}: {found.most:.0f} {what} at once; {most} are plenty")
    return said


def life_faults(lives: Sequence[Life], name: str, seconds: float) -> list[str]:
    """Return what is wrong with the life of a replica that nobody restarts, as sentences."""
    own = [life for life in lives if life.name == name and life.role == WORKER]
    if len(own) > 1:
        return [f"{name}: nobody restarted it, and it had {len(own)} lives"]
    if not own or own[0].seconds < LOOKED_AT * seconds:
        return [f"{name}: it was not looked at throughout: no proof"]
    return []


def journal_faults(samples: Sequence[JournalSample], limit: float) -> list[str]:
    """Return what is wrong with the journal's files, as sentences."""
    most = max((sample.wal for sample in samples), default=0)
    if most > limit:
        return [f"the write-ahead log grew to {most / MEGABYTE:.0f} MB; {limit / MEGABYTE:.0f} are bearable"]
    return []


@dataclass(frozen=True)
class Answer:
    """What a webhook got from a replica: status 0 = nothing. Moments are monotonic."""

    replica: str
    began: float
    ended: float
    status: int


def answer_faults(answers: Sequence[Answer], excused: Callable[[str, float, float], bool]) -> list[str]:
    """Return how many webhooks were not answered 2xx by a replica that was not being restarted."""
    bad: dict[tuple[str, int], int] = {}
    for answer in answers:
        if 200 <= answer.status < 300 or excused(answer.replica, answer.began, answer.ended):
            continue
        bad[answer.replica, answer.status] = bad.get((answer.replica, answer.status), 0) + 1
    return [
        f"{count} webhooks got {status or 'no answer'} from {name} outside of its restarts"
        for (name, status), count in sorted(bad.items())
    ]
