"""`flask export`, `flask forget`: tell a person what is held of them, and erase it."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from app.addresses import clean_email
from app.cli.options import Command
from app.files import FileError, replace
from app.journal import Holdings, Journal, JournalError, Unfinished

ROUNDS = 5  # looks for what came while the others were erased
LONGEST_WAIT_SECONDS = 90.0  # longer than a lease
POLL_SECONDS = 0.1
NAMED = 20  # jobs that are owed
LINE_SECONDS = 5.0
TRACES = """The rows are erased, but copies may be left in parts of the file that nothing uses, and the file is so
large that webhooks would have to wait while it is written anew. Do that at a quiet moment, or while the service is
stopped: the same command with --vacuum."""


class Address(click.ParamType[str]):
    """An email address, spelled as the journal spells it."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it trimmed and in lower case."""
        email = clean_email(str(value))
        if email is None:
            self.fail(f"{value!r} is not an email address.", param, ctx)
        return email


def make_commands(journal: Callable[[], Journal]) -> list[click.Command]:
    """Build the commands."""
    return [_export(journal), _forget(journal)]


def _whose(command: Command) -> Command:
    return click.option(
        "--email",
        "emails",
        type=Address(),
        multiple=True,
        required=True,
        metavar="ADDRESS",
        help="The person's address; again for each further one.",
    )(command)


def _export(journal: Callable[[], Journal]) -> click.Command:
    @click.command("export")
    @_whose
    @click.option(
        "--output", type=click.Path(path_type=Path), help="A new file, for your eyes only; default: stdout."
    )
    def export(emails: tuple[str, ...], output: Path | None) -> None:
        """Tell all that the journal holds of a person, as JSON: for who asks for it by the GDPR.

        What is of others is left out: the body of a webhook that tells of several people, and the contact of a deal
        that is somebody else's. What Kommo, Encharge and Ortto hold, they tell themselves.

        \b
        flask export --email ann@example.com
        flask export --email ann@example.com --email ann@home.example --output ann.json
        """
        if output and output.exists():
            raise click.ClickException(f"{output} is there already: name a new file.")
        with _explaining():
            held = _look(journal(), emails)
            told = {"exported_at": datetime.now(UTC).isoformat(timespec="seconds"), **journal().dossier(held)}
        text = json.dumps(told, ensure_ascii=False, indent=2)
        if output is None:
            click.echo(text)
            return
        try:
            replace(output, f"{text}\n".encode(), mode=0o600)
        except FileError as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"{output}: {_count(len(held.events), 'event')}.", err=True)

    return export


def _forget(journal: Callable[[], Journal]) -> click.Command:
    @click.command("forget")
    @_whose
    @click.option("--dry-run", is_flag=True, help="Only say what is held and what is under way.")
    @click.option(
        "--vacuum", is_flag=True, help="Write SQLite's file anew if copies are left, however long it takes."
    )
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def forget(emails: tuple[str, ...], dry_run: bool, vacuum: bool, yes: bool) -> None:
        """Erase a person from the journal: for who asks for it by the GDPR. The service may run meanwhile.

        Erase them at Kommo, Encharge and Ortto first: what comes from there later is written down anew. What is
        still owed for them is not delivered any more; it is listed before you are asked. Of their events only kind
        and time are left, and which deal moved when, until they are purged: so a webhook that comes again still is
        a duplicate. Their consent is forgotten too; the platforms have it. The exit code is 1 if copies may be left
        in SQLite's file.

        \b
        flask forget --email ann@example.com --dry-run
        flask forget --email ann@example.com --email ann@home.example
        """
        with _explaining():
            held = _look(journal(), emails)
            if not held:
                click.echo("Nothing is held of this person.")
            for line in _shown(held):
                click.echo(line)
            if dry_run:
                click.echo("Nothing was changed.")
                return
            if held and not yes:
                click.confirm("Erase all of it? It cannot be undone", abort=True)
            if held:
                click.echo(f"Erased: {', '.join(_counts(_erase(journal(), held)))}.")
            left = journal().traces(emails, quick=not vacuum)
        if left:
            click.echo(" ".join(TRACES.split()), err=True)
            sys.exit(1)

    return forget


