"""`flask events`, `flask replay`, `flask purge`: look at what came, take it up again, forget it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click

from app.cli.options import as_time, echo_json, make_search, search_options
from app.events import State
from app.journal import EventStory, JobStory, Journal
from app.journal.history import RETURNABLE

EVERYTHING = 1_000_000  # events that are taken up again at once, at most
ROW = "{:>8}  {:<20} {:<9} {:<17} {:<26} {}"


def make_commands(journal: Callable[[], Journal], retention: Callable[[], float]) -> list[click.Command]:
    """Build the commands; `retention`: seconds for which finished events are kept."""
    return [_events(journal), _replay(journal), _purge(journal, retention)]


def _events(journal: Callable[[], Journal]) -> click.Command:
    @click.command("events")
    @click.argument("ids", nargs=-1, type=int)
    @search_options
    @click.option("--limit", default=50, show_default=True, help="At most so many events, the newest.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with every job and step.")
    def events(ids: tuple[int, ...], limit: int, as_json: bool, **options: Any) -> None:
        """List events and how their jobs stand, newest first.

        \b
        flask events --state dead
        flask events --deal 41500011
        flask events --email ann@example.com --since 2d --json
        """
        found = journal().find(make_search(ids, limit, **options))
        if as_json:
            for story in found:
                echo_json(asdict(story))
        else:
            _print(found)

    return events


def _replay(journal: Callable[[], Journal]) -> click.Command:
    @click.command("replay")
    @click.argument("ids", nargs=-1, type=int)
    @search_options
    @click.option("--dry-run", is_flag=True, help="Only say what would be done.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def replay(ids: tuple[int, ...], dry_run: bool, yes: bool, **options: Any) -> None:
        """Take up dead and skipped jobs again, of the events named or found.

        Steps that are done stay done: nothing is sent a second time. An event that arrives late carries its own
        stage; its person gets the stage in which the deal is now.

        \b
        flask replay 4711
        flask replay --state dead
        flask replay --state skipped --since 2026-11-20 --until 2026-11-21
        """
        if not ids and not any(
            options[name] for name in ("state", "deal", "email", "campaign", "source", "since", "until")
        ):
            raise click.UsageError("Say which events: their ids, or options such as --state dead.")
        found = [story for story in journal().find(make_search(ids, EVERYTHING, **options)) if _returnable(story)]
        if not found:
            click.echo("Nothing to take up: no dead or skipped job among these events.")
            return
        for story in found:
            for job in _returnable(story):
                click.echo(f"{story.id}: {story.kind} of {story.order_key}: {job.lane} again ({job.reason})")
        if dry_run:
            click.echo(f"That is all ({len(found)}). Nothing was changed.")
            return
        if not yes:
            click.confirm(f"Take these up again ({len(found)})?", abort=True)
        count = journal().take_up_again([story.id for story in found], now=time.time())
        click.echo(f"Due again: {count} of their jobs. The running service carries them out.")

    return replay


def _purge(journal: Callable[[], Journal], retention: Callable[[], float]) -> click.Command:
    @click.command("purge")
    @click.option("--days", type=click.IntRange(0), help="Forget what is older; default: RETENTION_DAYS.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def purge(days: int | None, yes: bool) -> None:
        """Forget finished events and their webhooks' bodies. What is still owed stays.

        The service does this by itself every hour. A forgotten event is no longer known as a duplicate.
        """
        before = time.time() - (retention() if days is None else days * 86400.0)
        if not yes:
            click.confirm(f"Forget what was finished and received before {as_time(before)}?", abort=True)
        count = 0
        while some := journal().purge(before):
            count += some
            click.echo(f"{count} events forgotten …")
        click.echo(f"Done: {count} events forgotten.")

    return purge


def _returnable(story: EventStory) -> list[JobStory]:
    return [job for job in story.jobs if job.state in RETURNABLE]


def _print(found: Sequence[EventStory]) -> None:
    if not found:
        click.echo("No events fit.")
        return
    click.echo(ROW.format("event", "received (UTC)", "source", "kind", "of", "jobs"))
    for story in found:
        jobs = ", ".join(_job(job) for job in story.jobs)
        received = as_time(story.received_at)
        click.echo(ROW.format(story.id, received, story.source, story.kind, story.order_key, jobs))


def _job(job: JobStory) -> str:
    words = f"{job.lane} {job.state}"
    if job.state == State.PENDING:
        words += f" until {as_time(job.due_at)}" if job.due_at > time.time() else ""
    return f"{words} ({job.reason})" if job.reason else words
