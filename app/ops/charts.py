"""The last 24 hours as small charts: numbers become places in a drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.journal import Hour
from app.moments import as_span, as_time

WIDTH, HEIGHT = 480.0, 110.0
TOP, BOTTOM = 12.0, 94.0  # between which values are drawn
ROOM = 15.0  # between two labels
GAP = 0.22  # of an hour's width
SHORTEST_SECONDS = 0.1  # up to it the axis of delays is linear, beyond it logarithmic
TICKS = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0)


@dataclass(frozen=True)
class Bar:
    """A bar, and the part of it that is marked; `words` tell what it stands for."""

    x: float
    y: float
    width: float
    height: float
    marked_y: float
    marked_height: float
    words: str


@dataclass(frozen=True)
class Chart:
    """A chart: its title, what it says in one sentence, bars, and lines with a label each."""

    name: str
    title: str
    words: str
    bars: list[Bar]
    lines: list[tuple[float, str]]
    legend: tuple[str, str]  # of the bar, of its marked part


def throughput(hours: Sequence[Hour]) -> Chart:
    """Draw how many events came in each hour; marked: those that ended dead."""
    most = max((hour.came for hour in hours), default=0)
    top = _round_up(most)
    total, dead = sum(hour.came for hour in hours), sum(hour.dead for hour in hours)
    bars = [
        _bar(
            place,
            len(hours),
            hour.came / top,
            hour.dead / top,
            f"{_clock(hour)}: {hour.came} received" + (f", {hour.dead} dead" if hour.dead else ""),
        )
        for place, hour in enumerate(hours)
    ]
    return Chart(
        "throughput",
        "Events an hour",
        f"{total} events in the last 24 hours, at most {most} in an hour; {dead} ended dead.",
        bars,
        [(_y(1), f"{top}"), (_y(0.5), f"{top / 2:g}")],
        ("received", "dead"),
    )


def delay(hours: Sequence[Hour]) -> Chart:
    """Draw how long it took until all of an event was done: nearly all (19 of 20), and marked the median."""
    told = [hour for hour in hours if hour.median is not None and hour.slow is not None]
    longest = max((hour.slow or 0.0 for hour in told), default=0.0)
    top = next((tick for tick in TICKS[1:] if longest <= tick), TICKS[-1])

    def part(seconds: float | None) -> float:
        if seconds is None:
            return 0.0
        return max(0.02, min(1.0, math.log1p(seconds / SHORTEST_SECONDS) / math.log1p(top / SHORTEST_SECONDS)))

    bars = [
        _bar(
            place,
            len(hours),
            part(hour.slow),
            part(hour.median),
            f"{_clock(hour)}: half within {as_span(hour.median)}, 19 of 20 within {as_span(hour.slow)}"
            if hour.median is not None and hour.slow is not None
            else f"{_clock(hour)}: nothing was done",
        )
        for place, hour in enumerate(hours)
    ]
    middle = sorted(hour.median for hour in told if hour.median is not None)
    words = (
        f"Half of all was usually done within {as_span(middle[len(middle) // 2])}; "
        f"in the slowest hour 19 of 20 within {as_span(longest)}."
        if middle
        else "Nothing was done in the last 24 hours."
    )
    lines: list[tuple[float, str]] = []
    for tick in sorted((tick for tick in TICKS if SHORTEST_SECONDS < tick <= top), reverse=True):
        # The topmost is always labelled, others where there is room.
        if not lines or _y(part(tick)) - lines[-1][0] >= ROOM:
            lines.append((_y(part(tick)), as_span(tick)))
    return Chart("delay", "Delay until done", words, bars, lines, ("19 of 20 within", "half within"))


def _clock(hour: Hour) -> str:
    return f"from {as_time(hour.begins)[11:16]}"


def _y(part: float) -> float:
    return round(BOTTOM - part * (BOTTOM - TOP), 1)


def _bar(place: int, count: int, part: float, marked: float, words: str) -> Bar:
    step = WIDTH / count
    return Bar(
        x=round((place + GAP / 2) * step, 1),
        y=_y(part),
        width=round(step * (1 - GAP), 1),
        height=round(BOTTOM - _y(part), 1),
        marked_y=_y(marked),
        marked_height=round(BOTTOM - _y(marked), 1),
        words=words,
    )


def _round_up(most: int) -> int:
    """Return a round number that is no smaller, and even."""
    if most <= 4:
        return 4
    scale = 10 ** math.floor(math.log10(most))
    return next(int(factor * scale) for factor in (1, 2, 4, 6, 8, 10) if factor * scale >= most)
