"""Bodies that grow: whatever is repeated, in a body as large as it may be, costs no more than the limits.

An input is a recipe: a line of `vendor content-type name`, and behind it five parts with `%%` between them: what
begins the body, what is repeated (a `#` counts), what stands in the middle, what is repeated behind it, and
the end. `{"event":"x"%%,"k#":1%%}` is an object of very many keys.
"""

from __future__ import annotations

from zlib import crc32

from app.events import Source
from fuzz.webhooks import read_as

VENDORS = {source.value: source for source in Source}
LARGEST = 1024 * 1024  # bytes of a body, as the routes of the webhooks take it
SMALL = 16 * 1024
SELDOM = 32  # one recipe in so many is grown to the largest size while fuzzing


def check(data: bytes) -> None:
    """Grow a body by a recipe and read it; fail if it costs more than the limits."""
    grow_and_read(data, LARGEST if crc32(data) % SELDOM == 0 else SMALL)


def grow_and_read(recipe: bytes, size: int) -> None:
    """Read the body of a recipe, grown to so many bytes."""
    source, content_type, name, parts = head(recipe)
    read_as(source, content_type, name, grow(parts, size))


def head(data: bytes) -> tuple[Source, str, str | None, bytes]:
    """Return what the first line of an input says: vendor, content type and name; and what stands behind it."""
    line, _, rest = data.partition(b"\n")
    vendor, content_type, name = [*line.decode("utf-8", "replace").split(" "), "", "", ""][:3]
    return VENDORS.get(vendor, Source.ENCHARGE), content_type, name or None, rest


def grow(parts: bytes, size: int) -> bytes:
    """Return a body of at most so many bytes, its second and fourth part as often as they fit."""
    begin, unit, middle, closing, end = (parts.split(b"%%", 4) + [b""] * 4)[:5]
    each = len(unit) + len(closing) + len(str(size)) * (unit + closing).count(b"#")
    times = max(0, size - len(begin) - len(middle) - len(end)) // max(1, each)
    return b"".join((begin, _repeated(unit, times), middle, _repeated(closing, times), end))


def _repeated(unit: bytes, times: int) -> bytes:
    if b"#" not in unit:
        return unit * times
    return b"".join(unit.replace(b"#", b"%d" % number) for number in range(times))
