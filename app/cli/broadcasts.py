"""`flask broadcasts`: what became of Encharge's broadcasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click

from app.cli.options import as_time, echo_json
from app.clients.encharge import Broadcast, BroadcastActivity, EnchargeClient
from app.clients.errors import ApiError, Fault

ROW = "{:>9}  {:<10} {:<20} {:>9} {:>15} {:>15}  {}"
ACTIVITY_ROW = "{:<20} {:<12} {:<32} {}"
UNKNOWN = "–"  # Encharge does not say it
NAMED = 20  # known broadcasts that are named to who asked for an unknown one


def make_command(ask_client: Callable[[], EnchargeClient | None]) -> click.Command:
    """Build the command; without a client, Encharge is off."""

    @click.command("broadcasts")
    @click.argument("broadcast_id", required=False, type=int, metavar="[ID]")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line; times in Unix seconds.")
    def broadcasts(broadcast_id: int | None, as_json: bool) -> None:
        """List Encharge's broadcasts with how many people got, opened and clicked them, newest first.

        With an ID: this one. Encharge's API has only totals; with ENCHARGE_DIALECT=article it also says who did
        what. Percentages are of the delivered; – is what Encharge does not say.

        \b
        flask broadcasts
        flask broadcasts 502
        flask broadcasts --json
        """
        encharge = ask_client()
        if encharge is None:
            raise click.ClickException("Encharge is off: set ENCHARGE_API_KEY.")
        with _explaining("GET /broadcasts"):
            known = sorted(encharge.broadcasts(), key=lambda broadcast: -broadcast.id)
        if broadcast_id is None:
            _list(known, as_json)
            return
        found = next((broadcast for broadcast in known if broadcast.id == broadcast_id), None)
        if found is None:
            raise click.ClickException(_no_such(broadcast_id, known))
        with _explaining(f"GET /broadcasts/{broadcast_id}/activity"):
            activity = encharge.broadcast_activity(broadcast_id)
        _show(found, activity, as_json)

    return broadcasts


@contextmanager
def _explaining(call: str) -> Iterator[None]:
    """Turn what Encharge refuses into a message that says what to do."""
    try:
        yield
    except ApiError as error:
        if error.status == 401:
            raise click.ClickException(
                f"{error}\nEncharge does not accept the key: check ENCHARGE_API_KEY, and ENCHARGE_DIALECT, "
                "which says how the key is sent."
            ) from error
        if error.status in (404, 405) and error.fault == Fault.LOCKED_OUT:
            raise click.ClickException(
                f"Encharge does not know {call}, which it does not document: your account or plan may not have it, "
                "or ENCHARGE_API_URL or ENCHARGE_DIALECT is wrong."
            ) from error
        raise click.ClickException(str(error)) from error


def _no_such(broadcast_id: int, known: Sequence[Broadcast]) -> str:
    if not known:
        return f"There is no broadcast {broadcast_id}: Encharge lists none."
    names = [f"  {broadcast.id}  {broadcast.name}" for broadcast in known[:NAMED]]
    more = [f"  and {len(known) - NAMED} more: flask broadcasts"] if len(known) > NAMED else []
    return "\n".join([f"There is no broadcast {broadcast_id}. Encharge lists:", *names, *more])


def _list(known: Sequence[Broadcast], as_json: bool) -> None:
    if as_json:
        for broadcast in known:
            echo_json(_told(broadcast))
        return
    if not known:
        click.echo("Encharge lists no broadcasts.")
        return
    click.echo(ROW.format("broadcast", "status", "sent (UTC)", "delivered", "opened", "clicked", "name"))
    for broadcast in known:
        delivered = broadcast.delivered
        click.echo(
            ROW.format(
                broadcast.id,
                broadcast.status,
                _when(broadcast.sent_at),
                _count(delivered),
                _count(broadcast.opened, delivered),
                _count(broadcast.clicked, delivered),
                broadcast.name,
            )
        )


def _show(broadcast: Broadcast, activity: Sequence[BroadcastActivity] | None, as_json: bool) -> None:
    if as_json:
        done = None if activity is None else [asdict(entry) for entry in activity]
        echo_json({**_told(broadcast), "activity": done})
        return
    delivered = broadcast.delivered
    for name, words in (
        ("broadcast", f"{broadcast.id}  {broadcast.name}"),
        ("status", broadcast.status),
        ("sent (UTC)", _when(broadcast.sent_at)),
        ("entered", _count(broadcast.entered)),
        ("delivered", _count(delivered)),
        ("opened", _count(broadcast.opened, delivered)),
        ("clicked", _count(broadcast.clicked, delivered)),
        ("bounced", _count(broadcast.bounced)),
        ("unsubscribed", _count(broadcast.unsubscribed)),
        ("counted (UTC)", _when(broadcast.counted_at)),
    ):
        click.echo(f"{name:<14} {words}")
    click.echo()
    if activity is None:
        click.echo("Who did what is not known: Encharge's documented API has only totals.")
    elif not activity:
        click.echo("Nobody has done anything with it yet.")
    else:
        click.echo(ACTIVITY_ROW.format("when (UTC)", "what", "who", "link"))
        for entry in activity:
            who = entry.email or UNKNOWN
            click.echo(ACTIVITY_ROW.format(_when(entry.at), entry.event, who, entry.link).rstrip())


def _told(broadcast: Broadcast) -> dict[str, Any]:
    """Return what is known of a broadcast, with its rates."""
    rates = {
        "opened_percent": _percent(broadcast.opened, broadcast.delivered),
        "clicked_percent": _percent(broadcast.clicked, broadcast.delivered),
    }
    return {**asdict(broadcast), **rates}


def _percent(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else round(100 * part / whole, 1)


def _count(count: int | None, whole: int | None = None) -> str:
    """Return a count, with its share of a whole if there is one."""
    if count is None:
        return UNKNOWN
    share = _percent(count, whole)
    return str(count) if share is None else f"{count} ({share}%)"


def _when(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else as_time(seconds)
