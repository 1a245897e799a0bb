"""Kommo's API v4. Reference: https://developers.kommo.com/reference"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog

from app.addresses import clean_email
from app.clients.errors import ApiError
from app.clients.fields import Field
from app.clients.http import Access, FixedAccess, Http, Observe, Refusal, understanding, unobserved
from app.clients.rehearsal import Rehearsal
from app.events import Company, Contact, Lead

log = structlog.get_logger("relay.kommo")

FILTERED = 50  # deals asked for in one call, where a page must hold all that stands on them
PAGE = 250  # entities a page and a write at most: https://developers.kommo.com/docs/limitations
LOG_PAGE = 100  # entries of the events log a page: as many as all of Kommo's pages about it allow
INCOMING = 1  # the type of the stage for leads that nobody has taken on yet: its id differs by pipeline
LATEST = 1e11  # Unix seconds, later than any time
LOGGED_DEALS = 10  # deals that the events log can be asked for in one call


@dataclass(frozen=True)
class NewTask:
    """A task for a user on a deal, due at Unix seconds."""

    lead_id: int
    text: str
    due_at: int
    task_type: int
    user_id: int | None


@dataclass(frozen=True)
class NewNote:
    """A plain note on a deal or a contact."""

    entity_id: int
    text: str


@dataclass(frozen=True)
class Written:
    """A task or a note that stands on a deal or a contact; `created_at` in Unix seconds; `open`: not completed."""

    id: int
    entity_id: int
    text: str
    created_at: float
    open: bool = True


@dataclass(frozen=True)
class Change:
    """What to change on a deal or a contact: fields by id, tags by name. The rest stays."""

    id: int
    fields: Mapping[int, str] = field(default_factory=dict)
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Which deals to list; what is not said does not matter. Times are of the last change, in Unix seconds."""

    pipeline_ids: tuple[int, ...] = ()
    stage: tuple[int, int] | None = None  # pipeline and status
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True)
class Position:
    """Where a deal stands: stages have an id of their own, but for won and lost."""

    status_id: int
    pipeline_id: int | None


@dataclass(frozen=True)
class LoggedMove:
    """An entry of Kommo's events log: a deal was added, or entered a stage; `at` in Unix seconds, by Kommo's clock.

    `after` is None where a deal was added: the log does not say into which stage.
    """

    id: str
    lead_id: int
    at: float
    after: Position | None
    before: Position | None = None


@dataclass(frozen=True)
class Hook:
    """A webhook of the account's settings. `disabled`: Kommo has switched it off, and sends nothing to it."""

    destination: str
    settings: tuple[str, ...]
    disabled: bool = False


@dataclass(frozen=True)
class KnownStage:
    """A stage of a pipeline. `incoming`: for leads that nobody has taken on yet; nothing can be moved there."""

    id: int
    name: str
    incoming: bool = False


@dataclass(frozen=True)
class Account:
    """The account that a token is of."""

    name: str
    subdomain: str


@dataclass(frozen=True)
class User:
    """A user of the account. `active`: may be given tasks."""

    id: int
    name: str
    active: bool


@dataclass(frozen=True)
class Pipeline:
    """A pipeline with its stages, won (142) and lost (143) among them, in the order in which Kommo shows them."""

    id: int
    name: str
    stages: tuple[KnownStage, ...]
    archived: bool = False


