"""How records read in answers of the API."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sandbox.kommo import fields
from sandbox.kommo.records import (
    INCOMING,
    LOST,
    SINGULAR,
    WON,
    Account,
    Company,
    Contact,
    Entity,
    Event,
    Kind,
    Lead,
    Note,
    Pipeline,
    Stage,
    Task,
)

Data = dict[str, Any]


class Render:
    """Turns records to answers; `base` is the address of the API, for links."""

    def __init__(self, account: Account, account_id: int, base: str) -> None:
        self._account = account
        self._account_id = account_id
        self._base = base

    def links(self, path: str) -> Data:
        """Return `_links` with the address of one thing."""
        return {"self": {"href": f"{self._base}/{path}"}}

    def entity(self, kind: Kind, entity: Any, with_: Collection[str] = ()) -> Data:
        """Return a lead, contact or company."""
        if kind == "leads":
            return self.lead(entity, with_)
        return self.contact(entity, with_) if kind == "contacts" else self.company(entity, with_)

    def lead(self, lead: Lead, with_: Collection[str]) -> Data:
        """Return a lead.

        https://developers.kommo.com/reference/getting-a-lead-by-its-id
        """
        embedded = {"tags": self._tags("leads", lead), "companies": self._company(lead.company_id)}
        if "contacts" in with_:
            embedded["contacts"] = [
                {"id": number, "is_main": index == 0, "_links": self.links(f"contacts/{number}")}
                for index, number in enumerate(lead.contact_ids)
            ]
        return {
            "id": lead.id,
            "name": lead.name,
            "price": lead.price,
            "responsible_user_id": lead.responsible_user_id,
            "group_id": 0,
            "status_id": lead.status_id,
            "pipeline_id": lead.pipeline_id,
            "loss_reason_id": lead.loss_reason_id,
            "created_by": lead.created_by,
            "updated_by": lead.updated_by,
            "created_at": lead.created_at,
            "updated_at": lead.updated_at,
            "closed_at": lead.closed_at,
            "closest_task_at": self._account.closest_task_at("leads", lead.id),
            "is_deleted": False,
            "custom_fields_values": fields.in_api(self._account.fields["leads"], lead.fields),
            "score": None,
            "account_id": self._account_id,
            "labor_cost": None,
            "is_price_computed": False,
            "_links": self.links(f"leads/{lead.id}"),
            "_embedded": embedded,
        }

    def deleted(self, lead: Lead) -> Data:
        """Return what is left of a deleted lead."""
        return {
            "id": lead.id,
            "updated_at": lead.updated_at,
            "is_deleted": True,
            "_links": self.links(f"leads/{lead.id}"),
        }

    def contact(self, contact: Contact, with_: Collection[str]) -> Data:
        """Return a contact.

        https://developers.kommo.com/reference/get-contact
        """
        embedded = {"tags": self._tags("contacts", contact), "companies": self._company(contact.company_id)}
        if "leads" in with_:
            embedded["leads"] = [
                {"id": number, "_links": self.links(f"leads/{number}")} for number in contact.lead_ids
            ]
        return {
            "id": contact.id,
            "name": contact.name,
            "first_name": contact.first_name,
            "last_name": contact.last_name,
            **self._shared("contacts", contact),
            "is_unsorted": False,
            "custom_fields_values": fields.in_api(self._account.fields["contacts"], contact.fields),
            "account_id": self._account_id,
            "_links": self.links(f"contacts/{contact.id}"),
            "_embedded": embedded,
        }

    def company(self, company: Company, with_: Collection[str]) -> Data:
        """Return a company."""
        embedded: Data = {"tags": self._tags("companies", company)}
        if "contacts" in with_:
            embedded["contacts"] = [
                {"id": number, "_links": self.links(f"contacts/{number}")} for number in company.contact_ids
            ]
        return {
            "id": company.id,
            "name": company.name,
            **self._shared("companies", company),
            "custom_fields_values": fields.in_api(self._account.fields["companies"], company.fields),
            "account_id": self._account_id,
            "_links": self.links(f"companies/{company.id}"),
            "_embedded": embedded,
        }

    def task(self, task: Task) -> Data:
        """Return a task; an empty `result` is a list.

        https://developers.kommo.com/reference/tasks-list
        """
        return {
            "id": task.id,
            "created_by": task.created_by,
            "updated_by": task.updated_by,
            "created_at": task.created_at,
            "updated_at": task.updated_at,
            "responsible_user_id": task.responsible_user_id,
            "group_id": 0,
            "entity_id": task.entity_id,
            "entity_type": task.entity_type,
            "duration": task.duration,
            "is_completed": task.is_completed,
            "task_type_id": task.task_type_id,
            "text": task.text,
            "result": [] if task.result is None else {"text": task.result},
            "complete_till": task.complete_till,
            "account_id": self._account_id,
            "_links": self.links(f"tasks/{task.id}"),
        }

    def note(self, note: Note) -> Data:
        """Return a note."""
        return {
            "id": note.id,
            "entity_id": note.entity_id,
            "created_by": note.created_by,
            "updated_by": note.created_by,
            "created_at": note.created_at,
            "updated_at": note.updated_at or note.created_at,
            "responsible_user_id": note.responsible_user_id,
            "group_id": 0,
            "note_type": note.note_type,
            "params": note.params,
            "account_id": self._account_id,
            "_links": self.links(f"{note.kind}/{note.entity_id}/notes/{note.id}"),
        }

    def event(self, event: Event) -> Data:
        """Return an event.

        https://www.kommo.com/developers/content/api_v4/events-and-notes
        """
        return {
            "id": event.id,
            "type": event.type,
            "entity_id": event.entity_id,
            "entity_type": SINGULAR[event.kind],
            "created_by": event.created_by,
            "created_at": event.created_at,
            "value_after": _positions(event.after),
            "value_before": _positions(event.before),
            "account_id": self._account_id,
            "_links": self.links(f"events/{event.id}"),
            "_embedded": {
                "entity": {"id": event.entity_id, "_links": self.links(f"{event.kind}/{event.entity_id}")}
            },
        }

    def pipeline(self, pipeline: Pipeline) -> Data:
        """Return a pipeline with its stages.

        https://developers.kommo.com/reference/pipelines-list
        """
        path = f"leads/pipelines/{pipeline.id}"
        return {
            "id": pipeline.id,
            "name": pipeline.name,
            "sort": pipeline.sort,
            "is_main": pipeline.is_main,
            "is_unsorted_on": any(stage.type == INCOMING for stage in pipeline.stages.values()),
            "is_archive": pipeline.is_archive,
            "account_id": self._account_id,
            "_links": self.links(path),
            "_embedded": {"statuses": [self.stage(pipeline, stage) for stage in pipeline.stages.values()]},
        }

    def stage(self, pipeline: Pipeline, stage: Stage) -> Data:
        """Return a stage."""
        return {
            "id": stage.id,
            "name": stage.name,
            "sort": stage.sort,
            "is_editable": stage.type != INCOMING and stage.id not in (WON, LOST),
            "pipeline_id": pipeline.id,
            "color": stage.color,
            "type": stage.type,
            "account_id": self._account_id,
            "_links": self.links(f"leads/pipelines/{pipeline.id}/statuses/{stage.id}"),
        }

    def field(self, kind: Kind, item: fields.Field) -> Data:
        """Return a custom field.

        https://developers.kommo.com/reference/custom-field-by-entity
        """
        options = [
            {"id": option.id, "value": option.value, "sort": option.sort, "code": option.code}
            for option in item.options
        ]
        return {
            "id": item.id,
            "name": item.name,
            "code": item.code,
            "type": item.type,
            "sort": item.sort,
            "group_id": None,
            "is_predefined": item.is_predefined,
            "is_deletable": not item.is_predefined,
            "required_statuses": [],
            "enums": options or None,
            "is_api_only": item.is_api_only,
            "account_id": self._account_id,
            "entity_type": kind,
            "_links": self.links(f"{kind}/custom_fields/{item.id}"),
        }

    def _shared(self, kind: Kind, entity: Entity) -> Data:
        return {
            "responsible_user_id": entity.responsible_user_id,
            "group_id": 0,
            "created_by": entity.created_by,
            "updated_by": entity.updated_by,
            "created_at": entity.created_at,
            "updated_at": entity.updated_at,
            "closest_task_at": self._account.closest_task_at(kind, entity.id),
            "is_deleted": False,
        }

    def _tags(self, kind: Kind, entity: Entity) -> list[Data]:
        tags = self._account.tags[kind].by_id
        return [{"id": number, "name": tags[number].name, "color": None} for number in entity.tags]

    def _company(self, company_id: int | None) -> list[Data]:
        return [{"id": company_id, "_links": self.links(f"companies/{company_id}")}] if company_id else []


def _positions(positions: tuple[tuple[int, int], ...]) -> list[Data]:
    return [{"lead_status": {"id": status_id, "pipeline_id": pipeline_id}} for pipeline_id, status_id in positions]
