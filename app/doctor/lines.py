"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Colour(StrEnum):
    """How well something is."""

    GREEN = "green"
    YELLOW = "yellow"  # it works; a person should look
    RED = "red"  # something does not work, or will not
    GREY = "grey"  # nobody can tell


@dataclass(frozen=True)
class Line:
    """One check: what was looked at, how it is, and what to do."""

    topic: str
    colour: Colour
    words: str
    remedy: str = ""


def green(topic: str, words: str) -> Line:
    """Return that all is well."""
    return Line(topic, Colour.GREEN, words)


def yellow(topic: str, words: str, remedy: str) -> Line:
    """Return what a person should look at."""
    return Line(topic, Colour.YELLOW, words, remedy)


def red(topic: str, words: str, remedy: str) -> Line:
    """Return what does not work."""
    return Line(topic, Colour.RED, words, remedy)


def grey(topic: str, words: str, remedy: str = "") -> Line:
    """Return what nobody can tell."""
    return Line(topic, Colour.GREY, words, remedy)
