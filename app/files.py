"""Files that people edit and we write: wholly or not at all."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

ANYBODY_WRITES = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


class FileError(Exception):
    """A file that was not written; it is as it was. The message names it and what to do."""


def replace(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Put content in the place of a file's, or make the file: a kill at any moment leaves the old or the new one.

    `mode` is for a new file; one that is there keeps its own. Raises FileError.
    """
    target = path.resolve()  # of a link: what it leads to
    beside = target.with_name(f".{target.name}.new")
    try:
        if target.exists():
            mode = stat.S_IMODE(target.stat().st_mode)
            if not mode & ANYBODY_WRITES:
                raise PermissionError(None, "it is read-only")
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)  # left behind by a kill
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.chmod(mode)
        beside.replace(target)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise FileError(f"{path} cannot be written ({error.strerror}).") from error
