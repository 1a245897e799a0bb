"""`flask backfill`: bring over what Kommo already has."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from app.backfill import EVENTS, Audience, Backfill, BackfillError, Order, Place, Tally
from app.cli.options import Moment
from app.events import Lane, StageNews
from app.journal import JournalError
from app.mapping import Stage

BAR = 30  # characters
LINE_SECONDS = 10.0  # between two lines where there is no terminal
INTERRUPTED = 130  # exit code, as of any program that Ctrl-C ends
SHOWN = 10  # persons of a dry run, and refused ones
ROW = "{:<9} {:<10} {:<20} {:<34} {}"

Said = tuple[str, float]


class SaidMoment(click.ParamType[Said]):
    """A moment, with the words that said it: `90d` is the same order when it is given again tomorrow."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Said:
        """Return the words and Unix seconds."""
        return str(value), Moment().convert(value, param, ctx)


class StageName(click.ParamType[str]):
    """The name of a stage in the mapping file, which is read only when one is given."""

    name = "stage"

    def __init__(self, stages: Callable[[], Sequence[Stage]]) -> None:
        self._stages = stages

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, if there is such a stage."""
        names = list(dict.fromkeys(stage.name for stage in self._stages()))
        return click.Choice(names).convert(value, param, ctx)


def make_command(
    stages: Callable[[], Sequence[Stage]], make: Callable[[Order, Audience], Backfill]
) -> click.Command:
    """Build the command; `stages`: those of the mapping file."""
    when = "30m, 6h, 2d (ago) or an ISO date."

    @click.command("backfill")
    @click.option(
        "--pipeline", "pipelines", type=int, multiple=True, help="Only deals of this pipeline, by Kommo's id."
    )
    @click.option("--stage", type=StageName(stages), help="Only deals in this stage of the mapping file.")
    @click.option("--since", type=SaidMoment(), help=f"Only deals changed since: {when}")
    @click.option("--until", type=SaidMoment(), help=f"Only deals changed before: {when}")
    @click.option("--events", is_flag=True, help="Send each deal's stage event too, by way of the journal.")
    @click.option("--dry-run", is_flag=True, help="Only read, and say what would be written where.")
    @click.option("--restart", is_flag=True, help="Begin anew, not where this command was stopped before.")
    @click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
    @click.option("--yes", is_flag=True, help="Do not ask before events are sent.")
    def backfill(
        pipelines: tuple[int, ...],
        stage: str | None,
        since: Said | None,
        until: Said | None,
        events: bool,
        dry_run: bool,
        restart: bool,
        as_json: bool,
        yes: bool,
    ) -> None:
        """Bring the persons of Kommo's deals to Encharge and Ortto, as a stage change would.

        Without options: those of all active deals whose stage is in the mapping file. A person with several deals
        gets the one that was changed last. No email sequence starts, unless one of yours goes by persons' fields.

        With --events the stage event is sent too, and may start sequences. The journal delivers it, so the service
        must be running (or `flask work`). An event is sent once for a deal, its stage and the day.

        However it is stopped, the same command goes on where it was. While a vendor is down it waits. The exit code
        is 1 if persons were refused, or if it could not go on.

        \b
        flask backfill --dry-run
        flask backfill
        flask backfill --pipeline 7100010 --stage qualified --since 90d
        flask backfill --stage proposal_sent --events
        """
        if events and not (dry_run or yes):
            click.confirm(
                "Stage events may start email sequences at Encharge and Ortto. Send them?", abort=True, err=True
            )
        words = [events, sorted(pipelines), stage, since and since[0], until and until[0]]
        order = Order(
            key=f"backfill:{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]}",
            pipeline_ids=tuple(sorted(pipelines)),
            stage=stage,
            since=since and since[1],
            until=until and until[1],
            events=events,
            dry_run=dry_run,
        )
        display = Display()
        walk = make(order, display)
        status, trouble, code = _carry_out(walk, restart)
        display.close()
        tally = walk.place.tally
        if as_json:
            click.echo(json.dumps({"status": status, "error": trouble, **asdict(tally)}, ensure_ascii=False))
        else:
            _report(tally, walk.samples, order)
        if trouble:
            click.echo(trouble, err=True)
        if status != "done" and not dry_run:
            click.echo("Stopped. The same command goes on from here.", err=True)
        sys.exit(code or (1 if tally.refusals else 0))

    return backfill


def _carry_out(walk: Backfill, restart: bool) -> tuple[str, str, int]:
    """Walk; return how it ended, what is to be mended, and the exit code."""
    try:
        walk.run(restart=restart)
    except KeyboardInterrupt:
        return "interrupted", "", INTERRUPTED
    except (BackfillError, JournalError) as error:
        return "stopped", str(error), 1
    return "done", "", 0


class Display:
    """Shows on standard error how far a walk is: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._began = time.monotonic()
        self._before = 0  # deals that were done when this process began
        self._line_at = 0.0
        self._why = ""
        self._width = 0

    def resumed(self, place: Place) -> None:
        """Say that the walk goes on where an earlier one was."""
        self._before = place.tally.deals
        begun = datetime.fromtimestamp(place.begun, UTC).strftime("%Y-%m-%d %H:%M")
        self._say(f"Going on after {self._before:,} deals of the run begun {begun} UTC (--restart begins anew).")

    def progress(self, tally: Tally, total: int) -> None:
        """Show deals, share, rate and time left."""
        now = time.monotonic()
        over = tally.deals >= total
        if not self._live and not over and now < self._line_at:
            return
        self._line_at = now + LINE_SECONDS
        self._why = ""
        text = progress_words(tally.deals, total, tally.deals - self._before, now - self._began)
        if self._live:
            filled = BAR if over else BAR * tally.deals // total
            text = f"[{'#' * filled}{' ' * (BAR - filled)}] {text}"
        self._say(text, replaced=self._live)

    def waiting(self, why: str) -> None:
        """Say why nothing moves, once."""
        if why != self._why:
            self._why = why
            self._say(f"Waiting: {why}")

    def close(self) -> None:
        """Leave the last line of the bar standing."""
        if self._width:
            click.echo(err=True)
            self._width = 0

    def _say(self, text: str, *, replaced: bool = False) -> None:
        """Write a line over the bar; `replaced`: the next one is written over it."""
        start = "\r" if self._width else ""
        click.echo(start + text.ljust(self._width), nl=not replaced, err=True)
        self._width = len(text) if replaced else 0


