"""What a contact does with an email → what sales sees in Kommo: the rules of the mapping file. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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


@dataclass(frozen=True)
class Judgement:
    """A rule of the mapping file, and what speaks against it. `number`: from 1, in the order of the file."""

    number: int
    when: Mapping[str, object]
    do: tuple[str, ...]
    unmet: tuple[str, ...]  # empty: it matches


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
        self.users = frozenset(user for row in rows.actions.values() if row.task for user in _users(row.task))
        self._stage_name = stage_name
        self._zone = rows.time_zone
        row = rows.working_hours
        self._hours = WorkingHours(tuple(row.days), row.opens, row.closes, rows.time_zone) if row else None
        self._placed = frozenset(
            name for action in rows.actions.values() for name in placeholders(_text(action)) if is_kommo_value(name)
        )
        conditions = (rule.when.field or {} for rule in rows.rules)
        self.values_used = self._placed | {name for condition in conditions for name in condition}

    @property
    def count(self) -> int:
        """How many rules there are."""
        return len(self._rules)

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
        made = self._make(names, event, activity, context, seen)
        actions = tuple(action for action in made.values() if isinstance(action, Action))
        if not actions:
            return _all_off(names)
        response = Response(
            lead.id if lead else None,
            contact.id if contact else None,
            actions,
            consent=_consent(event, context) if event.kind in CONSENT_KINDS else None,
        )
        return (Owed(Lane.KOMMO, f"lead:{lead.id}" if lead else f"contact:{response.contact_id}", response),)

    def judge(
        self, event: Event, activity: EmailActivity, context: Context | None = None, seen: Seen | None = None
    ) -> tuple[Judgement, ...]:
        """Return each rule with all that speaks against it; without a context, as far as the event tells."""
        return tuple(
            Judgement(
                number,
                rule.when.model_dump(exclude_unset=True),
                tuple(rule.do),
                tuple(self._unmet(rule.when, event, activity, context, seen)),
            )
            for number, rule in enumerate(self._rules, start=1)
        )

    def left_out(self, event: Event, activity: EmailActivity, context: Context, seen: Seen) -> dict[str, str]:
        """Return why actions of the rules that match come to nothing, by their names."""
        names = self._wanted(event, activity, context, seen)
        made = self._make(names, event, activity, context, seen)
        return {name: reason for name, reason in made.items() if isinstance(reason, str)}

    def _make(
        self, names: Iterable[str], event: Event, activity: EmailActivity, context: Context, seen: Seen
    ) -> dict[str, Action | str]:
        """Return actions by their names, or why one comes to nothing."""
        lead = context.lead
        words = words_of(
            event,
            activity,
            context,
            stage=self._stage_name(lead.pipeline_id, lead.status_id)[1] if lead else "",
            zone=self._zone,
            fields=self._placed,
        )
        return {name: self._action(name, words, event, lead, context.contact, seen) for name in names}

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
            rule.do for rule in self._rules if not any(self._unmet(rule.when, event, activity, context, seen))
        )
        return tuple(dict.fromkeys(name for names in matching for name in names))

    def _unmet(
        self, when: WhenRow, event: Event, activity: EmailActivity, context: Context | None, seen: Seen | None
    ) -> Iterator[str]:
        """Yield, in words, each condition of a rule that does not hold."""
        yield from _unmet_by_event(when, event, activity)
        if context is not None:
            yield from self._unmet_by_context(when, context)
        if seen is not None:
            yield from _unmet_by_history(when, seen)

    def _unmet_by_context(self, when: WhenRow, context: Context) -> Iterator[str]:
        lead, contact = context.lead, context.contact
        if when.pipeline and (lead is None or lead.pipeline_id not in when.pipeline):
            yield f"pipeline: the deal is in {lead.pipeline_id}" if lead else "pipeline: there is no deal"
        if when.stage and not self._is_in(lead, when.stage):
            yield f"stage: the deal is in {self._stage_words(lead)}" if lead else "stage: there is no deal"
        if when.tag and not _has_tag(contact, when.tag):
            yield f"tag: the contact has {_listed(contact.tags) or 'none'}" if contact else "tag: no contact"
        for name, words in (when.field or {}).items():
            value = plain(kommo_value(name, context))
            if not _contains(words, value):
                yield f"field: {name} is {_quoted(value)}"

    def _stage_words(self, lead: Lead) -> str:
        name = self._stage_name(lead.pipeline_id, lead.status_id)[0]
        return f"{name} ({lead.status_id})" if name else f"{lead.status_id}, which is not in the mapping"

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
    ) -> Action | str:
        """Return an action, or why there is nothing that it could be done to, or nothing to write."""
        if not self._on(name):
            return "switched off: the id of its field is not set"
        row = self._actions[name]
        if tag := row.tag or row.untag:
            on = contact if tag.on == "contact" else lead
            return Action(name, "tag" if row.tag else "untag", text=tag.name, on=tag.on) if on else _nothing(tag.on)
        text = render(_text(row), words)
        if not text:
            return "its text is empty"
        if row.note:
            return _note(name, row.note, text, lead, contact, seen, event) or _nothing("lead")
        if lead is None:
            return _nothing("lead")
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
    # Without its id there, which may be anything: reasons are logged, and the event has it.
    return f"no email address: {platform} tells none for this person, or its API key is not set"


def _assignee(row: int | str | Mapping[str, int | str], lead: Lead) -> int | None:
    """Return the user who is to do a task; None: whoever Kommo takes for a deal without an owner."""
    who = row.get(str(lead.pipeline_id), row.get("other", "owner")) if isinstance(row, Mapping) else row
    return who if isinstance(who, int) else lead.responsible_user_id


def _users(row: TaskRow) -> list[int]:
    """Return the users whom a task names."""
    named = row.assign_to.values() if isinstance(row.assign_to, Mapping) else [row.assign_to]
    return [user for user in named if isinstance(user, int)]


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


def _unmet_by_event(when: WhenRow, event: Event, activity: EmailActivity) -> Iterator[str]:
    if when.source is not None and event.source not in when.source:
        yield f"source: it is {event.source}"
    if when.event is not None and event.kind not in when.event:
        yield f"event: it is {event.kind}"
    texts = (
        ("campaign", when.campaign, activity.campaign),
        ("subject", when.subject, activity.subject or activity.campaign),
        ("link", when.link, activity.link or ""),
    )
    for name, words, text in texts:
        if words is not None and not _contains(words, text):
            yield f"{name}: it is {_quoted(text)}"


def _unmet_by_history(when: WhenRow, seen: Seen) -> Iterator[str]:
    if when.first is not None and seen.first is not when.first:
        yield f"first: it is {'' if seen.first else 'not '}the first of its kind in this campaign"
    if when.quiet is not None and seen.quiet_seconds is not None and seen.quiet_seconds < when.quiet:
        yield f"quiet: the person did something {seen.quiet_seconds:.0f} s before"


def _quoted(text: str) -> str:
    return f"'{flat(text)}'" if text else "empty"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(flat(name) for name in names)


def _nothing(what: str) -> str:
    return f"there is no {'deal' if what == 'lead' else what} to do it on"


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