def _look(journal: Journal, emails: Sequence[str]) -> Holdings:
    return journal.holdings(emails, now=time.time(), heard=_Progress("looked through").heard)


def _erase(journal: Journal, held: Holdings) -> Holdings:
    """Erase what is held, and what came since; return the first, with the counts of all."""
    _wait_for_others(journal)
    total = Holdings(held.emails)
    for _ in range(ROUNDS):
        # What was carried out meanwhile may have written more, and may have made less owed.
        held = _look(journal, held.emails)
        if not held:
            break
        journal.forget(held, now=time.time(), heard=_Progress("erased").heard)
        total = _sum(total, held)
    return total


def _wait_for_others(journal: Journal) -> None:
    """Wait until what is being carried out now is over: it may know the person, and write it down when it ends."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    now_held = journal.under_way(now=time.time())
    while now_held and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now_held &= journal.under_way(now=time.time())


def _sum(one: Holdings, other: Holdings) -> Holdings:
    mentions = {
        name: (*one.mentions.get(name, ()), *other.mentions.get(name, ()))
        for name in {*one.mentions, *other.mentions}
    }
    return Holdings(
        one.emails,
        events=(*one.events, *other.events),
        webhooks=(*one.webhooks, *other.webhooks),
        sightings=one.sightings + other.sightings,
        consents=one.consents + other.consents,
        mentions=mentions,
        unfinished=(*one.unfinished, *other.unfinished),
    )


def _shown(held: Holdings) -> Iterator[str]:
    """Yield what is held, and what one should know before it is erased."""
    if held:
        yield f"Held of {', '.join(held.emails)}: {', '.join(_counts(held))}."
    if held.unfinished:
        yield f"Still owed, and not delivered any more once this is erased ({len(held.unfinished)}):"
    for job in held.unfinished[:NAMED]:
        yield f"  event {job.event_id}: {job.lane}{_why(job)}"
    if len(held.unfinished) > NAMED:
        lanes = Counter(job.lane for job in held.unfinished[NAMED:])
        yield f"  and {', '.join(f'{count} at {lane}' for lane, count in lanes.items())}"
    if held.shared:
        yield (
            f"{_count(len(held.shared), 'webhook')} told of others too: the bodies go, what the others did stays."
        )
    if held.others:
        yield f"Kommo had more addresses of this contact, which --email takes as well: {', '.join(held.others)}."


def _why(job: Unfinished) -> str:
    if job.held:
        return ", being carried out right now"
    return f" ({job.reason})" if job.reason else ""


def _counts(held: Holdings) -> Iterator[str]:
    yield _count(len(held.events), "event")
    yield _count(len(held.webhooks), "webhook's body", "webhooks' bodies")
    yield _count(held.sightings, "remembered activity", "remembered activities")
    yield _count(held.consents, "consent")
    if held.unfinished:
        yield _count(len(held.unfinished), "owed delivery", "owed deliveries")
    if held.mentions:
        named = ", ".join(f"{len(keys)} in {name}" for name, keys in sorted(held.mentions.items()))
        yield f"the address in rows that are not theirs ({named})"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


class _Progress:
    """Says on standard error how far a long look or erasure is, now and then."""

    def __init__(self, deed: str) -> None:
        self._deed = deed
        self._line_at = time.monotonic() + LINE_SECONDS

    def heard(self, done: int, total: int) -> None:
        if done < total and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + LINE_SECONDS
            click.echo(f"{100 * done // total} % {self._deed} …", err=True)


@contextmanager
def _explaining() -> Iterator[None]:
    """Turn what the journal refuses into a message."""
    try:
        yield
    except JournalError as error:
        raise click.ClickException(str(error)) from error
