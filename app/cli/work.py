"""`flask work`: carry out jobs in a process of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import click
from flask.cli import with_appcontext

from app.dispatcher import Dispatcher


def make_command(ask_dispatcher: Callable[[], Dispatcher]) -> click.Command:
    """Build the command."""

    @click.command("work")
    @with_appcontext
    def work() -> None:
        """Carry out waiting jobs until stopped (SIGTERM, Ctrl-C).

        The web process does this too; run a worker beside it to have retries carried out while no web process runs,
        or to take the work off it. As many as you like may run.
        """
        dispatcher = ask_dispatcher()
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        dispatcher.start()
        click.echo("Carrying out jobs. Ctrl-C stops after the batch that is under way.")
        stop.wait()
        dispatcher.stop()

    return work