def progress_words(done: int, total: int, here: int, seconds: float) -> str:
    """Return how far a walk is; `here`: the deals of this process, in `seconds`."""
    if done >= total:
        return f"{done:,} deals in {_duration(seconds)}"
    share = f"{100 * done // total} % · {done:,} of {total:,} deals"
    if not here:
        return share
    rate = here / seconds
    return f"{share} · {rate:,.0f}/s · {_duration((total - done) / rate)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _report(tally: Tally, samples: Sequence[tuple[Lane, StageNews]], order: Order) -> None:
    what = "events" if order.events else "persons"
    verb = "would be written" if order.dry_run else "recorded" if order.events else "written"
    for name, count in tally.written.items():
        where = "" if name == EVENTS else f"{name.title()}: "
        click.echo(f"{where}{count:,} {what} {verb}")
    if not tally.written:
        click.echo(f"No {what} {verb}.")
    for reason, count in sorted(tally.skipped.items(), key=lambda item: -item[1]):
        click.echo(f"skipped: {count:,} deals: {reason}")
    if samples:
        click.echo(f"\nThe first {min(SHOWN, len(samples))}:")
        click.echo(ROW.format("at", "deal", "stage", "email", "name and fields"))
    for lane, news in samples[:SHOWN]:
        more = [news.first_name, news.last_name, *(f"{name}={value}" for name, value in news.fields.items())]
        click.echo(ROW.format(lane, news.lead_id, news.person_stage, news.email, " ".join(filter(None, more))))
    if tally.refusals:
        click.echo(f"\nRefused: {tally.refusals:,}. Mend these in Kommo and run it again:")
    for refused in tally.refused:
        click.echo(f"  {refused.email or 'somebody'} (deal {refused.lead_id}): {refused.words}")
    if tally.refusals > len(tally.refused):
        click.echo(f"  … and {tally.refusals - len(tally.refused):,} more")
    if tally.written.get(EVENTS):
        click.echo("The service delivers them. flask events --state pending: what is owed; --state dead: refused.")
