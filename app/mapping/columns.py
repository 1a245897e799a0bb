"""The platforms' columns in the mapping file: what each calls events and fields, and what it takes. Pure.

A platform that is not in SPECIAL takes any name of an event and of a field; texts, numbers and flags as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.events import PLATFORMS, Source
from app.mapping.person_fields import encharge_value, ortto_money, ortto_value

CRM_STAGE_CHANGED = "act:cm:crm-stage-changed"
UNSTORABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tabs and line breaks

# Ours on every person, or how the platform knows who it is: a mapped field must not overwrite them.
OWN = (
    "email",
    "firstName",
    "lastName",
    "kommo_lead_id",
    "kommo_current_stage",
    "kommo_last_event",
    "id",
    "userId",
)
ORTTO_OWN = ("str::email", "str::first", "str::last", "str:cm:kommo-lead-id", "str:cm:kommo-stage", "str::ei")


@dataclass(frozen=True)
class Column:
    """How a platform stands in the mapping file."""

    event: Callable[[object], object]  # checks an event's name
    default_event: str  # of a stage without one
    field: Callable[[str], str]  # checks a field's name
    value: Callable[
        [str, str, Any], Any
    ]  # field, source, value → the value as the platform takes it; None: not at all
    by_label: bool = False  # a person's stage is told by its label, not by its name


def storable(value: str) -> str:
    """Refuse what escapes in quotes can make and no database, or no vendor, takes."""
    if found := UNSTORABLE.search(value):
        raise ValueError(f"has the control character {found[0]!r}: delete it")
    return value


def _event_name(platform: str, value: object) -> object:
    """Check an event's name; it can be sent as a tag, and a comma would make two tags of it."""
    if value is False:
        return value
    if not isinstance(value, str) or not value.strip() or "," in value or len(value) > 255:
        raise ValueError(f"must be an event's name without commas, or false for not to {platform}")
    return storable(value.strip())


def _field_name(platform: str, own: Collection[str], value: str) -> str:
    if value in own:
        raise ValueError(f"cannot be {value!r}: the relay or {platform} itself fills that one")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", value):
        raise ValueError(f"must be a field's API name at {platform} like jobTitle, not {value!r}")
    return value


def _activity_id(value: object) -> object:
    if value is False or (isinstance(value, str) and re.fullmatch(r"act:cm:[a-z0-9-]+", value)):
        return value
    raise ValueError(f"must be an activity's id like {CRM_STAGE_CHANGED}, or false for not to Ortto")


def _ortto_field(value: str) -> str:
    if value in ORTTO_OWN:
        raise ValueError(f"cannot be {value!r}: the relay fills that one")
    if not re.fullmatch(r"(str|txt|int|bol|dtz|tme|phn|geo|sst|obj):(cm)?:[a-z0-9-]+", value):
        raise ValueError(
            f"must be a field's id at Ortto like str:cm:job-title or phn::phone, not {value!r} "
            "(types: str txt int bol dtz tme phn geo sst obj)"
        )
    return value


def _ortto_value(field: str, source: str, value: Any) -> Any:
    return ortto_money(field, value) if source == "lead.price" else ortto_value(field, value)


def _plain(platform: Source) -> Column:
    return Column(
        event=partial(_event_name, platform.title()),
        default_event="deal_moved_to_{stage}",
        field=partial(_field_name, platform.title(), OWN),
        value=lambda field, source, value: encharge_value(value),
    )


SPECIAL = {Source.ORTTO: Column(_activity_id, CRM_STAGE_CHANGED, _ortto_field, _ortto_value, by_label=True)}
COLUMNS: Mapping[Source, Column] = {platform: SPECIAL.get(platform) or _plain(platform) for platform in PLATFORMS}
