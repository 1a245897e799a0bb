"""All that stands in a journal, wherever it lies: to see that somebody is not in it."""

from __future__ import annotations

from pathlib import Path

from databases import run_sql

from app.journal.tables import metadata


def everything(url: str) -> str:
    """Return all that stands in a journal's tables, as text."""
    shown = []
    for table in metadata.sorted_tables:
        for row in run_sql(url, f"SELECT * FROM {table.name}"):  # noqa: S608
            shown.append(repr([bytes(value).decode() if isinstance(value, bytes) else value for value in row]))
    return "\n".join(shown)


def on_disk(url: str) -> bytes:
    """Return the bytes of SQLite's files."""
    path = Path(url.removeprefix("sqlite:///"))
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
