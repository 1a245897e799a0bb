"""The routes of API v4."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from sandbox.kommo import listing, reading
from sandbox.kommo.query import Query
from sandbox.kommo.records import KINDS, Account, Kind
from sandbox.kommo.refusals import BAD_CHOICE, Problems, Refusal, refuse_all
from sandbox.kommo.render import Data, Render
from sandbox.vendor import json_answer

if TYPE_CHECKING:
    from sandbox.kommo.server import Kommo

HAL = "application/hal+json"
KIND = f"<any({','.join(KINDS)}):kind>"


def blueprint(kommo: Kommo) -> Blueprint:
    """Return all routes of the API."""
    api = Blueprint("api", __name__, url_prefix="/api/v4")
    for add in (_add_account, _add_entities, _add_feed, _add_dictionaries, _add_tasks, _add_webhooks):
        add(api, kommo)
    return api


def _add_account(api: Blueprint, kommo: Kommo) -> None:
    @api.get("/account")
    def account() -> Response:
        return hal(kommo.account_data(Query(request.args.items(multi=True)).with_()))

    # https://developers.kommo.com/reference/users-list
    @api.get("/users")
    def users() -> Response:
        kommo.require_admin()
        with kommo.lock:
            return paged("users", list(kommo.account.users), kommo.user_data, total=True)

    @api.get("/leads/pipelines")
    def pipelines() -> Response:
        with kommo.lock:
            items = list(kommo.account.pipelines.values())
            return collection("pipelines", items, _render(kommo).pipeline, total=True)

    @api.get("/leads/pipelines/<int:pipeline_id>")
    def pipeline(pipeline_id: int) -> Response:
        # The page's example shows a list wrapper around it; unsure.
        with kommo.lock:
            found = kommo.account.pipelines.get(pipeline_id)
            return hal(_render(kommo).pipeline(found)) if found else nothing()

    @api.get("/leads/pipelines/<int:pipeline_id>/statuses")
    def stages(pipeline_id: int) -> Response:
        with kommo.lock:
            found = kommo.account.pipelines.get(pipeline_id)
            if not found:
                return nothing()
            items = list(found.stages.values())
            return collection("statuses", items, lambda item: _render(kommo).stage(found, item), total=True)

    @api.get("/leads/pipelines/<int:pipeline_id>/statuses/<int:status_id>")
    def stage(pipeline_id: int, status_id: int) -> Response:
        with kommo.lock:
            found = kommo.account.stage(pipeline_id, status_id)
            if not found:
                return nothing()
            return hal(_render(kommo).stage(kommo.account.pipelines[pipeline_id], found))

    @api.get("/events")
    def events() -> Response:
        with kommo.lock:
            return paged("events", listing.events(kommo.account, _query()), _render(kommo).event)


def _add_entities(api: Blueprint, kommo: Kommo) -> None:
    @api.get(f"/{KIND}")
    def entities(kind: Kind) -> Response:
        query = _query()
        with_ = query.with_()
        with kommo.lock:
            render = _render(kommo)
            if kind == "leads" and "only_deleted" in with_:
                return paged(kind, listing.deleted(kommo.account, query), render.deleted)
            found_before = kommo.clock() - kommo.query_lag_seconds
            items = listing.entities(kommo.account, kind, query, found_before)
            return paged(kind, items, lambda item: render.entity(kind, item, with_))

    @api.get(f"/{KIND}/<int:entity_id>")
    def entity(kind: Kind, entity_id: int) -> Response:
        with_ = _query().with_()
        with kommo.lock:
            found = kommo.account.of(kind).get(entity_id)
            return hal(_render(kommo).entity(kind, found, with_)) if found else nothing()

    @api.post(f"/{KIND}")
    def add(kind: Kind) -> Response:
        items = reading.batch(_body())
        with kommo.changing():
            drafts, problems = reading.each(items, lambda i, p: reading.entity(kommo.account, kind, i, p))
            refuse_all(problems)
            made = [kommo.work.create(kind, draft, kommo.user_id) for draft in drafts]
            render = _render(kommo)
            return written(
                kind,
                [
                    _made(render, f"{kind}/{number}", number, part, more=_contact_extras(kind))
                    for number, part in zip(made, problems, strict=True)
                ],
            )

    @api.patch(f"/{KIND}")
    def change_many(kind: Kind) -> Response:
        items = reading.batch(_body())
        with kommo.changing():
            pairs, problems = reading.each(items, lambda i, p: _change(kommo.account, kind, i, p))
            refuse_all(problems)
            for found, draft in pairs:
                kommo.work.update(kind, found, draft, kommo.user_id)
            return written(
                kind,
                [
                    _changed(_render(kommo), kind, found) | {"request_id": part.request_id}
                    for (found, _), part in zip(pairs, problems, strict=True)
                ],
            )

    @api.patch(f"/{KIND}/<int:entity_id>")
    def change(kind: Kind, entity_id: int) -> Response:
        item = reading.single(_body())
        with kommo.changing():
            found = _existing(kommo.account.of(kind), entity_id)
            problems = Problems(reading.request_id(item, 0))
            draft = reading.entity(kommo.account, kind, item, problems, found)
            refuse_all([problems])
            kommo.work.update(kind, found, draft, kommo.user_id)
            answer = _changed(_render(kommo), kind, found)
            return kommo.patched(kind, answer, problems.request_id)

    @api.get(f"/{KIND}/<int:entity_id>/links")
    def links(kind: Kind, entity_id: int) -> Response:
        query = _query()
        with kommo.lock:
            found = listing.links(kommo.account, kind, entity_id, query)
            return collection("links", found, lambda link: link, total=True)


def _change(account: Account, kind: Kind, item: Data, problems: Problems) -> tuple[Any, Any]:
    """Read one item of a bulk change."""
    number = item.get("id")
    found = account.of(kind).get(number) if isinstance(number, int) else None
    if not found:
        problems.add(BAD_CHOICE, "id")
        return None, None
    return found, reading.entity(account, kind, item, problems, found)


def _changed(render: Render, kind: Kind, entity: Any) -> Data:
    names = {"name": entity.name} if kind != "leads" else {}
    return {
        "id": entity.id,
        **names,
        "updated_at": entity.updated_at,
        **_contact_extras(kind),
        "_links": render.links(f"{kind}/{entity.id}"),
    }


def _contact_extras(kind: Kind) -> Data:
    return {"is_deleted": False, "is_unsorted": False} if kind == "contacts" else {}


def _add_feed(api: Blueprint, kommo: Kommo) -> None:
    @api.get(f"/{KIND}/notes")
    def notes(kind: Kind) -> Response:
        with kommo.lock:
            return paged("notes", listing.notes(kommo.account, kind, _query()), _render(kommo).note)

    @api.get(f"/{KIND}/<int:entity_id>/notes")
    def notes_of(kind: Kind, entity_id: int) -> Response:
        with kommo.lock:
            return paged("notes", listing.notes(kommo.account, kind, _query(), entity_id), _render(kommo).note)

    # Not in Kommo's reference, but read so by public code that works with Kommo accounts.
    @api.get(f"/{KIND}/notes/<int:note_id>")
    def note(kind: Kind, note_id: int) -> Response:
        with kommo.lock:
            found = kommo.account.notes[kind].get(note_id)
            return hal(_render(kommo).note(found)) if found else nothing()

    # The array as in Kommo's own PHP library.
    @api.patch(f"/{KIND}/notes")
    def change_notes(kind: Kind) -> Response:
        items = reading.batch(_body())
        with kommo.changing():
            pairs, problems = reading.each(items, lambda i, p: reading.changed_note(kommo.account, kind, i, p))
            refuse_all(problems)
            for found, values in pairs:
                kommo.work.update_note(found, values)
            render = _render(kommo)
            return written(
                "notes",
                [
                    _rewritten(render, f"{kind}/{found.entity_id}/notes/{found.id}", found, part)
                    for (found, _), part in zip(pairs, problems, strict=True)
                ],
            )

    @api.post(f"/{KIND}/notes")
    def add_notes(kind: Kind) -> Response:
        return _write_notes(kommo, kind, None)

    # Not in Kommo's reference, but amoCRM's, and in use with Kommo accounts.
    @api.post(f"/{KIND}/<int:entity_id>/notes")
    def add_notes_to(kind: Kind, entity_id: int) -> Response:
        return _write_notes(kommo, kind, entity_id)


def _write_notes(kommo: Kommo, kind: Kind, entity_id: int | None) -> Response:
    items = reading.batch(_body())
    with kommo.changing():
        if entity_id is not None:
            _existing(kommo.account.of(kind), entity_id)
        read, problems = reading.each(items, lambda i, p: reading.note(kommo.account, kind, i, p, entity_id))
        refuse_all(problems)
        made = [kommo.work.create_note(kind, values["entity_id"], values, kommo.user_id) for values in read]
        render = _render(kommo)
        return written(
            "notes",
            [
                _made(
                    render, f"{kind}/{note.entity_id}/notes/{note.id}", note.id, part, {"entity_id": note.entity_id}
                )
                for note, part in zip(made, problems, strict=True)
            ],
        )


def _add_dictionaries(api: Blueprint, kommo: Kommo) -> None:
    @api.get(f"/{KIND}/tags")
    def tags(kind: Kind) -> Response:
        with kommo.lock:
            items = listing.tags(kommo.account, kind, _query())
            return paged("tags", items, lambda tag: {"id": tag.id, "name": tag.name, "color": None}, total=True)

    @api.post(f"/{KIND}/tags")
    def add_tags(kind: Kind) -> Response:
        items = reading.batch(_body())
        with kommo.lock:
            names, problems = reading.each(items, lambda i, p: reading.tag(kommo.account, i, p))
            refuse_all(problems)
            made = [kommo.account.tags[kind].ensure(name) for name in names]
        return written(
            "tags",
            [
                {"id": tag.id, "name": tag.name, "color": None, "request_id": part.request_id}
                for tag, part in zip(made, problems, strict=True)
            ],
        )

    @api.get(f"/{KIND}/custom_fields")
    def custom_fields(kind: Kind) -> Response:
        with kommo.lock:
            items = listing.custom_fields(kommo.account, kind, _query())
            return paged("custom_fields", items, lambda item: _render(kommo).field(kind, item), total=True)

    @api.post(f"/{KIND}/custom_fields")
    def add_custom_fields(kind: Kind) -> Response:
        items = reading.batch(_body())
        kommo.require_admin()
        with kommo.lock:
            made, problems = reading.each(items, lambda i, p: reading.field(kommo.account, kind, i, p))
            refuse_all(problems)
            for item in made:
                kommo.account.fields[kind].add(item)
            render = _render(kommo)
            return written(
                "custom_fields",
                [
                    render.field(kind, item) | {"request_id": part.request_id}
                    for item, part in zip(made, problems, strict=True)
                ],
                total=True,
            )


def _add_tasks(api: Blueprint, kommo: Kommo) -> None:
    @api.get("/tasks")
    def tasks() -> Response:
        with kommo.lock:
            return paged("tasks", listing.tasks(kommo.account, _query()), _render(kommo).task)

    @api.get("/tasks/<int:task_id>")
    def task(task_id: int) -> Response:
        with kommo.lock:
            found = kommo.account.tasks.get(task_id)
            return hal(_render(kommo).task(found)) if found else nothing()

    @api.post("/tasks")
    def add_tasks() -> Response:
        items = reading.batch(_body())
        with kommo.changing():
            read, problems = reading.each(items, lambda i, p: reading.task(kommo.account, i, p, making=True))
            refuse_all(problems)
            made = [kommo.work.create_task(values, kommo.user_id) for values in read]
            render = _render(kommo)
            return written(
                "tasks",
                [
                    _made(render, f"tasks/{task.id}", task.id, part)
                    for task, part in zip(made, problems, strict=True)
                ],
            )

    # The array as in Kommo's own PHP library.
    @api.patch("/tasks")
    def change_tasks() -> Response:
        items = reading.batch(_body())
        with kommo.changing():
            pairs, problems = reading.each(items, lambda i, p: reading.changed_task(kommo.account, i, p))
            refuse_all(problems)
            for found, values in pairs:
                kommo.work.update_task(found, values, kommo.user_id)
            render = _render(kommo)
            return written(
                "tasks",
                [
                    _rewritten(render, f"tasks/{found.id}", found, part)
                    for (found, _), part in zip(pairs, problems, strict=True)
                ],
            )

    @api.patch("/tasks/<int:task_id>")
    def change_task(task_id: int) -> Response:
        item = reading.single(_body())
        with kommo.changing():
            found = _existing(kommo.account.tasks, task_id)
            problems = Problems(reading.request_id(item, 0))
            values = reading.task(kommo.account, item, problems, making=False)
            refuse_all([problems])
            kommo.work.update_task(found, values, kommo.user_id)
            links = _render(kommo).links(f"tasks/{task_id}")
            answer = {"id": task_id, "updated_at": found.updated_at, "_links": links}
            return kommo.patched("tasks", answer, problems.request_id)


def _add_webhooks(api: Blueprint, kommo: Kommo) -> None:
    @api.get("/webhooks")
    def webhooks() -> Response:
        kommo.require_admin()
        wanted = _query().texts("destination")
        with kommo.lock:
            items = [h for h in kommo.hooks.by_url.values() if wanted is None or h.url in wanted]
            return collection("webhooks", items, kommo.webhook_data, total=True)

    # 200 on Kommo's page, 201 on amoCRM's.
    @api.post("/webhooks")
    def add_webhook() -> Response:
        kommo.require_admin()
        body = reading.single(_body())
        problems = Problems("0")
        url, settings, sort = reading.webhook(body, problems)
        refuse_all([problems])
        with kommo.lock:
            kommo.require_room(url)
            return hal(kommo.webhook_data(kommo.hooks.register(url, settings, kommo.user_id, sort)))

    @api.delete("/webhooks")
    def delete_webhook() -> Response:
        kommo.require_admin()
        destination = str(reading.single(_body()).get("destination"))
        with kommo.lock:
            if kommo.hooks.by_url.pop(destination, None) is None:
                raise Refusal(404, "Webhook not found")
        return nothing()


# -- answers --------------------------------------------------------------------------------------------------


def hal(data: Data) -> Response:
    """Return a success."""
    return json_answer(data, content_type=HAL)


def nothing() -> Response:
    """Return 204: an empty list, an unknown entity, or something deleted."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def collection(key: str, items: list[Any], render: Callable[[Any], Data], *, total: bool) -> Response:
    """Return a list that has no pages; an empty one is a 204."""
    if not items:
        return nothing()
    body: Data = {"_total_items": len(items)} if total else {}
    body |= {"_links": {"self": {"href": request.url}}, "_embedded": {key: [render(item) for item in items]}}
    return hal(body)


