"""What may stand in the mapping file: its rows, and the words for a value that cannot be. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from app.events import PLATFORMS, Kind, Source
from app.ids import LARGEST_ID
from app.mapping.columns import COLUMNS, Column, storable

PLACEHOLDERS = (
    "email",
    "name",
    "first_name",
    "last_name",
    "campaign",
    "subject",
    "link",
    "event",
    "did",
    "platform",
    "source",
    "time",
    "lead",
    "lead_id",
    "price",
    "stage",
)
OTHERWISE = {"contact.name": "name", "lead.name": "lead"}  # placeholders that people expect, and ours
MOST_COMPARED = 1000  # words with which a mistyped one is compared: each takes its time
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ACTION_KINDS = ("task", "note", "field", "tag", "untag")
EMAIL_SOURCES = tuple(platform.value for platform in PLATFORMS)
EMAIL_KINDS = tuple(kind.value for kind in Kind if kind not in (Kind.STAGE_CHANGED, Kind.OTHER))


def suggestion(word: str, known: Collection[str]) -> str:
    """Return the end of a sentence about an unknown word: the nearest known one, or all of them."""
    if len(known) > MOST_COMPARED:
        return ""
    near = difflib.get_close_matches(word.lower(), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known) or 'none'}"


# -- what a value may be --


def _version(value: object) -> object:
    if type(value) is int and value == 1:
        return value
    raise ValueError("must be 1: this is the only version there is")


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty: fill it in or delete the line")
    return storable(value.strip())


def _short(value: str) -> str:
    if len(value) > 255:
        raise ValueError("is longer than 255 characters")
    return value


def _positive(value: int) -> int:
    if not 0 < value <= LARGEST_ID:
        raise ValueError("must be an id, a whole number above 0")
    return value


def _stage(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", value):
        raise ValueError(f"must be of a-z, 0-9 and _, not {value!r}")
    return value


def placeholders(template: str) -> list[str]:
    """Return what stands in braces in a template."""
    return re.findall(r"\{([^{}]*)\}", template)


def is_kommo_value(name: str) -> bool:
    """Say whether a name is that of a value of Kommo: lead.price, company.name, or a field's."""
    entity, _, key = name.partition(".")
    if not re.fullmatch(r"(lead|contact|company)\.[A-Za-z0-9_]+", name):
        return False
    return key not in ("name", "price") or (entity, key) in (("lead", "price"), ("company", "name"))


def _kommo_source(value: str) -> str:
    if is_kommo_value(value):
        return value
    if re.fullmatch(r"(lead|contact|company)\.(name|price)", value):
        raise ValueError(f"cannot be {value!r}: {value.partition('.')[0]} takes a field's code or id there")
    raise ValueError(
        f"cannot be {value!r}: write lead.price, company.name, "
        "or lead., contact. or company. with a field's code or id"
    )


def _one_of(choices: tuple[str, ...]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"cannot be {value!r}{suggestion(value, choices)}")
        return value

    return AfterValidator(check)


def _listed(value: object) -> object:
    return value if isinstance(value, list | dict) else [value]


def _not_empty(value: list[str]) -> list[str]:
    if not value:
        raise ValueError("is an empty list: fill it in or delete the line")
    return value


def _template(value: str) -> str:
    for name in placeholders(value):
        if name not in PLACEHOLDERS and not is_kommo_value(name):
            near = suggestion(OTHERWISE.get(name, name), PLACEHOLDERS)
            raise ValueError(f"has an unknown placeholder {{{name}}}{near}")
    if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", value)):
        raise ValueError("has a brace without its partner: placeholders look like {email}")
    if len(value) > 2000:
        raise ValueError("is longer than 2000 characters")
    return value


def _no_template(value: str) -> str:
    if re.search(r"[{}]", value):
        raise ValueError("takes no placeholders: a tag has the same name for everybody")
    return value


def _seconds(value: object) -> int:
    units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", str(value))
    if not found or int(found[1]) * units[found[2]] > 365 * 86400:
        raise ValueError(f"must be a time of at most a year like 30m, 2h or 1d, not {value!r}")
    return int(found[1]) * units[found[2]]


def _due(value: int) -> int:
    if value < 60:
        raise ValueError("must be at least a minute: a task that is due when it is made is overdue when it is seen")
    return value


