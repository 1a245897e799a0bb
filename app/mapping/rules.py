"""The business rules: an event and what Kommo knows of it → what is owed to whom. Pure once loaded."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from app.events import (
    LOST,
    WON,
    Action,
    Contact,
    Context,
    EmailActivity,
    Event,
    Kind,
    Lane,
    Lead,
    Owed,
    Response,
    StageChange,
    StageNews,
)
from app.mapping.file import MappingError, read
from app.mapping.person_fields import encharge_value, kommo_value, ortto_money, ortto_value
from app.mapping.rows import ActionRow, FieldRow, MappingRows, RuleRow, StageRow, ValueRow

__all__ = ["FieldRow", "MappingError", "Rules", "Stage", "load", "person_names"]

CRM_STAGE_CHANGED = "act:cm:crm-stage-changed"
LONGEST_WORD = 250  # characters of a campaign, a link or a name in a text for Kommo
LONGEST_VALUE = 255  # characters of a deal field's value

DID = {
    Kind.EMAIL_OPENED: "opened an email",
    Kind.EMAIL_CLICKED: "clicked a link",
    Kind.UNSUBSCRIBED: "unsubscribed",
    Kind.RESUBSCRIBED: "subscribed again",
    Kind.BOUNCED: "did not get an email (it bounced)",
    Kind.JOURNEY_COMPLETED: "completed a journey",
}


@dataclass(frozen=True)
class Stage:
    """A stage of Kommo and its names at the destinations."""

    name: str
    label: str
    encharge: str | None  # the event's name; None: not to Encharge
    ortto: str | None  # the activity's id; None: not to Ortto
    status_id: int
    pipeline_id: int | None  # None: in every pipeline


def load(path: Path, variables: Mapping[str, int | None]) -> Rules:
    """Read the mapping file; `variables` are the deal's custom fields that it may name with a `$`, None if unset.

    Raises MappingError with every fault, each with its line.
    """
    return Rules(read(path, variables), variables)


class Rules:
    """What the mapping file says."""

    def __init__(self, rows: MappingRows, variables: Mapping[str, int | None]) -> None:
        self.stages = tuple(_stage(row) for row in rows.stages)
        self.fields = tuple(rows.fields)
        self.latest_only = frozenset(lane for lane in (Lane.ENCHARGE, Lane.ORTTO) if _wants_latest(rows, lane))
        self._rules = tuple(rows.rules)
        self._actions = rows.actions
        self._field_ids = {name: _field_id(row.field, variables) for name, row in rows.actions.items() if row.field}
        self._by_pair = {(stage.pipeline_id, stage.status_id): stage for stage in self.stages}
        self._by_status = {stage.status_id: stage for stage in self.stages}
        keys = {field.source.partition(".")[2] for field in self.fields}
        self.fields_used = frozenset(keys - {"price", "name"})
        self.needs_companies = any(field.source.startswith("company.") for field in self.fields)

    def stage(self, pipeline_id: int | None, status_id: int) -> Stage | None:
        """Find a stage by its pipeline and status, then by its status alone.

        A webhook without a pipeline still finds its stage, since a status belongs to one pipeline; all but won and
        lost, which every pipeline has.
        """
        found = self._by_pair.get((pipeline_id, status_id)) or self._by_pair.get((None, status_id))
        if found or pipeline_id is not None or status_id in (WON, LOST):
            return found
        return self._by_status.get(status_id)

    def refusal(self, event: Event) -> str | None:
        """Say why an event needs nothing at all, or None if it does; decided before any network."""
        if event.kind == Kind.OTHER:
            name = event.data.name if isinstance(event.data, EmailActivity) else ""
            return f"'{_flat(name)}' is not an event we act on"
        if isinstance(event.data, StageChange):
            return self._stage_refusal(event.data)
        return self._activity_refusal(event, event.data)

    def plan(self, event: Event, context: Context, lanes_on: Collection[Lane]) -> tuple[Owed, ...] | str:
        """Return what an event makes us owe, or the reason why it is nothing."""
        if isinstance(event.data, StageChange):
            return self._plan_stage(event.data, context, lanes_on)
        return self._plan_activity(event, event.data, context)

    def current(self, lead: Lead, news: StageNews, lane: Lane) -> StageNews:
        """Return the news with the deal's stage of now for the person.

        A stage that is not in the mapping has no words for people: there the earlier ones stay.
        """
        stage = self.stage(lead.pipeline_id, lead.status_id)
        return replace(news, person_stage=_words(stage, lane)) if stage else news

    # -- stage changes --

    def _stage_refusal(self, change: StageChange) -> str | None:
        stage = self.stage(change.pipeline_id, change.status_id)
        if stage and not (stage.encharge or stage.ortto):
            return f"stage {stage.name} goes neither to Encharge nor to Ortto"
        # Won or lost in a pipeline that only Kommo can tell: ask it.
        if stage or (change.pipeline_id is None and change.status_id in self._by_status):
            return None
        return _unmapped(change.pipeline_id, change.status_id)

    def _plan_stage(
        self, change: StageChange, context: Context, lanes_on: Collection[Lane]
    ) -> tuple[Owed, ...] | str:
        lead, contact = context.lead, context.contact
        if lead is None or lead.is_deleted:
            return f"deal {change.lead_id} is gone"
        pipeline_id = change.pipeline_id if change.pipeline_id is not None else lead.pipeline_id
        stage = self.stage(pipeline_id, change.status_id)
        if stage is None:
            return _unmapped(pipeline_id, change.status_id)
        if contact is None:
            return "the deal has no contact"
        if not contact.emails:
            return f"contact {contact.id} has no valid email"
        events = {Lane.ENCHARGE: stage.encharge, Lane.ORTTO: stage.ortto}
        first_name, last_name = person_names(contact)
        owed = tuple(
            Owed(
                lane,
                f"lead:{lead.id}",
                StageNews(
                    lead_id=lead.id,
                    email=contact.emails[0],
                    first_name=first_name,
                    last_name=last_name,
                    stage=_words(stage, lane),
                    person_stage=_words(self.stage(lead.pipeline_id, lead.status_id) or stage, lane),
                    status_id=change.status_id,
                    pipeline_id=pipeline_id,
                    deal_value=lead.price,
                    event=name,
                    fields=self._person_fields(lane, context),
                    read_at=context.read_at,
                ),
            )
            for lane, name in events.items()
            if name and lane in lanes_on
        )
        return owed or f"stage {stage.name} goes to no platform that is switched on"

    def _person_fields(self, lane: Lane, context: Context) -> dict[str, object]:
        """Return the mapped fields that have a value, by the destination's names."""
        fields: dict[str, object] = {}
        for row in self.fields:
            name = row.encharge if lane == Lane.ENCHARGE else row.ortto
            value = kommo_value(row.source, context)
            if name is None or value is None:
                continue
            if lane == Lane.ENCHARGE:
                value = encharge_value(value)
            else:
                value = ortto_money(name, value) if row.source == "lead.price" else ortto_value(name, value)
            if value is not None:
                fields[name] = value
        return fields

    # -- email activity --

    def _activity_refusal(self, event: Event, activity: EmailActivity) -> str | None:
        if event.kind in (Kind.EMAIL_OPENED, Kind.EMAIL_CLICKED):
            if activity.machine:
                return "opened or clicked by a machine"
            if activity.first is False:
                return "not the first event of its kind"
        if activity.email is None and activity.lead_id is None:
            return "no email address and no deal id"
        names = self._wanted(event, activity)
        if not names:
            campaign = f" with campaign '{_flat(activity.campaign)}'" if activity.campaign else ""
            return f"no rule is for {event.kind} from {event.source}{campaign}"
        return None if any(map(self._on, names)) else _all_off(names)

    def _plan_activity(self, event: Event, activity: EmailActivity, context: Context) -> tuple[Owed, ...] | str:
        lead, contact = context.lead, context.contact
        if lead is None:
            return "no active deal"
        names = self._wanted(event, activity)
        words = _placeholders(event, activity, lead, contact)
        actions = tuple(
            self._action(name, words, lead)
            for name in names
            if self._on(name) and (contact or not _is_on_contact(self._actions[name]))
        )
        if not actions:
            return _all_off(names)
        response = Response(lead.id, contact.id if contact else None, actions)
        return (Owed(Lane.KOMMO, f"lead:{lead.id}", response),)

    def _wanted(self, event: Event, activity: EmailActivity) -> tuple[str, ...]:
        """Return the actions of every rule that matches, each once, in the order of the file."""
        matching = (rule for rule in self._rules if _matches(rule, event, activity))
        return tuple(dict.fromkeys(name for rule in matching for name in rule.do))

    def _on(self, name: str) -> bool:
        """Say whether an action can be done: one whose field id is not set is off."""
        return self._field_ids.get(name, 0) is not None

    def _action(self, name: str, words: Mapping[str, str], lead: Lead) -> Action:
        row = self._actions[name]
        if row.task:
            return Action(
                name,
                "task",
                text=_render(row.task.text, words),
                due_in=row.task.due_in,
                task_type=row.task.type,
                user_id=row.task.assign_to if isinstance(row.task.assign_to, int) else lead.responsible_user_id,
                cooldown=row.task.cooldown,
            )
        if row.field:
            value = _shortened(_render(row.field.value, words), LONGEST_VALUE)
            return Action(name, "field", text=value, field_id=self._field_ids[name] or 0)
        if row.tag:
            return Action(name, "tag", text=row.tag.name, on=row.tag.on)
        if row.untag:
            return Action(name, "untag", text=row.untag.name, on=row.untag.on)
        return Action(name, "note", text=_render(row.note.text if row.note else "", words))