def paged(key: str, items: list[Any], render: Callable[[Any], Data], *, total: bool = False) -> Response:
    """Return one page of a list, with the address of the next if there is one.

    https://developers.kommo.com/reference/leads-list
    """
    page, limit = _query().page()
    shown = items[(page - 1) * limit : page * limit]
    if not shown:
        return nothing()
    links = {"self": {"href": request.url}}
    if len(items) > page * limit:
        pairs = [pair for pair in request.args.items(multi=True) if pair[0] not in ("page", "limit")]
        query = urlencode([*pairs, ("page", page + 1), ("limit", limit)])
        links["next"] = {"href": f"{request.base_url}?{query}"}
    body: Data = {"_total_items": len(items)} if total else {}
    return hal({"_page": page, **body, "_links": links, "_embedded": {key: [render(item) for item in shown]}})


def written(key: str, items: list[Data], *, total: bool = False) -> Response:
    """Return what a write made or changed."""
    body: Data = {"_total_items": len(items)} if total else {}
    return hal({**body, "_links": {"self": {"href": request.url}}, "_embedded": {key: items}})


def _made(render: Render, path: str, number: int, problems: Problems, more: Data | None = None) -> Data:
    return {"id": number, **(more or {}), "request_id": problems.request_id, "_links": render.links(path)}


def _rewritten(render: Render, path: str, item: Any, problems: Problems) -> Data:
    return _made(render, path, item.id, problems, {"updated_at": item.updated_at})


def _render(kommo: Kommo) -> Render:
    return Render(kommo.account, kommo.account_id, f"{request.host_url}api/v4")


def _query() -> Query:
    return Query(request.args.items(multi=True))


def _body() -> Any:
    return request.get_json(force=True, silent=True)


def _existing(items: dict[int, Any], number: int) -> Any:
    if number not in items:
        raise Refusal(404, "Entity not found")
    return items[number]
