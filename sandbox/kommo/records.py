"""What a Kommo account holds, with the indexes that keep it fast."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from sandbox.kommo.fields import Fields, Value
from sandbox.vendor import numbers

Kind = Literal["leads", "contacts", "companies"]
KINDS: tuple[Kind, ...] = ("leads", "contacts", "companies")
Positions = tuple[tuple[int, int], ...]
"""Pipeline and stage of a lead before or after an event; empty for other events."""
SINGULAR = {"leads": "lead", "contacts": "contact", "companies": "company"}
WON, LOST = 142, 143
INCOMING = 1


@dataclass
class Entity:
    """What leads, contacts and companies have in common."""

    id: int
    name: str
    responsible_user_id: int
    created_by: int
    updated_by: int
    created_at: int
    updated_at: int
    fields: dict[int, list[Value]] = field(default_factory=dict)
    tags: list[int] = field(default_factory=list)
    text: str = ""
    """What `query` searches, in lower case."""
    text_at: float = 0.0
    """When `text` changed last."""

    def index_text(self, now: float) -> None:
        """Renew what `query` finds this entity by."""
        values = (str(value["value"]) for values in self.fields.values() for value in values)
        text = "\n".join((self.name, *values)).lower()
        if text != self.text:
            self.text, self.text_at = text, now


@dataclass
class Lead(Entity):
    """A deal; the first of its contacts is the main one."""

    price: int = 0
    pipeline_id: int = 0
    status_id: int = 0
    loss_reason_id: int | None = None
    closed_at: int | None = None
    contact_ids: list[int] = field(default_factory=list)
    company_id: int | None = None

    @property
    def is_closed(self) -> bool:
        """Say whether the lead is won or lost."""
        return self.status_id in (WON, LOST)


@dataclass
class Contact(Entity):
    """A person."""

    first_name: str = ""
    last_name: str = ""
    company_id: int | None = None
    lead_ids: dict[int, None] = field(default_factory=dict)


@dataclass
class Company(Entity):
    """A company."""

    contact_ids: dict[int, None] = field(default_factory=dict)


@dataclass
class Task:
    """Something that a user has to do."""

    id: int
    text: str
    complete_till: int
    responsible_user_id: int
    created_by: int
    updated_by: int
    created_at: int
    updated_at: int
    entity_type: str | None = None
    entity_id: int | None = None
    task_type_id: int = 1
    duration: int = 0
    is_completed: bool = False
    result: str | None = None
    result_id: int = 0


@dataclass
class Note:
    """A note in an entity's feed."""

    id: int
    kind: Kind
    entity_id: int
    note_type: str
    params: dict[str, Any]
    created_by: int
    created_at: int
    responsible_user_id: int
    updated_at: int = 0


@dataclass(frozen=True)
class Tag:
    """A label of one kind of entity."""

    id: int
    name: str


@dataclass(frozen=True)
class Stage:
    """A status of a pipeline."""

    id: int
    name: str
    sort: int
    color: str
    type: int = 0


@dataclass
class Pipeline:
    """A funnel and its stages, by id."""

    id: int
    name: str
    sort: int
    is_main: bool
    stages: dict[int, Stage]
    is_archive: bool = False

    def first_stage(self) -> int:
        """Return the stage that a lead enters when none is named."""
        return next(stage.id for stage in self.stages.values() if stage.type != INCOMING)


@dataclass(frozen=True)
class Event:
    """An entry of the events log."""

    id: str
    type: str
    kind: Kind
    entity_id: int
    created_by: int
    created_at: int
    before: Positions = ()
    after: Positions = ()


class Tags:
    """The tags of one kind of entity, by id and by name."""

    def __init__(self, ids: Iterator[int]) -> None:
        self.by_id: dict[int, Tag] = {}
        self.by_name: dict[str, Tag] = {}
        self._ids = ids

    def ensure(self, name: str, tag_id: int | None = None) -> Tag:
        """Return the tag of a name, made if there is none."""
        if name not in self.by_name:
            tag = Tag(tag_id or next(self._ids), name)
            self.by_name[name] = self.by_id[tag.id] = tag
        return self.by_name[name]