def person_names(contact: Contact) -> tuple[str, str]:
    """Return first and last name: Kommo's own where set, else the full name split at its first space."""
    first, last = _trimmed(contact.first_name), _trimmed(contact.last_name)
    full = _trimmed(contact.name)
    if full in (first, last):
        # A person with one name: it is not the other name too.
        return first, last
    split_first, _, split_last = full.partition(" ")
    return first or split_first, last or split_last


def _trimmed(text: str) -> str:
    return " ".join(text.split())


def _stage(row: StageRow) -> Stage:
    return Stage(
        name=row.stage,
        label=row.label or row.stage,
        encharge=None if row.encharge is False else row.encharge or f"deal_moved_to_{row.stage}",
        ortto=None if row.ortto is False else row.ortto or CRM_STAGE_CHANGED,
        status_id=row.status,
        pipeline_id=row.pipeline,
    )


def _wants_latest(rows: MappingRows, lane: Lane) -> bool:
    return bool(getattr(rows.stage_events, lane) == "latest")


def _words(stage: Stage, lane: Lane) -> str:
    """Return a stage as a destination knows it: a word for Encharge's filters, a label for Ortto's people."""
    return stage.name if lane == Lane.ENCHARGE else stage.label


def _unmapped(pipeline_id: int | None, status_id: int) -> str:
    where = "" if pipeline_id is None else f" of pipeline {pipeline_id}"
    return f"stage {status_id}{where} is not in the mapping"


