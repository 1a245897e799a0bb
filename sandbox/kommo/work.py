"""Changes to the account, with the events and webhooks that they raise. The caller holds the vendor's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sandbox.kommo.bodies import LeadChange
from sandbox.kommo.fields import Value
from sandbox.kommo.hooks import Hooks
from sandbox.kommo.records import (
    SINGULAR,
    Account,
    Company,
    Contact,
    Entity,
    Kind,
    Lead,
    Note,
    Task,
)


@dataclass
class Draft:
    """What a write sets: plain attributes, and the parts that need more than that."""

    plain: dict[str, Any] = field(default_factory=dict)
    fields: dict[int, list[Value]] = field(default_factory=dict)
    tags: list[str] | None = None
    """Names of all tags from now on; None = leave them, but for the next two."""
    tags_to_add: list[str] = field(default_factory=list)
    tags_to_delete: list[str] = field(default_factory=list)
    contact_ids: list[int] = field(default_factory=list)
    company_id: int | None = None


class Work:
    """Does what the API and the levers ask for."""

    def __init__(self, account: Account, hooks: Hooks, clock: Callable[[], float]) -> None:
        self._account = account
        self._hooks = hooks
        self._clock = clock

    # -- new entities ---------------------------------------------------------------------------------------

    def create(
        self, kind: Kind, draft: Draft, by: int, wanted_id: int | None = None, *, quiet: bool = False
    ) -> int:
        """Add a lead, contact or company and return its id; `quiet` raises no webhooks."""
        plain = draft.plain
        number = self._account.new_id(kind, wanted_id)
        created_at = plain.get("created_at", int(self._clock()))
        created_by = plain.get("created_by", by)
        shared: dict[str, Any] = {
            "id": number,
            "name": plain.get("name", ""),
            "responsible_user_id": plain.get("responsible_user_id", by),
            "created_by": created_by,
            "updated_by": plain.get("updated_by", created_by),
            "created_at": created_at,
            "updated_at": plain.get("updated_at", created_at),
            "fields": {key: values for key, values in draft.fields.items() if values},
        }
        make = {"leads": self._create_lead, "contacts": self._create_contact, "companies": self._create_company}
        entity = make[kind](shared, draft)
        self._tag(kind, entity, draft)
        entity.index_text(self._clock())
        self._account.events.add(f"{SINGULAR[kind]}_added", kind, number, entity.created_by, entity.created_at)
        if not quiet:
            self._announce_new(entity)
        return number

    def _create_lead(self, shared: dict[str, Any], draft: Draft) -> Lead:
        plain = draft.plain
        pipeline_id = plain.get("pipeline_id") or next(iter(self._account.pipelines))
        lead = Lead(
            **{**shared, "name": plain.get("name", f"Lead #{shared['id']}")},
            price=plain.get("price") or 0,
            pipeline_id=pipeline_id,
            status_id=plain.get("status_id") or self._account.pipelines[pipeline_id].first_stage(),
            loss_reason_id=plain.get("loss_reason_id"),
            contact_ids=list(dict.fromkeys(draft.contact_ids)),
            company_id=draft.company_id,
        )
        lead.closed_at = plain.get("closed_at") or (lead.created_at if lead.is_closed else None)
        self._account.add_lead(lead)
        return lead

    def _create_contact(self, shared: dict[str, Any], draft: Draft) -> Contact:
        first, last = draft.plain.get("first_name") or "", draft.plain.get("last_name") or ""
        name = shared["name"] or f"{first} {last}".strip()
        contact = Contact(**{**shared, "name": name}, first_name=first, last_name=last, company_id=draft.company_id)
        self._account.add_contact(contact)
        return contact

    def _create_company(self, shared: dict[str, Any], _: Draft) -> Company:
        company = self._account.companies[shared["id"]] = Company(**shared)
        return company

    def _announce_new(self, entity: Entity) -> None:
        if isinstance(entity, Lead):
            self._hooks.leads("add", [LeadChange(entity)])
            self._hooks.entered(LeadChange(entity))
        elif isinstance(entity, Contact | Company):
            self._hooks.person("add", entity)

    # -- changes --------------------------------------------------------------------------------------------

    def update(self, kind: Kind, entity: Entity, draft: Draft, by: int) -> None:
        """Change an entity: a field sent replaces its values, one not sent stays."""
        now = int(self._clock())
        plain = dict(draft.plain)
        old_responsible = entity.responsible_user_id
        entity.updated_at = plain.pop("updated_at", now)
        entity.updated_by = plain.pop("updated_by", by)
        left = self._restage(entity, plain, entity.updated_by, now) if isinstance(entity, Lead) else None
        for key, value in plain.items():
            setattr(entity, key, value)
        if isinstance(entity, Contact) and "name" not in plain and plain.keys() & {"first_name", "last_name"}:
            entity.name = f"{entity.first_name} {entity.last_name}".strip()
        for number, values in draft.fields.items():
            entity.fields[number] = values
        self._tag(kind, entity, draft)
        entity.index_text(self._clock())
        self._announce_change(entity, left, old_responsible)

    def _restage(self, lead: Lead, plain: dict[str, Any], by: int, now: int) -> tuple[int, int] | None:
        """Move a lead if the write says so; another pipeline without a stage means its first one (unsure)."""
        pipeline_id = plain.pop("pipeline_id", None) or lead.pipeline_id
        status_id = plain.pop("status_id", None)
        if status_id is None:
            same = self._account.stage(pipeline_id, lead.status_id)
            status_id = lead.status_id if same else self._account.pipelines[pipeline_id].first_stage()
        return self._account.put_in_stage(lead, pipeline_id, status_id, by, now)

    def _announce_change(self, entity: Entity, left: tuple[int, int] | None, old_responsible: int) -> None:
        reassigned = entity.responsible_user_id != old_responsible
        if isinstance(entity, Lead):
            old_pipeline_id, old_status_id = left or (None, None)
            change = LeadChange(entity, old_pipeline_id, old_status_id, old_responsible if reassigned else None)
            self._hooks.leads("update", [change])
            if left:
                self._hooks.leads("status", [change])
                self._hooks.entered(change)
            if reassigned:
                self._hooks.leads("responsible", [change])
        elif isinstance(entity, Contact | Company):
            self._hooks.person("update", entity, old_responsible)
            if reassigned:
                self._hooks.responsible_person(entity, old_responsible)

    def move(self, leads: Iterable[Lead], pipeline_id: int | None, status_id: int, by: int, per_hook: int) -> None:
        """Move leads to a stage (pipeline None = each in its own), `per_hook` of them in one body.

        Those already there stay untouched.
        """
        now = int(self._clock())
        changes = []
        for lead in leads:
            left = self._account.put_in_stage(lead, pipeline_id or lead.pipeline_id, status_id, by, now)
            if left:
                lead.updated_at, lead.updated_by = now, by
                changes.append(LeadChange(lead, *left))
        for start in range(0, len(changes), per_hook):
            batch = changes[start : start + per_hook]
            self._hooks.leads("update", batch)
            self._hooks.leads("status", batch)
        for change in changes:
            self._hooks.entered(change)

    def delete_lead(self, lead_id: int, by: int) -> None:
        """Delete a lead."""
        now = int(self._clock())
        lead = self._account.delete_lead(lead_id)
        lead.updated_at, lead.updated_by = now, by
        self._account.events.add("lead_deleted", "leads", lead_id, by, now)
        self._hooks.leads("delete", [LeadChange(lead)])

    def _tag(self, kind: Kind, entity: Entity, draft: Draft) -> None:
        """Set an entity's tags; what to add and delete is ignored when the whole set is given."""
        tags = self._account.tags[kind]
        if draft.tags is not None:
            entity.tags = list(dict.fromkeys(tags.ensure(name).id for name in draft.tags))
            return
        added = [tags.ensure(name).id for name in draft.tags_to_add]
        gone = {tags.by_name[name].id for name in draft.tags_to_delete if name in tags.by_name}
        entity.tags = [number for number in dict.fromkeys([*entity.tags, *added]) if number not in gone]

    # -- tasks and notes ------------------------------------------------------------------------------------

    def create_task(self, plain: dict[str, Any], by: int) -> Task:
        """Add a task."""
        now = int(self._clock())
        task = Task(
            **{
                "id": next(self._account.ids["tasks"]),
                "responsible_user_id": by,
                "created_by": by,
                "updated_by": by,
                "created_at": now,
                "updated_at": now,
                **plain,
            }
        )
        self._account.add_task(task)
        self._hooks.task("add_task", "add", task)
        return task

    def update_task(self, task: Task, plain: dict[str, Any], by: int) -> None:
        """Change a task."""
        old_responsible = task.responsible_user_id
        for key, value in {"updated_at": int(self._clock()), "updated_by": by, **plain}.items():
            setattr(task, key, value)
        if task.result is not None and not task.result_id:
            task.result_id = next(self._account.ids["notes"])
        self._hooks.task("update_task", "update", task, old_responsible)
        if task.responsible_user_id != old_responsible:
            self._hooks.task("responsible_task", "update", task, old_responsible)

    def update_note(self, note: Note, plain: dict[str, Any]) -> None:
        """Change a note; no webhook tells of it."""
        note.params = plain["params"]
        note.updated_at = int(self._clock())

    def create_note(self, kind: Kind, entity_id: int, plain: dict[str, Any], by: int) -> Note:
        """Add a note."""
        created_by = plain.get("created_by", by)
        note = Note(
            id=next(self._account.ids["notes"]),
            kind=kind,
            entity_id=entity_id,
            note_type=plain["note_type"],
            params=plain["params"],
            created_by=created_by,
            created_at=int(self._clock()),
            responsible_user_id=plain.get("responsible_user_id", by),
        )
        self._account.add_note(note)
        self._hooks.note(note)
        return note