def _minute(value: object) -> object:
    """Return the minute of the day that a time like 09:30 says."""
    found = re.fullmatch(r"([01]?[0-9]|2[0-4]):([0-5][0-9])", str(value))
    minute = int(found[1]) * 60 + int(found[2]) if found else -1
    if not 0 <= minute <= 24 * 60:
        raise ValueError(f"must be a time of the day like 09:30, not {value!r}")
    return minute


def _days(value: object) -> object:
    """Return the days that `mon-fri`, or a list of days, says."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise ValueError("must be days like mon-fri, or a list like [mon, wed]")
    days: list[int] = []
    for word in words:
        first, _, last = str(word).lower().partition("-")
        for day in (first, last or first):
            if day not in DAYS:
                raise ValueError(f"has a day we do not know, {day!r}{suggestion(day, DAYS)}")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days += range(begin, end + 1) if begin <= end else [*range(begin, 7), *range(end + 1)]
    return sorted(set(days))


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = suggestion(value, sorted(available_timezones())) if len(value) < 50 else ""
        near = near if "did you mean" in near else ""
        raise ValueError(f"must be a time zone like Europe/Berlin, not {value!r}{near}") from None
    return value


def _assignee(value: object) -> object:
    if isinstance(value, dict):
        for pipeline, user in value.items():
            if pipeline != "other" and not re.fullmatch(r"[1-9][0-9]{0,18}", str(pipeline)):
                raise ValueError(f"has a pipeline that is neither an id nor `other`: {pipeline!r}")
            if not _is_assignee(user):
                raise ValueError(f"must name owner or a Kommo user's id for {pipeline}, not {user!r}")
        return value
    if _is_assignee(value):
        return value
    raise ValueError(
        f"must be owner (of the deal), a Kommo user's id, or one of them for each pipeline's id, not {value!r}"
    )


def _is_assignee(value: object) -> bool:
    return value == "owner" or (type(value) is int and value > 0)


def _stage_or_status(value: object) -> object:
    if (type(value) is int and value > 0) or (isinstance(value, str) and re.fullmatch(r"[a-z0-9_]+", value)):
        return value
    raise ValueError(f"must be a stage's name from stages, or a Kommo status id, not {value!r}")


def _field_id(value: object) -> object:
    if (type(value) is int and value > 0) or (isinstance(value, str) and re.fullmatch(r"\$\w+", value)):
        return value
    raise ValueError(f"must be a deal field's id or a variable like $KOMMO_CF_EMAIL_STATUS, not {value!r}")


Text = Annotated[str, AfterValidator(_text)]
Short = Annotated[Text, AfterValidator(_short)]
Id = Annotated[int, AfterValidator(_positive)]
Template = Annotated[Text, AfterValidator(_template)]
TagName = Annotated[Short, AfterValidator(_no_template)]
Seconds = Annotated[int, BeforeValidator(_seconds)]
Minute = Annotated[int, BeforeValidator(_minute)]
OneOrMore = [BeforeValidator(_listed), AfterValidator(_not_empty)]
Sources = Annotated[list[Annotated[str, _one_of(EMAIL_SOURCES)]], *OneOrMore]
Kinds = Annotated[list[Annotated[str, _one_of(EMAIL_KINDS)]], *OneOrMore]
Words = Annotated[list[Text], *OneOrMore]
Stages = Annotated[list[Annotated[int | str, BeforeValidator(_stage_or_status)]], *OneOrMore]
Ids = Annotated[list[Id], *OneOrMore]
Names = Annotated[list[Text], *OneOrMore]


# -- the rows --


class Row(BaseModel):
    """Something between two levels of indentation. Strict: a number in place of a text is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def columns(default: object, kind: Callable[[Column], object]) -> type[Row]:
    """Return a row with a column for each platform."""
    fields: dict[str, Any] = {platform.value: (kind(COLUMNS[platform]), default) for platform in PLATFORMS}
    return create_model("Columns", __base__=Row, **fields)


Event = str | Literal[False] | None


class StageRow(columns(None, lambda column: Annotated[Event, BeforeValidator(column.event)]), Row):  # type: ignore[misc]  # made of a table
    """A stage of Kommo and what the email side is to hear of it."""

    stage: Annotated[Short, AfterValidator(_stage)]
    status: Id
    pipeline: Id | None = None
    label: Short | None = None

    def event(self, platform: Source) -> str | None:
        """Return the event's name, None: it does not go to this platform."""
        name: Event = getattr(self, platform)
        return None if name is False else name or COLUMNS[platform].default_event.format(stage=self.stage)


