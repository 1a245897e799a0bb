"""Checks of the journal, and of what it tells of the vendors."""

from __future__ import annotations

import time
from collections.abc import Iterator

from app.doctor.lines import Line, green, grey, red, yellow
from app.events import Lane, Source, State
from app.journal import Inspection, Journal, JournalError

MEGABYTE = 1024 * 1024
LITTLE_SPACE, NO_SPACE = 1024 * MEGABYTE, 100 * MEGABYTE
LARGE = 5 * 1024 * MEGABYTE

VENDORS = {lane: "kommo" if lane == Lane.RESOLVE else lane.value for lane in Lane}

Found = Journal | JournalError | None
"""The journal; why it cannot be used; None: it must be made or brought up to date first."""


def journal(inspection: Inspection | JournalError, found: Found) -> Iterator[Line]:
    """Say whether the journal can be written, and whether there is room for it."""
    if isinstance(inspection, JournalError):
        yield red("journal", f"{inspection}", "Correct DATABASE_URL, or put back a copy of the file.")
        return
    yield from _schema(inspection, found)
    yield from _space(inspection)


def _schema(seen: Inspection, found: Found) -> Iterator[Line]:
    if not seen.exists:
        if seen.may_be_made:
            yield green("journal", f"{seen.place}: not there yet, the first start makes it")
        else:
            yield red("journal", f"{seen.place} cannot be made there", "Make the folder, or set DATABASE_URL.")
    elif not seen.known:
        yield red(
            "journal",
            f"{seen.place} has schema {seen.schema}, made by a newer version of Kommo Relay",
            "Install that version, or point DATABASE_URL at another database.",
        )
    elif isinstance(found, JournalError):
        yield red(
            "journal",
            f"{seen.place}: {found}",
            "Look at the file's owner and rights, at the disk, and at who else has it open.",
        )
    elif seen.schema != seen.newest:
        yield green("journal", f"{seen.place} has schema {seen.schema}: the next start brings it to {seen.newest}")
    else:
        size = "" if seen.size is None else f", {seen.size / MEGABYTE:.1f} MB"
        yield green("journal", f"{seen.place}: can be written, schema {seen.schema}{size}")


def _space(seen: Inspection) -> Iterator[Line]:
    if seen.size is not None and seen.size > LARGE:
        yield yellow(
            "journal size",
            f"{seen.size / MEGABYTE:,.0f} MB",
            "Lower RETENTION_DAYS, or run `flask purge --days 7`.",
        )
    if seen.free is None:
        return
    words = f"{seen.free / MEGABYTE:,.0f} MB free"
    todo = "Make room on the disk of the journal: when it is full, no webhook is taken."
    if seen.free < NO_SPACE:
        yield red("disk", words, todo)
    elif seen.free < LITTLE_SPACE:
        yield yellow("disk", words, todo)
    else:
        yield green("disk", words)


def work(found: Journal, *, overdue: float) -> Iterator[Line]:
    """Say what waits, what is dead, and which vendor is left alone; `overdue`: seconds that a job may be due."""
    now = time.time()
    standing, since = found.standing("kommo", 1.0, now=now), found.oldest_due(VENDORS, now=now)
    pending = sum(queue.waiting for queue in standing.queues.values())
    dead = found.dead()
    late = now - since if since is not None else 0.0
    if late > overdue:
        yield red(
            "waiting jobs",
            f"{pending}, the oldest due for {late / 60:,.0f} minutes",
            "Is the service running? See its log for `vendor paused`; `flask work` carries them out without it.",
        )
    else:
        yield green("waiting jobs", f"{pending}, none due for long" if pending else "none")
    if dead:
        yield yellow(
            "dead jobs",
            f"{dead} were refused for good",
            "See why with `flask events --state dead`, mend the cause, then `flask replay --state dead`.",
        )
    else:
        yield green("dead jobs", "none")
    pauses = standing.pauses
    for vendor, pause in pauses.items():
        words = f"{vendor} is left alone until {_clock(pause.until)}: {pause.reason}"
        yield red("paused vendors", words, "What is for it waits, and goes out by itself once the cause is mended.")
    if not pauses:
        yield green("paused vendors", "none")


def ingest(found: Found, *, on: bool) -> Iterator[Line]:
    """Say how Encharge took the last event: the write key and the plan cannot be tried without making one."""
    topic = "encharge events"
    if not on:
        yield green(topic, "sent as tags, or in the article's dialect: no plan stands in the way")
        return
    reason, ended = _last_words(found)
    if " answered 403" in reason:
        yield red(
            topic,
            f"the Ingest API refuses them: {reason}",
            "API events need Encharge's Premium plan: get it, or set ENCHARGE_EVENTS=tag and start flows with "
            "*Tag added*.",
        )
    elif " answered 400" in reason or " answered 401" in reason:
        yield red(topic, f"the Ingest API refuses them: {reason}", "Check ENCHARGE_WRITE_KEY (not the API key).")
    elif ended:
        yield green(topic, f"the last one was taken {_clock(ended)}")
    else:
        words = "cannot be tried without making one: the first will tell whether write key and plan are right"
        yield grey(topic, words)


def _last_words(found: Found) -> tuple[str, float]:
    """Return what the Ingest API said last if it was a refusal, and when it last took an event."""
    if not isinstance(found, Journal):
        return "", 0.0
    pause = found.pauses(now=time.time()).get("encharge")
    ending = found.endings().get(Lane(Source.ENCHARGE))
    for reason in (pause.reason if pause else "", ending.reason if ending and ending.state == State.DEAD else ""):
        if "Encharge Ingest" in reason:
            return reason, 0.0
    return "", ending.at if ending and ending.state == State.DONE else 0.0


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
