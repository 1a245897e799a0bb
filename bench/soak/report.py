"""The tables and the picture of a run, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.soak import verdict
from bench.soak.run import LATENCY_SECONDS, RATE, Result
from bench.soak.verdict import MEGABYTE, Answer
from bench.soak.watch import Life
from bench.speed.load import percentile

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = 60


def pages(result: Result) -> str:
    """Return everything that a reader wants to know."""
    parts = [_headline(result), table(result), processes(result.lives), picture(result.lives)]
    return "\n\n".join(part for part in parts if part)


def _headline(result: Result) -> str:
    return (
        f"{result.options.database}, seed {result.options.seed}, {result.seconds / 60:.0f} minutes, "
        f"{RATE:g} webhooks a second, vendors at {LATENCY_SECONDS * 1000:.0f} ms, Kommo at 7 calls a second"
    )


def table(result: Result) -> str:
    """Return what happened and what came of it."""
    found, tally, ledger = result.findings, result.tally, result.ledger
    moves = sum(fact.kind == "stage" for fact in ledger.facts())
    others = len(ledger.facts()) - moves
    doubled = {kind: len(sentences) for kind, sentences in found.duplicates.items() if sentences}
    doubled_words = ", ".join(f"{count} {kind}" for kind, count in doubled.items())
    queue = result.queue or [0]
    rows: list[tuple[str, object, str]] = [
        (
            "webhooks acknowledged",
            f"{len(ledger.hooks):,}",
            f"{moves:,} moves; {others:,} opens, clicks, unsubscribes; of {result.deals:,} deals",
        ),
        ("repeated later", f"{ledger.repeats:,}", f"{len(ledger.repeats_taken_as_new)} taken as new"),
        ("effects expected, found", f"{found.expected:,}, {found.delivered:,}", ""),
        ("lost, wrong at the end, out of order", _numbers(found.lost, found.wrong_state, found.out_of_order), ""),
        ("doubled", sum(doubled.values()), doubled_words),
        ("still owed, dead", f"{result.owed}, {len(result.dead)}", f"at most {max(queue):,} owed at a time"),
        ("answers other than 2xx", _refused(result), "of which outside of restarts"),
        ("answers p50, p99, slowest", _times(result.answers), "ms, faults and restarts included"),
        ("… of the first tenth", _times(_tenth(result.answers, first=True)), ""),
        ("… of the last tenth", _times(_tenth(result.answers, first=False)), ""),
        ("restarts", _restarts(result), _words(tally.kills, stopped=tally.faults)),
        ("calls that vendors spoilt", f"{sum(_spoilt(result).values()):,}", _counts(_spoilt(result))),
        ("calls to vendors", f"{sum(result.calls.values()):,}", _calls(result)),
        ("calls over Kommo's limit", result.over_the_limit, "refused with 429 by its own limit"),
        ("looks at health, numbers, pages", f"{sum(count for _, count in result.visits):,}", _visits(result)),
        *_journal(result),
    ]
    lines = ["| | | |", "| --- | ---: | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value} | {words} |" for name, value, words in rows)])


def processes(lives: Sequence[Life]) -> str:
    """Return a row for each life that was long enough to be judged, or else for each."""
    shown: Sequence[Life] = verdict.judged(lives)
    note = f"{len(lives) - len(shown)} shorter lives are not shown."
    if not shown:
        shown, note = lives, "No life was long enough (20 minutes): memory, handles and threads are not judged."
    lines = [
        "| process | lived | memory, second half | grew there | an hour | handles, most | grew |"
        " threads, most | grew |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for life in shown:
        memory = verdict.trend(life, verdict.rss)
        handles = verdict.trend(life, verdict.handles)
        threads = verdict.trend(life, verdict.threads)
        cells = [
            f"{life.name}, {life.role}",
            f"{life.samples[0].at / 60:.0f}–{life.samples[-1].at / 60:.0f} min",
            f"{memory.level / MEGABYTE:.1f} MB",
            f"{memory.growth / MEGABYTE:+.2f} MB",
            f"{memory.slope * 3600 / MEGABYTE:+.1f} MB",
            f"{handles.level:.0f}, {handles.most:.0f}",
            f"{handles.growth:+.1f}",
            f"{threads.level:.0f}, {threads.most:.0f}",
            f"{threads.growth:+.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", note])


def picture(lives: Sequence[Life]) -> str:
    """Return the memory of the judged processes over time, as lines of blocks that begin at zero."""
    shown = [life for life in verdict.judged(lives) or lives if len(life.samples) > 1]
    most = max((sample.rss for life in shown for sample in life.samples), default=0)
    lines = []
    for life in shown:
        ends = f"{life.samples[0].rss / MEGABYTE:.0f} → {life.samples[-1].rss / MEGABYTE:.0f} MB"
        lines.append(f"{life.name + ', ' + life.role:<18} {sparkline(_columns(life), most)} {ends}")
    return "\n".join(["```text", *lines, "```"]) if lines else ""


def _columns(life: Life) -> list[float]:
    """Return the most memory in each part of a life."""
    width = min(COLUMNS, len(life.samples))
    size = len(life.samples) / width
    parts = [life.samples[int(column * size) : int((column + 1) * size)] for column in range(width)]
    return [max(sample.rss for sample in part) for part in parts]


def sparkline(values: Sequence[float], most: float) -> str:
    """Return a line of blocks, 0 the lowest and `most` the highest."""
    return "".join(BARS[min(len(BARS) - 1, int(value / most * len(BARS)))] for value in values)


# -- cells ---------------------------------------------------------------------------------------------------------


def _numbers(*found: Sequence[object]) -> str:
    return ", ".join(str(len(sentences)) for sentences in found)


def _times(answers: Sequence[Answer]) -> str:
    times = [(answer.ended - answer.began) * 1000 for answer in answers if answer.status]
    if not times:
        return "–"
    return f"{statistics.median(times):.0f}, {percentile(times, 99):.0f}, {max(times):.0f}"


def _tenth(answers: Sequence[Answer], *, first: bool) -> Sequence[Answer]:
    ordered = sorted(answers, key=lambda answer: answer.began)
    size = max(1, len(ordered) // 10)
    return ordered[:size] if first else ordered[-size:]


def _refused(result: Result) -> str:
    bad = [answer for answer in result.answers if not 200 <= answer.status < 300]
    outside = [a for a in bad if not result.downs.excuse(a.replica, a.began, a.ended)]
    return f"{len(bad)}, {len(outside)}"


def _restarts(result: Result) -> int:
    return result.tally.kills.total() + sum(_stopped(result.tally.faults).values())


def _stopped(faults: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in faults.items() if name.startswith("stopped")}


def _spoilt(result: Result) -> dict[str, int]:
    return {name: count for name, count in sorted(result.tally.faults.items()) if not name.startswith("stopped")}


def _words(kills: dict[str, int], *, stopped: dict[str, int]) -> str:
    return _counts({**kills, **_stopped(stopped)})


def _counts(found: dict[str, int]) -> str:
    return "; ".join(f"{count:,} {name}" for name, count in sorted(found.items()))


def _calls(result: Result) -> str:
    return ", ".join(f"{count:,} to {name}" for name, count in result.calls.items())


def _visits(result: Result) -> str:
    words = ", ".join(f"{count:,} {path}" for path, count in result.visits)
    return f"{words}; {len(result.visit_failures)} failed outside of restarts"


def _journal(result: Result) -> list[tuple[str, object, str]]:
    if not result.journal:
        return []
    last = result.journal[-1]
    each = last.size / max(1, len(result.ledger.facts()))
    return [
        ("journal at the end", f"{last.size / MEGABYTE:.0f} MB", f"{each / 1024:.1f} KB for each fact"),
        ("write-ahead log, most", f"{max(s.wal for s in result.journal) / MEGABYTE:.1f} MB", ""),
    ]
