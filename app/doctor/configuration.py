"""Checks of what was configured: settings, secrets, the mapping file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from app.doctor.lines import Line, green, red, yellow
from app.events import PLATFORMS
from app.mapping import MappingError, Rules
from app.settings import Settings, Survey

LONG_ENOUGH = 24  # characters of a secret
DIFFERENT_ENOUGH = 8  # different characters of one
GUESSED = re.compile(
    r"secret|change.?me|example|password|placeholder|your|dummy|default|test|todo|letmein|qwert|abcdef|012345|123456",
    re.IGNORECASE,
)
MAKE_ONE = "Make one with `openssl rand -hex 24`"
NEW_ONE = f"{MAKE_ONE}, set it as `new,old`, change it at the vendor, drop the old one."


def settings(survey: Survey) -> Iterator[Line]:
    """Say what is wrong with the settings."""
    for fault in survey.faults:
        what, _, todo = fault.sentence.partition(": ")
        yield red("settings", what, todo or "Correct it in .env or in the environment.")
    if not survey.faults:
        told = survey.settings
        off = [platform for platform, access in told.platforms.items() if not access.api_key]
        if len(off) == len(PLATFORMS):
            yield red(
                "settings",
                f"neither {' nor '.join(map(str.title, off))} has a key: no stage goes anywhere",
                f"Set {' or '.join(f'{platform.name}_API_KEY' for platform in off)}.",
            )
        else:
            words = (f"; {platform.title()} is off: it has no key" for platform in off)
            yield green("settings", f"complete{''.join(words)}")


def secrets(told: Settings) -> Iterator[Line]:
    """Say which secrets are weak; they themselves are not shown."""
    found = {
        "KOMMO_WEBHOOK_SECRET": told.kommo_webhook_secrets,
        **{
            f"{platform.name}_WEBHOOK_SECRET": access.webhook_secrets for platform, access in told.platforms.items()
        },
        "OPS_TOKEN": told.ops_tokens,
    }
    faults = [line for name, values in found.items() for value in values for line in _weakness(name, value)]
    faults += _same(found)
    yield from faults
    if not faults and any(found.values()):
        yield green("secrets", "long, random, and each its own")


def _weakness(name: str, value: str) -> Iterator[Line]:
    remedy = f"{MAKE_ONE}, set it and restart." if name == "OPS_TOKEN" else NEW_ONE  # it alone stands nowhere else
    if len(set(value.lower())) < DIFFERENT_ENOUGH or _repeats(value):
        yield red("secrets", f"{name} repeats itself: it can be guessed", remedy)
    elif GUESSED.search(value):
        yield red("secrets", f"{name} looks like a placeholder: it can be guessed", remedy)
    elif len(value) < LONG_ENOUGH:
        yield yellow("secrets", f"{name} has {len(value)} characters; {LONG_ENOUGH} or more are safe", remedy)


def _repeats(value: str) -> bool:
    """Say whether a text is one part again and again."""
    return value in (value + value)[1:-1]


def _same(found: Mapping[str, Sequence[str]]) -> list[Line]:
    return [
        yellow(
            "secrets",
            f"{one} and {other} are the same: whoever gets the one has the other",
            "Give each vendor a secret of its own. " + NEW_ONE,
        )
        for (one, ones), (other, others) in combinations(found.items(), 2)
        if set(ones) & set(others)
    ]


def mapping(found: Rules | MappingError) -> Iterator[Line]:
    """Say what is wrong with the mapping file."""
    if isinstance(found, MappingError):
        for fault in found.faults:
            yield red("mapping file", fault, "Correct that line; text after a # is not read.")
        return
    if not found.stages:
        yield yellow("mapping file", "it maps no stage: no deal goes anywhere", "Write your stages into it.")
        return
    yield green(
        "mapping file", f"{len(found.stages)} stages, {len(found.fields)} fields, {found.activities.count} rules"
    )