def _field_id(row: ValueRow, variables: Mapping[str, int | None]) -> int | None:
    """Return the id of the deal's field that an action writes; None: its variable is not set."""
    return variables[row.id.removeprefix("$")] if isinstance(row.id, str) else row.id


def _is_on_contact(row: ActionRow) -> bool:
    tag = row.tag or row.untag
    return tag is not None and tag.on == "contact"


def _all_off(names: Iterable[str]) -> str:
    return f"nothing to do in Kommo: {', '.join(names)} switched off, for want of a field's id or a contact"


def _matches(rule: RuleRow, event: Event, activity: EmailActivity) -> bool:
    when = rule.when
    if when.source is not None and event.source not in when.source:
        return False
    if when.event is not None and event.kind not in when.event:
        return False
    campaign = _folded(activity.campaign)
    return when.campaign is None or any(_folded(word) in campaign for word in when.campaign)


def _folded(text: str) -> str:
    """Return text in which case does not count, nor how an accent is encoded."""
    return unicodedata.normalize("NFC", text).casefold()


# -- texts --


def _placeholders(event: Event, activity: EmailActivity, lead: Lead, contact: Contact | None) -> dict[str, str]:
    """Return what may stand in a text, each on one line: campaigns, links and names are other people's."""
    names = person_names(contact) if contact else ("", "")
    known_emails = contact.emails if contact else ()
    words = {
        "email": activity.email or next(iter(known_emails), "no email address"),
        "name": " ".join(filter(None, names)) or "the contact",
        "first_name": names[0] or "the contact",
        "campaign": activity.campaign or "(no campaign name)",
        "link": activity.link or "",
        "event": event.kind.value,
        "did": DID[event.kind],
        "platform": event.source.value.title(),
        "source": event.source.value,
        "lead": lead.name or f"deal {lead.id}",
        "lead_id": str(lead.id),
    }
    return {name: _flat(word) for name, word in words.items()}


def _render(text: str, words: Mapping[str, str]) -> str:
    """Put the words in, in one pass: braces in a campaign's name stay what they are."""
    rendered = re.sub(r"\{(\w+)\}", lambda match: words[match[1]], text)
    return "\n".join(line.rstrip() for line in rendered.splitlines()).strip()


def _flat(text: str) -> str:
    """Return foreign text on one line, without control characters, not too long."""
    # Zero-width joiners belong to Persian words and to emoji.
    seen = "".join(char if char.isprintable() or char in "\u200c\u200d" else " " for char in text)
    return _shortened(" ".join(seen.split()), LONGEST_WORD)


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
