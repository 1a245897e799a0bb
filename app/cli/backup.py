"""`flask backup`: a copy of the journal to go back to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from app.journal import JournalError, backup

LINE_SECONDS = 2.0


def make_command(url: Callable[[], str]) -> click.Command:
    """Build the command; `url`: where the journal is."""

    @click.command("backup")
    @click.argument("file", type=click.Path(path_type=Path))
    @click.option("--force", is_flag=True, help="In place of a file that is there.")
    def make_backup(file: Path, force: bool) -> None:
        """Copy the SQLite journal into FILE, while the service runs.

        The copy is whole and checked, or not there. Only you can read it. It is as large as what the journal
        holds: people's data too. For PostgreSQL use pg_dump.

        To go back to it: stop the service, put the copy in the journal's place, delete the files beside it that end
        in -wal and -shm, start the service.

        \b
        flask backup data/backup-2026-11-24.db
        flask backup --force /mnt/backups/kommo-relay.db
        """
        began = time.monotonic()
        try:
            size = backup(url(), file, force=force, heard=_Progress().heard)
        except JournalError as error:
            words = str(error)
            raise click.ClickException(words[:1].upper() + words[1:]) from error
        click.echo(f"{file}: {size / 1e6:,.1f} MB, checked, in {time.monotonic() - began:.1f} s.")

    return make_backup


class _Progress:
    """Says on standard error how far a long copy is."""

    def __init__(self) -> None:
        self._line_at = time.monotonic() + LINE_SECONDS

    def heard(self, done: int, total: int) -> None:
        if time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + LINE_SECONDS
            click.echo(f"{100 * done // max(total, 1)} % of {total / 1e6:,.0f} MB …", err=True)