class StageEventsRow(columns("every", lambda column: Annotated[str, _one_of(("every", "latest"))]), Row):  # type: ignore[misc]
    """Which stage events a destination gets when several of one deal wait: every one, or only the latest."""

    def latest_only(self, platform: Source) -> bool:
        """Say whether a platform gets only the latest."""
        return bool(getattr(self, platform) == "latest")


class FieldRow(columns(None, lambda column: Annotated[Short, AfterValidator(column.field)] | None), Row):  # type: ignore[misc]
    """A field of Kommo that goes onto the person."""

    source: Annotated[Text, AfterValidator(_kommo_source)] = Field(alias="from")

    def target(self, platform: Source) -> str | None:
        """Return the field's name at a platform."""
        name: str | None = getattr(self, platform)
        return name

    @model_validator(mode="after")
    def _goes_somewhere(self) -> FieldRow:
        if not any(map(self.target, PLATFORMS)):
            raise ValueError(f"needs {' or '.join(PLATFORMS)}: the field's name there")
        return self


class WhenRow(Row):
    """Which events a rule is for; what is not said does not matter."""

    source: Sources | None = None
    event: Kinds | None = None
    campaign: Words | None = None
    subject: Words | None = None
    link: Words | None = None
    first: bool | None = None
    quiet: Seconds | None = None
    stage: Stages | None = None
    pipeline: Ids | None = None
    tag: Words | None = None
    field: dict[Annotated[str, AfterValidator(_kommo_source)], Words] | None = None


class RuleRow(Row):
    """What sales sees of an event."""

    when: WhenRow = WhenRow()
    do: Names


class TaskRow(Row):
    """A task on the deal."""

    text: Template
    due_in: Annotated[Seconds, AfterValidator(_due)] = 2 * 3600
    due_at: Minute | None = None
    type: Id = 1
    assign_to: Annotated[int | str | dict[str, int | str], BeforeValidator(_assignee)] = "owner"
    cooldown: Seconds = 24 * 3600
    cooldown_for: Annotated[str, _one_of(("deal", "kind"))] = "deal"
    within_cooldown: Annotated[str, _one_of(("nothing", "extend"))] = "nothing"

    @model_validator(mode="after")
    def _is_due_once(self) -> TaskRow:
        if {"due_in", "due_at"} <= self.model_fields_set:
            raise ValueError("has both due_in and due_at; delete one")
        return self


class NoteRow(Row):
    """A note on the deal."""

    text: Template
    gather: Seconds = 0


class ValueRow(Row):
    """A custom field of the deal."""

    id: Annotated[int | str, BeforeValidator(_field_id)]
    value: Annotated[Template, AfterValidator(_short)]


class TagRow(Row):
    """A tag to put on or to take off."""

    on: Annotated[str, _one_of(("lead", "contact"))] = "contact"
    name: TagName


class ActionRow(Row):
    """One thing to do in Kommo."""

    task: TaskRow | None = None
    note: NoteRow | None = None
    field: ValueRow | None = None
    tag: TagRow | None = None
    untag: TagRow | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> ActionRow:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"must be exactly one of {', '.join(ACTION_KINDS)}")
        return self


class WorkingHoursRow(Row):
    """When the team works: a task is due within these hours."""

    days: Annotated[list[int], BeforeValidator(_days)] = [0, 1, 2, 3, 4]
    opens: Minute = Field(alias="from")
    closes: Minute = Field(alias="to")

    @model_validator(mode="after")
    def _is_open(self) -> WorkingHoursRow:
        if self.opens >= self.closes:
            raise ValueError("ends before it begins: `from` must be earlier than `to`")
        return self


class MappingRows(Row):
    """The whole file."""

    version: Annotated[int, BeforeValidator(_version)] = 1
    time_zone: Annotated[Text, AfterValidator(_zone)] = "UTC"
    working_hours: WorkingHoursRow | None = None
    one_signal: Seconds = 10
    without_active_deal: Annotated[str, _one_of(("skip", "contact"))] = "skip"
    stages: list[StageRow] = []
    stage_events: StageEventsRow = StageEventsRow()
    fields: list[FieldRow] = []
    rules: list[RuleRow] = []
    actions: dict[str, ActionRow] = {}
