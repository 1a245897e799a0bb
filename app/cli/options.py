"""What several commands share: options, and how they print."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from flask.cli import FlaskGroup

from app import moments
from app.events import Source, State
from app.journal import Search
from app.moments import as_time

__all__ = ["Moment", "as_time", "echo_json", "make_search", "search_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


class Moment(click.ParamType[float]):
    """A point in time: `30m`, `6h` or `2d` ago, or an ISO date with or without a time (UTC if it says no zone)."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return Unix seconds."""
        try:
            return moments.parse(str(value), now=time.time())
        except ValueError as error:
            self.fail(str(error), param, ctx)


def is_command_wanted() -> bool:
    """Say whether Flask looks for one of our commands, to run it or to show its help.

    Its own (run, shell, routes) ask for the app too, but only when they are at work themselves.
    """
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, FlaskGroup)


def echo_json(told: Mapping[str, Any]) -> None:
    """Print a JSON object on a line of its own."""
    click.echo(json.dumps(told, ensure_ascii=False))


def search_options(command: Command) -> Command:
    """Add the options that say which events are meant."""
    for option in (
        click.option("--until", type=Moment(), help="Received before: 30m, 6h, 2d (ago) or an ISO date."),
        click.option("--since", type=Moment(), help="Received since: 30m, 6h, 2d (ago) or an ISO date."),
        click.option("--source", type=click.Choice([source.value for source in Source]), help="Who sent it."),
        click.option("--campaign", help="Events whose campaign's name holds these words."),
        click.option("--email", help="Events of a person with this address."),
        click.option("--deal", type=int, help="Events of the Kommo deal with this id."),
        click.option("--state", type=click.Choice([state.value for state in State]), help="Events with a job so."),
    ):
        command = option(command)
    return command


def make_search(ids: tuple[int, ...], limit: int, **options: Any) -> Search:
    """Return the search that the options ask for."""
    return Search(
        ids=ids,
        state=State(options["state"]) if options["state"] else None,
        lead_id=options["deal"],
        email=options["email"].strip().lower() if options["email"] else None,
        campaign=options["campaign"],
        source=Source(options["source"]) if options["source"] else None,
        since=options["since"],
        until=options["until"],
        limit=limit,
    )
