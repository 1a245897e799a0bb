"""What a contact does with an email → what sales sees in Kommo: the rules of the mapping file. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from app.events import (
    CONSENT_KINDS,
    Action,
    Consent,
    Contact,
    Context,
    EmailActivity,
    Event,
    Kind,
    Lane,
    Lead,
    Owed,
    Response,
    Seen,
    SeenClick,
    WorkingHours,
)
from app.mapping.due import ALWAYS
from app.mapping.person_fields import kommo_value
from app.mapping.rows import (
    ActionRow,
    MappingRows,
    NoteRow,
    TaskRow,
    ValueRow,
    WhenRow,
    is_kommo_value,
    placeholders,
)
from app.mapping.texts import flat, plain, render, shortened, words_of

LONGEST_VALUE = 255  # characters of a deal field's value


@dataclass(frozen=True)
class DealField:
    """A field of the deal that actions write, by its id or by the variable that holds it.

    `values`: all that it can get; empty: any text.
    """

    id: int | None
    variable: str
    values: tuple[str, ...]


StageName = Callable[[int, int], tuple[str, str]]
"""Returns the name and the label of a stage, by pipeline and status; both "" for one that is not mapped."""


class ActivityRules:
    """The rules and actions of the mapping file.

    `one_signal`: seconds within which an open and a click in one campaign count once. `on_contact`: whether the
    contact hears of what would have no active deal.
    """

    def __init__(self, rows: MappingRows, variables: Mapping[str, int | None], stage_name: StageName) -> None:
        self.one_signal = rows.one_signal
        self.on_contact = rows.without_active_deal == "contact"
        self._rules = tuple(rows.rules)
        self._actions = rows.actions
        self._field_ids = {name: _field_id(row.field, variables) for name, row in rows.actions.items() if row.field}
        self.deal_fields = _deal_fields(rows, variables)
        self._stage_name = stage_name
        self._zone = rows.time_zone
        row = rows.working_hours
        self._hours = WorkingHours(tuple(row.days), row.opens, row.closes, rows.time_zone) if row else None
        self._placed = frozenset(
            name for action in rows.actions.values() for name in placeholders(_text(action)) if is_kommo_value(name)
        )
        conditions = (rule.when.field or {} for rule in rows.rules)
        self.values_used = self._placed | {name for condition in conditions for name in condition}

    def refusal(self, event: Event, activity: EmailActivity) -> str | None:
        """Say why an activity needs nothing at all, or None if it may; decided before any network."""
        if event.kind in (Kind.EMAIL_OPENED, Kind.EMAIL_CLICKED):
            if activity.machine:
                return "opened or clicked by a machine"
            if activity.first is False:
                return "not the first event of its kind"
        if activity.email is None and activity.lead_id is None and not activity.person_id:
            return "no email address and no deal id"
        names = self._wanted(event, activity)
        if not names:
            campaign = f" with campaign '{flat(activity.campaign)}'" if activity.campaign else ""
            return f"no rule is for {event.kind} from {event.source}{campaign}"
        return None if any(map(self._on, names)) else _all_off(names)

    def plan(self, event: Event, activity: EmailActivity, context: Context, seen: Seen) -> tuple[Owed, ...] | str:
        """Return what an activity makes us owe to Kommo, or the reason why it is nothing."""
        lead, contact = context.lead, context.contact
        if lead is None and not (contact and self.on_contact):
            return _nobody(event, activity, context)
        names = self._wanted(event, activity, context, seen)
        if not names:
            return f"no rule is for {event.kind} from {event.source} of this deal, contact and history"
        if event.kind == Kind.EMAIL_OPENED and seen.click and self._tells(event, seen.click, context):
            return f"one signal with the click of event {seen.click.event_id}"
        words = words_of(
            event,
            activity,
            context,
            stage=self._stage_name(lead.pipeline_id, lead.status_id)[1] if lead else "",
            zone=self._zone,
            fields=self._placed,
        )
        made = (self._action(name, words, event, lead, contact, seen) for name in names if self._on(name))
        actions = tuple(action for action in made if action is not None)
        if not actions:
            return _all_off(names)
        response = Response(
            lead.id if lead else None,
            contact.id if contact else None,
            actions,
            consent=_consent(event, context) if event.kind in CONSENT_KINDS else None,
        )
        return (Owed(Lane.KOMMO, f"lead:{lead.id}" if lead else f"contact:{response.contact_id}", response),)

    def _tells(self, opened: Event, click: SeenClick, context: Context) -> bool:
        """Say whether the click beside an open does something: else the open must be told for itself."""
        event = replace(opened, kind=Kind.EMAIL_CLICKED, data=click.activity)
        refused = self.refusal(event, click.activity)
        return not refused and bool(self._wanted(event, click.activity, context, click.seen))

    def _wanted(
        self, event: Event, activity: EmailActivity, context: Context | None = None, seen: Seen | None = None
    ) -> tuple[str, ...]:
        """Return the actions of every rule that matches, each once, in the order of the file.

        Without a context, of every rule that may match once Kommo has been asked.
        """
        matching = (
            rule.do
            for rule in self._rules
            if _fits_event(rule.when, event, activity)
            and (context is None or self._fits_context(rule.when, context))
            and (seen is None or _fits_history(rule.when, seen))
        )
        return tuple(dict.fromkeys(name for names in matching for name in names))

    def _fits_context(self, when: WhenRow, context: Context) -> bool:
        lead, contact = context.lead, context.contact
        if when.pipeline and (lead is None or lead.pipeline_id not in when.pipeline):
            return False
        if when.stage and not self._is_in(lead, when.stage):
            return False
        if when.tag and not _has_tag(contact, when.tag):
            return False
        return all(
            _contains(words, plain(kommo_value(name, context))) for name, words in (when.field or {}).items()
        )

    def _is_in(self, lead: Lead | None, stages: Collection[int | str]) -> bool:
        if lead is None:
            return False
        return lead.status_id in stages or self._stage_name(lead.pipeline_id, lead.status_id)[0] in stages

    def _on(self, name: str) -> bool:
        """Say whether an action can be done: one whose field id is not set is off."""
        return self._field_ids.get(name, 0) is not None

    def _action(
        self,
        name: str,
        words: Mapping[str, str],
        event: Event,
        lead: Lead | None,
        contact: Contact | None,
        seen: Seen,
    ) -> Action | None:
        """Return an action, or None if there is nothing that it could be done to, or nothing to write."""
        row = self._actions[name]
        if tag := row.tag or row.untag:
            on = contact if tag.on == "contact" else lead
            return Action(name, "tag" if row.tag else "untag", text=tag.name, on=tag.on) if on else None
        text = render(_text(row), words)
        if not text:
            return None
        if row.note:
            return _note(name, row.note, text, lead, contact, seen, event)
        if lead is None:
            return None
        if row.task:
            return self._task(name, row.task, text, lead, event)
        return Action(name, "field", text=shortened(text, LONGEST_VALUE), field_id=self._field_ids[name] or 0)

    def _task(self, name: str, row: TaskRow, text: str, lead: Lead, event: Event) -> Action:
        kind = f":{event.kind}" if row.cooldown_for == "kind" else ""
        on_the_wall = replace(ALWAYS, zone=self._zone) if row.due_at is not None else None
        return Action(
            name,
            "task",
            text=text,
            due_in=row.due_in,
            due_at=row.due_at,
            hours=self._hours or on_the_wall,
            task_type=row.type,
            user_id=_assignee(row.assign_to, lead),
            cooldown=row.cooldown,
            scope=f"task:lead:{lead.id}{kind}",
            extend=row.within_cooldown == "extend",
        )


def _note(
    name: str, row: NoteRow, text: str, lead: Lead | None, contact: Contact | None, seen: Seen, event: Event
) -> Action | None:
    on = "lead" if lead else "contact"
    entity = lead or contact
    if entity is None:
        return None
    action = Action(name, "note", text=text, on=on)
    if row.gather:
        return replace(action, cooldown=row.gather, scope=f"note:{on}:{entity.id}:{name}", extend=True)
    # A click moments after its open is no second signal: it is told in the same note.
    return replace(action, joins=seen.open_id if event.kind == Kind.EMAIL_CLICKED else 0)


def _consent(event: Event, context: Context) -> Consent | None:
    if not context.email:
        return None
    return Consent(
        context.email, event.kind == Kind.UNSUBSCRIBED, contact_ids=context.contact_ids, lead_ids=context.lead_ids
    )


def _nobody(event: Event, activity: EmailActivity, context: Context) -> str:
    if activity.email or activity.lead_id or context.email:
        return "no active deal: neither the deal it names nor a contact with this email has one"
    platform = event.source.title()
    return f"no email address: {platform} tells none for the person {activity.person_id}, or its API key is not set"


def _assignee(row: int | str | Mapping[str, int | str], lead: Lead) -> int | None:
    """Return the user who is to do a task; None: whoever Kommo takes for a deal without an owner."""
    who = row.get(str(lead.pipeline_id), row.get("other", "owner")) if isinstance(row, Mapping) else row
    return who if isinstance(who, int) else lead.responsible_user_id


def _field_id(row: ValueRow, variables: Mapping[str, int | None]) -> int | None:
    """Return the id of the deal's field that an action writes; None: its variable is not set."""
    return variables[row.id.removeprefix("$")] if isinstance(row.id, str) else row.id


