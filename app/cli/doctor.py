"""`flask doctor`: is all as it should be, and what to do where it is not."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

import click

from app.doctor import Colour, Doctor, Line

WORDS = {Colour.GREEN: "green", Colour.YELLOW: "yellow", Colour.RED: "red", Colour.GREY: "?"}
STYLES = {Colour.GREEN: "green", Colour.YELLOW: "yellow", Colour.RED: "red", Colour.GREY: "bright_black"}


def make_command(make: Callable[[], Doctor]) -> click.Command:
    """Build the command; `make` works whatever is wrong with the settings."""

    @click.command("doctor")
    @click.option("--strict", is_flag=True, help="Exit with 1 on yellow, too.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
    def doctor(strict: bool, as_json: bool) -> None:
        """Look whether all is as it should be: settings, keys, accounts, webhook, journal, clock.

        One line for each check: green, yellow (it works, but look at it), red (it does not), or ? where nobody can
        tell; and what to do. The exit code is 1 if something is red, else 0. Nothing is written anywhere; the calls
        to Kommo are counted in the journal, so that its limit holds.

        \b
        flask doctor
        flask doctor --strict --json
        """
        lines = make().examine()
        for line in lines:
            click.echo(json.dumps(asdict(line), ensure_ascii=False) if as_json else _shown(line))
        if not as_json:
            click.echo(_sum(lines))
        bad = {Colour.RED, Colour.YELLOW} if strict else {Colour.RED}
        sys.exit(1 if any(line.colour in bad for line in lines) else 0)

    return doctor


def _shown(line: Line) -> str:
    colour = click.style(f"{WORDS[line.colour]:<7}", fg=STYLES[line.colour], bold=line.colour == Colour.RED)
    words = f"{line.words} → {line.remedy}" if line.remedy else line.words
    return f"{colour} {line.topic:<17} {' '.join(words.split())}"


def _sum(lines: Sequence[Line]) -> str:
    counts = Counter(line.colour for line in lines)
    return "\n" + ", ".join(f"{counts[colour]} {WORDS[colour]}" for colour in Colour if counts[colour])