class Events:
    """The events log, oldest first, and by entity."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.by_entity: defaultdict[tuple[Kind, int], list[Event]] = defaultdict(list)
        self._ids = numbers(1)

    def add(
        self,
        event_type: str,
        kind: Kind,
        entity_id: int,
        by: int,
        at: int,
        before: Positions = (),
        after: Positions = (),
    ) -> None:
        """Append an event."""
        event = Event(f"01kb{next(self._ids):022d}", event_type, kind, entity_id, by, at, before, after)
        bisect.insort(self.all, event, key=_event_time)
        self.by_entity[kind, entity_id].append(event)

    def between(self, since: int | None, until: int | None) -> list[Event]:
        """Return the events of a time, both ends included."""
        start = 0 if since is None else bisect.bisect_left(self.all, since, key=_event_time)
        end = len(self.all) if until is None else bisect.bisect_right(self.all, until, key=_event_time)
        return self.all[start:end]


def _event_time(event: Event) -> int:
    return event.created_at


class Account:
    """Everything in the account. The caller holds the vendor's lock."""

    def __init__(self, users: dict[int, str], pipelines: list[Pipeline], fields: dict[Kind, Fields]) -> None:
        self.users = users
        self.pipelines = {pipeline.id: pipeline for pipeline in pipelines}
        self.fields = fields
        self.leads: dict[int, Lead] = {}
        self.contacts: dict[int, Contact] = {}
        self.companies: dict[int, Company] = {}
        self.deleted: dict[int, Lead] = {}
        self.tasks: dict[int, Task] = {}
        self.tasks_by_entity: defaultdict[tuple[str, int], list[Task]] = defaultdict(list)
        self.notes: dict[Kind, dict[int, Note]] = {kind: {} for kind in KINDS}
        self.notes_by_entity: defaultdict[tuple[Kind, int], list[Note]] = defaultdict(list)
        self.events = Events()
        # Contacts and companies share their ids.
        people, tags = numbers(52_300_200), numbers(70_100)
        self.ids: dict[str, Iterator[int]] = {
            "leads": numbers(41_500_100),
            "contacts": people,
            "companies": people,
            "tasks": numbers(6_900_100),
            "notes": numbers(8_800_100),
            "fields": numbers(800_400),
            "options": numbers(530_000),
        }
        self.tags: dict[Kind, Tags] = {kind: Tags(tags) for kind in KINDS}

    def of(self, kind: str) -> dict[int, Any]:
        """Return the living entities of a kind, by id."""
        every: dict[str, dict[int, Any]] = {
            "leads": self.leads,
            "contacts": self.contacts,
            "companies": self.companies,
        }
        return every[kind]

    def new_id(self, kind: Kind, wanted: int | None = None) -> int:
        """Return an id that is free; a wanted one that is taken is a ValueError."""
        if wanted is None:
            return next(number for number in self.ids[kind] if not self._taken(kind, number))
        if self._taken(kind, wanted):
            raise ValueError(f"the id {wanted} is taken")
        return wanted

    def _taken(self, kind: Kind, number: int) -> bool:
        if kind == "leads":
            return number in self.leads or number in self.deleted
        return number in self.contacts or number in self.companies

    def add_lead(self, lead: Lead) -> None:
        """Add a lead and link it to its contacts."""
        self.leads[lead.id] = lead
        for contact_id in lead.contact_ids:
            self.contacts[contact_id].lead_ids[lead.id] = None

    def add_contact(self, contact: Contact) -> None:
        """Add a contact and link it to its company."""
        self.contacts[contact.id] = contact
        if contact.company_id:
            self.companies[contact.company_id].contact_ids[contact.id] = None

    def delete_lead(self, lead_id: int) -> Lead:
        """Take a lead out of all lists."""
        lead = self.deleted[lead_id] = self.leads.pop(lead_id)
        for contact_id in lead.contact_ids:
            self.contacts[contact_id].lead_ids.pop(lead_id, None)
        return lead

    def add_task(self, task: Task) -> None:
        """Add a task."""
        self.tasks[task.id] = task
        if task.entity_type and task.entity_id:
            self.tasks_by_entity[task.entity_type, task.entity_id].append(task)

    def add_note(self, note: Note) -> None:
        """Add a note."""
        self.notes[note.kind][note.id] = note
        self.notes_by_entity[note.kind, note.entity_id].append(note)

    def stage(self, pipeline_id: int, status_id: int) -> Stage | None:
        """Return a stage of a pipeline, or None: 142 and 143 are in all of them."""
        pipeline = self.pipelines.get(pipeline_id)
        return pipeline.stages.get(status_id) if pipeline else None

    def put_in_stage(
        self, lead: Lead, pipeline_id: int, status_id: int, by: int, at: int
    ) -> tuple[int, int] | None:
        """Move a lead and log it; return the pipeline and stage that it left, None if it was there already."""
        old = (lead.pipeline_id, lead.status_id)
        if old == (pipeline_id, status_id):
            return None
        lead.pipeline_id, lead.status_id = pipeline_id, status_id
        # Re-opening clears `closed_at`: not documented.
        lead.closed_at = at if status_id in (WON, LOST) else None
        if status_id != LOST:
            lead.loss_reason_id = None
        new = (pipeline_id, status_id)
        self.events.add("lead_status_changed", "leads", lead.id, by, at, before=(old,), after=(new,))
        return old

    def closest_task_at(self, kind: str, entity_id: int) -> int | None:
        """Return when the next open task of an entity is due."""
        tasks = self.tasks_by_entity.get((kind, entity_id), ())
        return min((task.complete_till for task in tasks if not task.is_completed), default=None)