def _deal_fields(rows: MappingRows, variables: Mapping[str, int | None]) -> tuple[DealField, ...]:
    """Return the deal's fields that actions write, each once."""
    written: dict[int | str, list[ValueRow]] = {}
    for action in rows.actions.values():
        if action.field:
            written.setdefault(action.field.id, []).append(action.field)
    return tuple(
        DealField(
            id=_field_id(fields[0], variables),
            variable=key[1:] if isinstance(key, str) else "",
            values=() if any(placeholders(field.value) for field in fields) else tuple(f.value for f in fields),
        )
        for key, fields in written.items()
    )


def _text(row: ActionRow) -> str:
    """Return the template of an action; tags have none."""
    if row.field:
        return row.field.value
    texted = row.task or row.note
    return texted.text if texted else ""


def _all_off(names: Iterable[str]) -> str:
    return (
        f"nothing to do in Kommo: {', '.join(names)} switched off, for want of a field's id, a deal, a contact, or "
        "words to write"
    )


# -- conditions --


def _fits_event(when: WhenRow, event: Event, activity: EmailActivity) -> bool:
    if when.source is not None and event.source not in when.source:
        return False
    if when.event is not None and event.kind not in when.event:
        return False
    texts = (
        (when.campaign, activity.campaign),
        (when.subject, activity.subject or activity.campaign),
        (when.link, activity.link or ""),
    )
    return all(_contains(words, text) for words, text in texts if words is not None)


def _fits_history(when: WhenRow, seen: Seen) -> bool:
    if when.first is not None and seen.first is not when.first:
        return False
    return when.quiet is None or seen.quiet_seconds is None or seen.quiet_seconds >= when.quiet


def _has_tag(contact: Contact | None, names: Iterable[str]) -> bool:
    tags = {_folded(tag) for tag in contact.tags} if contact else set()
    return any(_folded(name) in tags for name in names)


def _contains(words: Iterable[str], text: str) -> bool:
    """Say whether one of the words stands in a text, whatever the case; a `*` stands for anything in between.

    Nothing stands in an empty text, not even a `*` alone.
    """
    folded = _folded(text)
    return bool(folded) and any(_stands_in(_folded(word), folded) for word in words)


def _stands_in(word: str, text: str) -> bool:
    # No regular expression: those that people write can take for ever on the texts that strangers send.
    start = 0
    for part in word.split("*"):
        found = text.find(part, start)
        if found < 0:
            return False
        start = found + len(part)
    return True


def _folded(text: str) -> str:
    """Return text in which case does not count, nor how an accent is encoded."""
    return unicodedata.normalize("NFC", text).casefold()
