"""`flask reconcile`: look now for stage changes of which no webhook told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import click

from app.cli.options import Moment
from app.clients.errors import ApiError
from app.events import StageChange
from app.journal import JournalError, Recorded
from app.reconcile import InterruptedLookError, Reconciler, Report

WAIT_SECONDS = 1.0
TOLD_EVERY = 5.0  # seconds


def make_command(ask_reconciler: Callable[[], Reconciler], retention: Callable[[], float]) -> click.Command:
    """Build the command; `retention`: seconds for which events are known."""

    @click.command("reconcile")
    @click.option(
        "--since", type=Moment(), help="Go back to: 30m, 6h, 2d (ago) or an ISO date. Default: where it ended last."
    )
    @click.option("--dry-run", is_flag=True, help="Only say what would be recorded.")
    def reconcile(since: float | None, dry_run: bool) -> None:
        """Ask Kommo for stage changes of which no webhook told, and have them delivered.

        The running service does so by itself at its start and every RECONCILE_MINUTES. It begins with what happens
        after its first start; to go further back is for you to say, and no further than RETENTION_DAYS: what was
        forgotten would be sent again.

        \b
        flask reconcile --dry-run
        flask reconcile --since 2d
        """
        reconciler = ask_reconciler()
        if since is not None and since < time.time() - retention():
            raise click.UsageError(
                "--since is longer ago than RETENTION_DAYS: what was forgotten since would be sent again."
            )
        if since is None and not dry_run and reconciler.begin():
            click.echo("Stage changes from now on are looked for. To go back, say --since 2d.")
            return
        while not reconciler.take_turn():
            click.echo("The service is looking at this moment: waiting …")
            time.sleep(WAIT_SECONDS)
        try:
            report = reconciler.look(
                since, rehearse=dry_run, may_go_on=reconciler.take_turn, heard=_Teller(dry_run)
            )
        except (ApiError, JournalError) as error:
            raise click.ClickException(f"{error}. What was recorded stays; try again.") from error
        except InterruptedLookError as error:
            raise click.ClickException("Another process took over. What was recorded stays; try again.") from error
        finally:
            reconciler.end_turn()
        _sum_up(report, dry_run)

    return reconcile


class _Teller:
    """Says how far it is, and in a dry run what is new."""

    def __init__(self, dry_run: bool) -> None:
        self._dry_run = dry_run
        self._told_at = time.monotonic()

    def __call__(self, so_far: Report, new: Sequence[Recorded]) -> None:
        for item in new if self._dry_run else ():
            click.echo(_line(item))
        if time.monotonic() - self._told_at > TOLD_EVERY:
            self._told_at = time.monotonic()
            click.echo(f"… {so_far.read} read, {so_far.new} new", err=True)


def _line(item: Recorded) -> str:
    change = item.event.data
    assert isinstance(change, StageChange)  # noqa: S101 - the log is asked for nothing else
    at = datetime.fromtimestamp(item.event.moment, UTC).strftime("%Y-%m-%d %H:%M:%S")
    words = f"{at} {item.event.order_key} entered stage {change.status_id} of pipeline {change.pipeline_id}"
    return f"{words} (ignored: {item.refused})" if item.refused else words


def _sum_up(report: Report, dry_run: bool) -> None:
    click.echo(
        f"{report.read} stage changes in Kommo's log: {report.new} new, {report.known} known"
        + (f", {report.gone} of deals that are gone" if report.gone else "")
        + "."
    )
    if report.refused:
        click.echo(f"{report.refused} of the new ones are ignored: their stage is not in the mapping.")
    if dry_run:
        click.echo("Nothing was changed.")
    elif report.new > report.refused:
        click.echo("The running service delivers them.")
