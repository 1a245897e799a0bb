"""What must hold whatever comes in. A broken promise is an AssertionError that says which one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

AGAIN = 5  # how often something that seems to cost too much is measured again: the machine has other work, too

# The limits' cost, in nanoseconds of one processor: what a body within the limits may cost at most.
BASE_NS = 25_000_000
BYTE_NS = 3_000
THING_NS = 200_000  # of each event that comes out

# An engine that counts branches makes the code some times slower.
watched = 4 if "atheris" in sys.modules else 1


def cheap(work: Callable[[], T], size: int, things: Callable[[T], int] = lambda result: 0) -> T:
    """Do some work and return its result; fail if it costs more than so many bytes and things may."""
    began = time.perf_counter_ns()
    result = work()
    spent = time.perf_counter_ns() - began
    if spent <= BASE_NS:
        return result
    allowed = watched * (BASE_NS + BYTE_NS * size + THING_NS * things(result))
    if spent > allowed:
        spent = min(spent, *(_processor_time(work) for _ in range(AGAIN)))
        assert spent <= allowed, f"{size} bytes cost {spent / 1e6:.0f} ms, and {allowed / 1e6:.0f} ms are allowed"
    return result


def _processor_time(work: Callable[[], object]) -> int:
    began = time.thread_time_ns()
    work()
    return time.thread_time_ns() - began


def storable(text: str, longest: int) -> None:
    """Check that a text goes into any database: not too long, no NUL, no half characters."""
    assert len(text) <= longest, f"{len(text)} characters where {longest} are the most: {text[:60]!r}…"
    assert "\0" not in text, f"a NUL in {text!r}"
    assert text.isascii() or text.encode(), "never false: what cannot be encoded raises"


def sentence(text: str, longest: int) -> None:
    """Check that a refusal is one line of bounded length, and holds no address: refusals are logged."""
    storable(text, longest)
    assert text, "a refusal without words"
    assert "\n" not in text, f"a line break in {text!r}"
    assert "\r" not in text, f"a line break in {text!r}"
    assert "@" not in text, f"an address in {text!r}"
