"""What SQLite's files still hold of what was deleted.

Deleted rows are overwritten (`secure_delete`), but when SQLite moves rows from one page to another it leaves copies
in places that no row uses, and the log beside the file keeps pages as they were until it is emptied. Only VACUUM,
which writes the whole file anew, leaves nothing. Reference: https://www.sqlite.org/pragma.html#pragma_secure_delete
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from app.journal.erasure import raw_spelled
from app.journal.errors import JournalError, words

QUICK_BYTES = 50_000_000  # VACUUM takes about a second for so much; a webhook waits no longer
EMPTYING_SECONDS = 30.0
LOOK_BYTES = 8_000_000


def wipe(connection: Connection, emails: Sequence[str], *, quick: bool) -> bool:
    """Wipe addresses out of SQLite's files; say whether some may be left."""
    if connection.dialect.name != "sqlite":
        return False
    path = Path(connection.engine.url.database or "")
    emptied = _empty_log(connection)
    if not _holds(path, emails):
        return not emptied
    if quick and path.stat().st_size > QUICK_BYTES:
        return True
    try:
        connection.exec_driver_sql("VACUUM")
    except SQLAlchemyError as error:
        raise JournalError(
            f"the rows are erased, but SQLite's file cannot be written anew: {words(error)} (that takes room for a "
            "copy among its temporary files, see TMPDIR, and nobody else may write for longer than 5 s)"
        ) from error
    return not _empty_log(connection)


def _empty_log(connection: Connection) -> bool:
    """Move what stands in the log into the file and cut it off; False if somebody reads from it all the time."""
    deadline = time.monotonic() + EMPTYING_SECONDS
    while time.monotonic() < deadline:
        busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
        if not busy:
            return True
        time.sleep(0.05)
    return False


def _holds(path: Path, emails: Sequence[str]) -> bool:
    pattern = raw_spelled(emails)
    longest = 12 * max(map(len, emails))  # each character may be encoded
    files = (path.with_name(f"{path.name}{ending}") for ending in ("", "-wal"))
    return any(pattern.search(part) for file in files if file.exists() for part in _read(file, longest))


def _read(path: Path, overlap: int) -> Iterator[bytes]:
    """Yield a file in parts that overlap by the longest that is looked for."""
    with path.open("rb") as stream:
        rest = b""
        while part := stream.read(LOOK_BYTES):
            yield rest + part
            rest = part[-overlap:]