class KommoClient:
    """The calls to one Kommo account. Every method raises ApiError."""

    def __init__(
        self,
        url: str,
        token: str | Access,
        *,
        throttle: Callable[[], None] = lambda: None,
        refused: Callable[[float | None], None] = lambda retry_after: None,
        may_write: Callable[[], bool] = lambda: True,
        observe: Observe = unobserved,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        self._rehearsed = rehearsal is not None
        self._http = Http(
            "Kommo",
            f"{url}/api/v4",
            {},
            access=FixedAccess(token) if isinstance(token, str) else token,
            explain=_explain,
            throttle=throttle,
            refused=refused,
            is_block=is_block,
            may_write=may_write,
            observe=observe,
            rehearsal=rehearsal,
        )

    def paced(self, throttle: Callable[[], None], refused: Callable[[float | None], None]) -> KommoClient:
        """Return one that makes its calls at another pace, over the same connections."""
        made = copy.copy(self)
        made._http = self._http.paced(throttle, refused)
        return made

    def leads(self, ids: Iterable[int]) -> dict[int, Lead]:
        """Return the deals with these ids, with their contacts; deleted and unknown ones are missing."""
        # Reference: https://developers.kommo.com/reference/leads-list
        with understanding("Kommo", "GET /leads"):
            return {lead.id: lead for lead in map(_lead, self._by_id("leads", ids, ("with", "contacts")))}

    def leads_page(self, choice: Choice, page: int) -> tuple[list[Lead], bool]:
        """Return a page of the chosen deals, up to 250 with their contacts, and whether more follow.

        Those changed longest ago come first. Deals that are still incoming, and deleted ones, are missing.
        """
        # Reference: https://developers.kommo.com/reference/leads-list
        return self._listed(choice, page, ("with", "contacts"))

    def count_leads(self, choice: Choice) -> int:
        """Return how many deals are chosen. Kommo does not say it: about 2 log2(pages) calls find the last page."""
        filled, empty, page = 0, 0, 1  # the last page known to have some, and the first known to have none
        while True:
            found, more = self._listed(choice, page)
            if found and not more:
                return (page - 1) * PAGE + len(found)
            if found:
                filled = page
            else:
                empty = page
            if empty and filled + 1 >= empty:
                return filled * PAGE
            page = (filled + empty) // 2 if empty else page * 2

    def _listed(self, choice: Choice, page: int, *query: tuple[str, str | int]) -> tuple[list[Lead], bool]:
        with understanding("Kommo", "GET /leads"):
            answer = self._http.get("/leads", [*_filters(choice), *query, ("limit", PAGE), ("page", page)])
            if not answer:  # 204
                return [], False
            return [_lead(body) for body in answer["_embedded"]["leads"]], _has_next(answer)

    def contacts(self, ids: Iterable[int], *, with_leads: bool = False) -> dict[int, Contact]:
        """Return the contacts with these ids, with the ids of their deals if wanted; unknown ones are missing."""
        query = [("with", "leads")] if with_leads else []
        with understanding("Kommo", "GET /contacts"):
            return {contact.id: contact for contact in map(_contact, self._by_id("contacts", ids, *query))}

    def companies(self, ids: Iterable[int]) -> dict[int, Company]:
        """Return the companies with these ids; unknown ones are missing."""
        with understanding("Kommo", "GET /companies"):
            return {company.id: company for company in map(_company, self._by_id("companies", ids))}

    def contacts_by_email(self, email: str) -> list[Contact]:
        """Return the contacts that have exactly this email, with the ids of their deals.

        Kommo's `query` looks into every field and matches parts of words, so its hits are compared here.
        """
        # Reference: https://developers.kommo.com/reference/contacts-list
        query: list[tuple[str, str | int]] = [("query", email), ("with", "leads"), ("limit", PAGE)]
        with understanding("Kommo", "GET /contacts"):
            found = map(_contact, self._pages("contacts", query))
            return [contact for contact in found if email in contact.emails]

    def add_tasks(self, tasks: Sequence[NewTask]) -> list[int | None]:
        """Add tasks to deals; return their ids, in order: None if Kommo does not name it, 0 in a rehearsal."""
        # Reference: https://developers.kommo.com/reference/add-tasks
        items = [
            {
                "entity_type": "leads",
                "entity_id": task.lead_id,
                "task_type_id": task.task_type,
                "text": task.text,
                "complete_till": task.due_at,
                **({} if task.user_id is None else {"responsible_user_id": task.user_id}),
            }
            for task in tasks
        ]
        return self._add("tasks", "tasks", items)

    def add_notes(self, notes: Sequence[NewNote], on: str = "leads") -> list[int | None]:
        """Add plain notes to deals (or `contacts`); return their ids as `add_tasks` does."""
        # Reference: https://developers.kommo.com/reference/add-notes
        items = [
            {"entity_id": note.entity_id, "note_type": "common", "params": {"text": note.text}} for note in notes
        ]
        return self._add(f"{on}/notes", "notes", items)

    def tasks_of(self, lead_ids: Sequence[int]) -> list[Written]:
        """Return the tasks of deals, open and completed, oldest first."""
        # Reference: https://developers.kommo.com/reference/tasks-list
        written = []
        for start in range(0, len(lead_ids), FILTERED):
            filters = [("filter[entity_id][]", lead_id) for lead_id in lead_ids[start : start + FILTERED]]
            query: list[tuple[str, str | int]] = [("filter[entity_type]", "leads"), *filters, ("limit", PAGE)]
            with understanding("Kommo", "GET /tasks"):
                written += [_task(body) for body in self._pages("tasks", query)]
        return sorted(written, key=lambda entry: entry.id)

    def notes_of(self, entity_ids: Sequence[int], on: str = "leads") -> list[Written]:
        """Return the plain notes of deals (or `contacts`), oldest first: a call for each."""
        # Reference: https://developers.kommo.com/reference/notes-by-entity-id
        with understanding("Kommo", "GET /notes"):
            written = [
                _note(body)
                for entity_id in entity_ids
                for body in self._pages("notes", [("limit", PAGE)], path=f"/{on}/{entity_id}/notes")
                if body.get("note_type") == "common"
            ]
        return sorted(written, key=lambda entry: entry.id)

    def tasks(self, ids: Iterable[int]) -> dict[int, Written]:
        """Return the tasks with these ids; unknown ones are missing."""
        with understanding("Kommo", "GET /tasks"):
            return {entry.id: entry for entry in map(_task, self._by_id("tasks", ids))}

    def notes(self, ids: Iterable[int], on: str = "leads") -> dict[int, Written]:
        """Return the notes with these ids of deals (or `contacts`); unknown ones are missing."""
        # Reference: https://www.kommo.com/developers/content/api_v4/events-and-notes
        with understanding("Kommo", "GET /notes"):
            found = self._by_id("notes", ids, path=f"/{on}/notes")
            return {entry.id: entry for entry in map(_note, found)}

    def update_tasks(self, texts: Mapping[int, str]) -> None:
        """Give tasks other texts, by id."""
        # Reference: https://developers.kommo.com/reference/edit-task; an array, as for every other entity, in
        # Kommo's own library: https://github.com/amocrm/amocrm-api-php
        self._http.patch("/tasks", [{"id": task_id, "text": text} for task_id, text in texts.items()])

    def update_notes(self, texts: Mapping[int, str], on: str = "leads") -> None:
        """Give plain notes of deals (or `contacts`) other texts, by id."""
        # Reference: as for tasks.
        items = [
            {"id": note_id, "note_type": "common", "params": {"text": text}} for note_id, text in texts.items()
        ]
        self._http.patch(f"/{on}/notes", items)

    def update_leads(self, changes: Sequence[Change]) -> None:
        """Change deals."""
        # Reference: https://developers.kommo.com/reference/updating-single-lead
        self._http.patch("/leads", [_change(change) for change in changes])

    def update_contacts(self, changes: Sequence[Change]) -> None:
        """Change contacts."""
        # Reference: https://developers.kommo.com/reference/update-contact
        self._http.patch("/contacts", [_change(change) for change in changes])

    def moves(self, since: int, until: int | None = None) -> Iterator[LoggedMove]:
        """Yield the deals that were added or entered a stage, page after page, in Kommo's own order.

        `since` and `until` are Unix seconds by Kommo's clock, both included; None: up to now.
        """
        # Reference: https://developers.kommo.com/reference/events-filtration
        ends: list[tuple[str, str | int]] = [("filter[created_at][from]", since)]
        if until is not None:
            ends.append(("filter[created_at][to]", until))
        yield from self._log("lead_added,lead_status_changed", ends)

    def moves_of(self, lead_ids: Sequence[int]) -> list[LoggedMove]:
        """Return all the stages that deals entered after they had been added; a call for every ten deals."""
        found: list[LoggedMove] = []
        for start in range(0, len(lead_ids), LOGGED_DEALS):
            deals = [("filter[entity_id][]", lead_id) for lead_id in lead_ids[start : start + LOGGED_DEALS]]
            found += self._log("lead_status_changed", deals)
        return found

    def _log(self, types: str, filters: Sequence[tuple[str, str | int]]) -> Iterator[LoggedMove]:
        query = [("filter[type]", types), ("filter[entity]", "lead"), *filters, ("limit", LOG_PAGE)]
        with understanding("Kommo", "GET /events"):
            yield from map(_move, self._pages("events", query))

    def pipelines(self) -> list[Pipeline]:
        """Return the account's pipelines with their stages."""
        # Reference: https://developers.kommo.com/reference/pipelines-list
        with understanding("Kommo", "GET /leads/pipelines"):
            answer = self._http.get("/leads/pipelines") or {}
            return [_pipeline(body) for body in sorted(_embedded(answer, "pipelines"), key=_sort)]

    def deal_fields(self) -> list[Field]:
        """Return the custom fields of deals; their ids are numbers."""
        # Reference: https://developers.kommo.com/reference/custom-field-by-entity
        with understanding("Kommo", "GET /leads/custom_fields"):
            return [_field(body) for body in self._pages("leads/custom_fields", [("limit", PAGE)])]

    def add_deal_fields(self, names: Sequence[str], kind: str) -> list[Field]:
        """Make custom fields of deals; return them as they are. Only an administrator's token may."""
        # Reference: https://developers.kommo.com/reference/add-custom-fields
        answer = self._http.post("/leads/custom_fields", [{"name": name, "type": kind} for name in names])
        with understanding("Kommo", "POST /leads/custom_fields"):
            return [_field(body) for body in answer["_embedded"]["custom_fields"]]

    def account(self) -> Account:
        """Return the account."""
        # Reference: https://developers.kommo.com/reference/account-parameters
        with understanding("Kommo", "GET /account"):
            body = self._http.get("/account")
            return Account(body.get("name") or "", body.get("subdomain") or "")

    def users(self) -> list[User]:
        """Return the account's users. Only an administrator's token may ask."""
        # Reference: https://developers.kommo.com/reference/users-list
        with understanding("Kommo", "GET /users"):
            return [_user(body) for body in self._pages("users", [("limit", PAGE)])]

    def webhooks(self) -> list[Hook]:
        """Return the account's webhooks. Only an administrator's token may ask."""
        # Reference: https://developers.kommo.com/reference/list-webhooks
        with understanding("Kommo", "GET /webhooks"):
            return [_hook(body) for body in _embedded(self._http.get("/webhooks") or {}, "webhooks")]

    def set_webhook(self, destination: str, settings: Sequence[str]) -> Hook | None:
        """Have Kommo send these events to an address, whether it did already or not.

        Returns the webhook as it stands then, None if Kommo does not say it.
        """
        # Reference: https://developers.kommo.com/reference/add-webhooks
        answer = self._http.post("/webhooks", {"destination": destination, "settings": list(settings)})
        return _hook(answer) if isinstance(answer, dict) and "destination" in answer else None

    def delete_webhook(self, destination: str) -> None:
        """Have Kommo send nothing more to an address."""
        # Reference: https://developers.kommo.com/reference/delete-webhook
        self._http.delete("/webhooks", {"destination": destination})

    def _by_id(
        self, entity: str, ids: Iterable[int], *query: tuple[str, str | int], path: str | None = None
    ) -> Iterator[dict[str, Any]]:
        wanted = sorted(set(ids))
        path = path or f"/{entity}"
        if len(wanted) == 1:
            # A read by id also finds what lists leave out: deals that are still incoming.
            try:
                found = self._http.get(f"{path}/{wanted[0]}", query)
            except ApiError as error:
                # Unknown here, or the account has moved: the list, below, tells the one from the other.
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
            else:
                yield from [found] if found else []
                return
        for start in range(0, len(wanted), PAGE):
            filters = [("filter[id][]", wanted_id) for wanted_id in wanted[start : start + PAGE]]
            yield from self._pages(entity, [*filters, *query, ("limit", PAGE)], path)

    def _pages(
        self, entity: str, query: Sequence[tuple[str, str | int]], path: str | None = None
    ) -> Iterator[dict[str, Any]]:
        page = 1
        while True:
            answer = self._http.get(path or f"/{entity}", [*query, ("page", page)] if page > 1 else query)
            if not answer:  # 204: nothing (more)
                return
            yield from answer["_embedded"][entity.rpartition("/")[2]]
            if not _has_next(answer):
                return
            page += 1

    def _add(self, path: str, entity: str, items: list[dict[str, Any]]) -> list[int | None]:
        # `request_id` comes back with each made entity; their order is not promised.
        numbered = [{**item, "request_id": str(number)} for number, item in enumerate(items)]
        answer = self._http.post(f"/{path}", numbered)
        if self._rehearsed:
            return [0] * len(items)
        made = dict(_named(answer, entity))
        return [made.get(str(number)) for number in range(len(items))]


def _named(answer: Any, entity: str) -> Iterator[tuple[str, int]]:
    """Yield the request and the id of each entity that an answer to adding some says was made."""
    try:
        items = list(answer["_embedded"][entity])
    except (LookupError, TypeError):
        return  # whether they were made must be looked up
    for item in items:
        try:
            yield str(item["request_id"]), int(item["id"])
        except (LookupError, TypeError, ValueError):
            log.warning("Kommo's answer names something that cannot be read", kind=entity)


def is_block(status: int, body: str) -> bool:
    """Tell the block after too many calls, which answers in HTML, from a token without rights."""
    # Reference: https://developers.kommo.com/docs/limitations
    return status == HTTPStatus.FORBIDDEN and body.lstrip().startswith("<")


def _explain(body: Any) -> Refusal:
    words = body.get("detail") or body.get("title") or ""
    for entity in body.get("validation-errors", []):
        for error in entity.get("errors", []):
            words += f"; {error.get('path', '')}: {error.get('detail', '')} ({error.get('code', '')})"
    return Refusal(words, body.get("retry_after"))


def _filters(choice: Choice) -> list[tuple[str, str | int]]:
    """Return the query that lists the chosen deals in the order of their last change."""
    query: list[tuple[str, str | int]] = [("filter[pipeline_id][]", number) for number in choice.pipeline_ids]
    if choice.stage:
        pipeline_id, status_id = choice.stage
        query += [
            ("filter[statuses][0][pipeline_id]", pipeline_id),
            ("filter[statuses][0][status_id]", status_id),
        ]
    if choice.since:
        query.append(("filter[updated_at][from]", choice.since))
    if choice.until:
        query.append(("filter[updated_at][to]", choice.until))
    return [*query, ("order[updated_at]", "asc")]


def _has_next(answer: dict[str, Any]) -> bool:
    return bool((answer.get("_links") or {}).get("next"))


def _change(change: Change) -> dict[str, Any]:
    body: dict[str, Any] = {"id": change.id}
    if change.fields:
        body["custom_fields_values"] = [
            {"field_id": field_id, "values": [{"value": value}]} for field_id, value in change.fields.items()
        ]
    # Not `_embedded.tags`: that would replace all the tags of the entity.
    if change.add_tags:
        body["tags_to_add"] = [{"name": name} for name in change.add_tags]
    if change.remove_tags:
        body["tags_to_delete"] = [{"name": name} for name in change.remove_tags]
    return body


def _task(body: dict[str, Any]) -> Written:
    is_open = not body.get("is_completed")
    return Written(body["id"], body["entity_id"], body.get("text") or "", body.get("created_at") or 0, is_open)


def _note(body: dict[str, Any]) -> Written:
    text = (body.get("params") or {}).get("text") or ""
    return Written(body["id"], body["entity_id"], text, body.get("created_at") or 0)


def _move(body: dict[str, Any]) -> LoggedMove:
    return LoggedMove(
        id=str(body["id"]),
        lead_id=int(body["entity_id"]),
        at=float(body["created_at"]),
        after=_position(body.get("value_after")),
        before=_position(body.get("value_before")),
    )


def _position(values: Any) -> Position | None:
    """Return the stage of an entry's `value_before` or `value_after`, or None if it holds none."""
    for value in values or []:
        if stage := value.get("lead_status"):
            return Position(int(stage["id"]), stage.get("pipeline_id"))
    return None


def token_expiry(token: str) -> float | None:
    """Return when a long-lived token ends, in Unix seconds; None if it does not say it. It is not checked."""
    # A JWT: https://developers.kommo.com/docs/long-lived-token
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        ends = float(claims["exp"])
        return ends if 0 < ends < LATEST else None
    except (LookupError, TypeError, ValueError):
        return None


def _user(body: dict[str, Any]) -> User:
    return User(int(body["id"]), body.get("name") or "", (body.get("rights") or {}).get("is_active") is not False)


def _hook(body: dict[str, Any]) -> Hook:
    return Hook(body["destination"], tuple(body.get("settings") or ()), bool(body.get("disabled")))


def _sort(body: dict[str, Any]) -> int:
    return int(body.get("sort") or 0)


def _pipeline(body: dict[str, Any]) -> Pipeline:
    stages = (
        KnownStage(int(stage["id"]), stage.get("name") or "", incoming=stage.get("type") == INCOMING)
        for stage in sorted(_embedded(body, "statuses"), key=_sort)
    )
    return Pipeline(int(body["id"]), body.get("name") or "", tuple(stages), bool(body.get("is_archive")))


def _field(body: dict[str, Any]) -> Field:
    options = tuple(str(option["value"]) for option in body.get("enums") or ())
    return Field(str(int(body["id"])), body.get("name") or "", body["type"], options)


def _embedded(entity: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (entity.get("_embedded") or {}).get(name) or []
    return found


def _first_id(items: list[dict[str, Any]]) -> int | None:
    return items[0]["id"] if items else None


def _tags(entity: dict[str, Any]) -> tuple[str, ...]:
    return tuple(tag["name"] for tag in _embedded(entity, "tags"))


def _fields(entity: dict[str, Any]) -> dict[str, Any]:
    """Return the first value of each custom field, by id (as text) and by code."""
    values: dict[str, Any] = {}
    for item in entity.get("custom_fields_values") or []:
        first = (item.get("values") or [{}])[0].get("value")
        if first is not None:
            values[str(item["field_id"])] = first
            if item.get("field_code"):
                values[item["field_code"]] = first
    return values


def _emails(entity: dict[str, Any]) -> tuple[str, ...]:
    values = [
        value.get("value")
        for item in entity.get("custom_fields_values") or []
        if item.get("field_code") == "EMAIL"
        for value in item.get("values") or []
    ]
    cleaned = (clean_email(str(value)) for value in values if value)
    return tuple(email for email in cleaned if email)


def _lead(body: dict[str, Any]) -> Lead:
    contacts = sorted(_embedded(body, "contacts"), key=lambda contact: not contact.get("is_main"))
    return Lead(
        id=body["id"],
        name=body.get("name") or "",
        status_id=body["status_id"],
        pipeline_id=body["pipeline_id"],
        price=body.get("price") or 0,
        responsible_user_id=body.get("responsible_user_id"),
        updated_at=body.get("updated_at") or 0,
        is_deleted=bool(body.get("is_deleted")),
        contact_ids=tuple(contact["id"] for contact in contacts),
        company_id=_first_id(_embedded(body, "companies")),
        tags=_tags(body),
        fields=_fields(body),
    )


def _contact(body: dict[str, Any]) -> Contact:
    return Contact(
        id=body["id"],
        name=body.get("name") or "",
        first_name=body.get("first_name") or "",
        last_name=body.get("last_name") or "",
        emails=_emails(body),
        tags=_tags(body),
        lead_ids=tuple(lead["id"] for lead in _embedded(body, "leads")),
        company_id=_first_id(_embedded(body, "companies")),
        fields=_fields(body),
    )


def _company(body: dict[str, Any]) -> Company:
    return Company(id=body["id"], name=body.get("name") or "", fields=_fields(body))
