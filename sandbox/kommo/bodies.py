"""The bodies of webhooks: forms with PHP's brackets.

https://developers.kommo.com/docs/webhooks-general, https://developers.kommo.com/docs/webhooks-dp
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from sandbox.kommo import fields
from sandbox.kommo.records import SINGULAR, Account, Company, Contact, Entity, Kind, Lead, Note, Task

Data = dict[str, Any]
ELEMENT_TYPES = {"contacts": 1, "leads": 2, "companies": 3}
# 4, 5, 10 and 11 are in the reference; the others are the sister platform's, except geolocation (a guess).
NOTE_TYPES = {
    "common": 4,
    "attachment": 5,
    "call_in": 10,
    "call_out": 11,
    "service_message": 25,
    "extended_service_message": 26,
    "geolocation": 24,
    "sms_in": 102,
    "sms_out": 103,
}
METADATA = {"event_source": {"type": 5, "author_name": "Example Integration"}}


@dataclass(frozen=True)
class LeadChange:
    """A lead, and what it was before."""

    lead: Lead
    old_pipeline_id: int | None = None
    old_status_id: int | None = None
    old_responsible_user_id: int | None = None


def form(data: Data) -> bytes:
    """Return nested data as a form, in its order; what is None or an empty list does not appear."""
    return urlencode(list(_pairs("", data))).encode()


def _pairs(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _pairs(f"{key}[{name}]" if key else str(name), part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _pairs(f"{key}[{index}]", part)
    elif value is not None:
        yield key, str(int(value) if isinstance(value, bool) else value)


class Bodies:
    """Builds the items of webhook bodies."""

    def __init__(self, account: Account, account_id: int, subdomain: str) -> None:
        self._account = account
        self._account_id = account_id
        self._subdomain = subdomain

    def settings(self, entity: str, action: str, items: list[Data], *, account_last: bool) -> bytes:
        """Return the body of a settings webhook. Its account link is not on the API's domain."""
        owner = {
            "subdomain": self._subdomain,
            "id": self._account_id,
            "_links": {"self": f"https://{self._subdomain}.amocrm.com"},
        }
        content = {entity: {action: items}}
        return form({**content, "account": owner} if account_last else {"account": owner, **content})

    def pipeline(self, change: LeadChange) -> bytes:
        """Return the body of a Digital Pipeline webhook: ids only."""
        lead = change.lead
        item: Data = {"id": lead.id, "status_id": lead.status_id, "pipeline_id": lead.pipeline_id}
        action = "add" if change.old_status_id is None else "status"
        if change.old_status_id is not None:
            item |= {"old_status_id": change.old_status_id, "old_pipeline_id": change.old_pipeline_id}
        owner = {"id": self._account_id, "subdomain": self._subdomain}
        return form({"leads": {action: [item]}, "account": owner})

    def lead(self, change: LeadChange) -> Data:
        """Return a lead; `old_pipeline_id` is not among its fields."""
        lead = change.lead
        return {
            "id": lead.id,
            "name": lead.name,
            "status_id": lead.status_id,
            "old_status_id": change.old_status_id,
            "price": lead.price,
            "responsible_user_id": lead.responsible_user_id,
            "old_responsible_user_id": change.old_responsible_user_id,
            "last_modified": lead.updated_at,
            "modified_user_id": lead.updated_by,
            "created_user_id": lead.created_by,
            "date_create": lead.created_at,
            "pipeline_id": lead.pipeline_id,
            "tags": self._tags("leads", lead),
            "account_id": self._account_id,
            "custom_fields": fields.in_hook(self._account.fields["leads"], lead.fields),
            "created_at": lead.created_at,
            "updated_at": lead.updated_at,
        }

    def deleted(self, change: LeadChange) -> Data:
        """Return a deleted lead."""
        lead = change.lead
        return {"id": lead.id, "status_id": lead.status_id, "pipeline_id": lead.pipeline_id}

    def person(self, entity: Contact | Company, old_responsible_user_id: int | None) -> Data:
        """Return a contact or a company; both come under `contacts`."""
        kind: Kind = "contacts" if isinstance(entity, Contact) else "companies"
        company = self._account.companies.get(entity.company_id or 0) if isinstance(entity, Contact) else None
        lead_ids = entity.lead_ids if isinstance(entity, Contact) else {}
        return {
            "id": entity.id,
            "name": entity.name,
            "responsible_user_id": entity.responsible_user_id,
            "date_create": entity.created_at,
            "last_modified": entity.updated_at,
            "created_user_id": entity.created_by,
            "modified_user_id": entity.updated_by,
            "company_name": company.name if company else None,
            "linked_company_id": company.id if company else None,
            "account_id": self._account_id,
            "custom_fields": fields.in_hook(self._account.fields[kind], entity.fields),
            "linked_leads_id": {number: {"ID": number} for number in lead_ids},
            "tags": self._tags(kind, entity),
            "old_responsible_user_id": old_responsible_user_id,
            "created_at": entity.created_at,
            "updated_at": entity.updated_at,
            "type": SINGULAR[kind],
        }

    def task(self, task: Task, old_responsible_user_id: int | None) -> Data:
        """Return a task."""
        done = task.is_completed and task.result is not None
        return {
            "id": task.id,
            "element_id": task.entity_id,
            "element_type": ELEMENT_TYPES.get(task.entity_type or ""),
            "task_type": task.task_type_id,
            "date_create": _written(task.created_at),
            "text": task.text,
            "status": task.is_completed,
            "account_id": self._account_id,
            "created_user_id": task.created_by,
            "last_modified": _written(task.updated_at),
            "responsible_user_id": task.responsible_user_id,
            "complete_till": _written(task.complete_till),
            "action_close": task.is_completed,
            "result": {"id": task.result_id, "text": task.result} if done else None,
            "main_user": task.responsible_user_id,
            "modified_by": task.updated_by,
            "old_responsible_user_id": old_responsible_user_id,
            "created_at": task.created_at,
            "updated_at": task.updated_at,
            "complete_before": task.complete_till,
        }

    def note(self, note: Note) -> Data:
        """Return a note, one level deeper than everything else."""
        item: Data = {
            "note": {
                "id": note.id,
                "note_type": NOTE_TYPES[note.note_type],
                "text": note.params.get("text", ""),
                "attachement": "",
                "element_type": ELEMENT_TYPES[note.kind],
                "element_id": note.entity_id,
                "date_create": _written(note.created_at),
                "created_by": note.created_by,
                "modified_by": note.created_by,
                "main_user_id": note.responsible_user_id,
                "group_id": 0,
                "account_id": self._account_id,
                "timestamp_x": _written(note.created_at),
                "metadata": json.dumps(METADATA, separators=(",", ":")),
                "created_at": note.created_at,
                "updated_at": note.created_at,
            }
        }
        return item if note.kind == "leads" else {**item, "type": SINGULAR[note.kind]}

    def _tags(self, kind: Kind, entity: Entity) -> list[Data]:
        tags = self._account.tags[kind].by_id
        return [{"id": number, "name": tags[number].name} for number in entity.tags]


def _written(at: int) -> str:
    """Return a moment as text; the account's time zone is UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
