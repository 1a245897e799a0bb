"""The REST host's routes, under `/v1`, from Encharge's OpenAPI; what it leaves open is marked assumed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request

from sandbox.encharge.answers import nothing
from sandbox.encharge.bodies import EVENT_TYPE
from sandbox.encharge.fields import DEFAULT_NAMES, TYPES, make_field
from sandbox.encharge.people import IDENTIFIERS, Change, Person, RefusedError, split_tags
from sandbox.vendor import json_answer

if TYPE_CHECKING:
    from sandbox.encharge.cloud import Encharge

ARTICLE_ONLY = ("post_event", "broadcast_activity")
"""Endpoints that exist in the article's dialect only."""
KEYLESS = ("receive_hook",)
"""Endpoints that anybody may call."""

SEGMENTS: tuple[dict[str, Any], ...] = ({"id": 1, "name": "Everyone"}, {"id": 2, "name": "Unsubscribed"})
_SELECTOR = re.compile(r"people\[(\w+)]\[(\w+)]")


class Rest:
    """The routes of one account. Statuses of failed validation (422) and of unknown ids (404) are assumed."""

    def __init__(self, encharge: Encharge) -> None:
        self.encharge = encharge
        self.people = encharge.people

    def add_to(self, app: Flask) -> None:
        """Add the routes to an app; each endpoint is named as its method."""
        for verbs, rule, view in (
            ("POST", "/people", self.upsert_people),
            ("GET", "/people", self.some_people),
            ("DELETE", "/people", self.delete_people),
            ("GET", "/people/all", self.all_people),
            ("POST", "/people/unsubscribe", self.unsubscribe_person),
            ("POST", "/tags", self.add_tags),
            ("DELETE", "/tags", self.remove_tags),
            ("GET", "/tags-management", self.list_tags),
            ("GET", "/fields", self.list_fields),
            ("POST", "/fields", self.create_fields),
            ("PATCH", "/fields/<name>", self.change_field),
            ("DELETE", "/fields/<name>", self.delete_field),
            ("GET", "/segments", self.list_segments),
            ("GET", "/segments/<number>/people", self.segment_people),
            ("GET", "/accounts/info", self.account_info),
            ("POST", "/event-subscriptions", self.create_subscription),
            ("DELETE", "/event-subscriptions/<number>", self.delete_subscription),
            ("GET", "/broadcasts", self.list_broadcasts),
            ("POST", "/broadcasts/<number>/send", self.send_broadcast),
            ("GET POST", "/hooks/<hook>", self.receive_hook),
            ("POST", "/events", self.post_event),
            ("GET", "/broadcasts/<number>/activity", self.broadcast_activity),
        ):
            app.add_url_rule(f"/v1{rule}", view.__name__, view, methods=verbs.split())

    # -- people ---------------------------------------------------------------------------------------------

    def upsert_people(self) -> Response:
        """Create or update people: an array answers `users`, a bare object (form-encoded too) `user`.

        An array with one bad item is refused as a whole (assumed).
        """
        body = _body()
        items = [self._spread(item) for item in (body if isinstance(body, list) else [body])]
        with self.encharge.changing() as changes:
            for item in items:
                self.people.check(item)
            changes += [self.people.upsert(item) for item in items]
            users = [change.person.read() for change in changes]
        return json_answer({"users": users} if isinstance(body, list) else {"user": users[0]})

    def some_people(self) -> Response:
        """Read the people that `people[0][email]=...` selects; one unknown makes it a 404 if so switched."""
        archived = request.args.get("includeArchived") == "true"
        with self.encharge.lock:
            if self.encharge.unknown_people == "404" and not all(map(self.people.find, self._selectors())):
                raise RefusedError(404, "Person not found.")
            people = [person for person in self._selected() if archived or not person.archived]
            users = [person.read(_attributes()) for person in people]
        return json_answer({"users": users})

    def delete_people(self) -> Response:
        """Archive the selected people, or erase them with `force=true`; unknown ones change nothing."""
        with self.encharge.lock:
            for person in self._selected():
                person.archived = True
                if request.args.get("force") == "true":
                    self.people.erase(person)
        return nothing(204)

    def all_people(self) -> Response:
        """Read everybody, page by page."""
        with self.encharge.lock:
            return json_answer({"people": _page(self.people.listed())})

    def unsubscribe_person(self) -> Response:
        """Unsubscribe whom the query selects from all mail."""
        with self.encharge.changing() as changes:
            person = self._the_person(request.args)
            changes.append(self.people.upsert({"unsubscribed": True}, person))
        return nothing(204)

    # -- tags -----------------------------------------------------------------------------------------------

    def add_tags(self) -> Response:
        """Tag a person that exists."""
        with self.encharge.changing() as changes:
            person, tags = self._tagging()
            before = dict(person.values)
            changes.append(Change(person, before, added_tags=self.people.tag(person, tags)))
        return nothing(201)

    def remove_tags(self) -> Response:
        """Untag a person; the tags are in the body."""
        with self.encharge.changing() as changes:
            person, tags = self._tagging()
            before = dict(person.values)
            changes.append(Change(person, before, removed_tags=self.people.untag(person, tags)))
        return nothing(204)

    def list_tags(self) -> Response:
        """List the tag registry."""
        with self.encharge.lock:
            counts = self.people.tag_counts()
            tags = [
                {"tag": tag, "color": None, "description": None, "createdAt": at, "count": counts[tag]}
                for tag, at in self.people.tags.items()
            ]
        return json_answer({"tags": tags})

    # -- fields ---------------------------------------------------------------------------------------------

    def list_fields(self) -> Response:
        """List the person fields."""
        with self.encharge.lock:
            return json_answer({"items": list(self.people.fields.values())})

    def create_fields(self) -> Response:
        """Create fields; name and type are required, as in the current spec."""
        body = _body()
        if not isinstance(body, list):
            raise RefusedError(422, "The body should be an array of fields.")
        with self.encharge.lock:
            items = [self._new_field(item) for item in body]
            self.people.fields.update((item["name"], item) for item in items)
        return json_answer({"items": items})

    def change_field(self, name: str) -> Response:
        """Change anything of a field but its name."""
        body = _object()
        with self.encharge.lock:
            field = self.people.fields.get(name)
            if field is None:
                raise RefusedError(404, f"Field {name} not found.")
            field.update((key, value) for key, value in body.items() if key in field and key != "name")
            return json_answer({"field": field})

    def delete_field(self, name: str) -> Response:
        """Delete a custom field with everybody's values."""
        with self.encharge.lock:
            if name not in self.people.fields:
                raise RefusedError(404, f"Field {name} not found.")
            if name in DEFAULT_NAMES:
                raise RefusedError(422, f"Field {name} can't be deleted.")
            self.people.drop_field(name)
        return nothing(204)

    # -- segments, account ----------------------------------------------------------------------------------

    def list_segments(self) -> Response:
        """List the segments."""
        return json_answer({"segments": list(SEGMENTS)})

    def segment_people(self, number: str) -> Response:
        """Read the people of a segment, page by page."""
        wanted = _number(number)
        if wanted not in [segment["id"] for segment in SEGMENTS]:
            raise RefusedError(404, f"Segment {wanted} not found.")
        with self.encharge.lock:
            people = self.people.listed()
            return json_answer({"people": _page(p for p in people if wanted == 1 or p.unsubscribed)})

    def account_info(self) -> Response:
        """Tell about the account."""
        with self.encharge.lock:
            count = sum(not person.anonymous for person in self.people.listed())
        return json_answer(
            {
                "accountId": 90211,
                "name": "Sandbox",
                "site": "https://sandbox.example",
                "timezone": "Europe/Berlin",
                "status": self.encharge.account,
                "peopleCount": count,
                "services": [],
                "activeServices": [],
            }
        )

    # -- event subscriptions: neither list nor read nor update exists ----------------------------------------

    def create_subscription(self) -> Response:
        """Subscribe an address (`url`; `targetUrl` in the older spec) to one event type."""
        body = _object()
        event_type = str(body.get("eventType") or "")
        url = str(body.get("url") or body.get("targetUrl") or "")
        if not EVENT_TYPE.fullmatch(event_type):
            raise RefusedError(422, f"Unknown event type: {event_type}.")
        if not url.startswith(("http://", "https://")):
            raise RefusedError(422, "Field url should be an address.")
        return json_answer({"subscription": {"id": self.encharge.subscribe(event_type, url)}}, 201)

    def delete_subscription(self, number: str) -> Response:
        """Remove an event subscription."""
        if not self.encharge.unsubscribe(_number(number)):
            raise RefusedError(404, "Event subscription not found.")
        return nothing(204)

    # -- broadcasts, flows ----------------------------------------------------------------------------------

    def list_broadcasts(self) -> Response:
        """List the broadcasts with their totals (not documented, but in use)."""
        with self.encharge.lock:
            return json_answer({"items": list(self.encharge.mails.broadcasts.values())})

    def send_broadcast(self, number: str) -> Response:
        """Send a broadcast."""
        with self.encharge.lock:
            broadcast = self._broadcast(number)
            broadcast.update(status="sent", sendAt=self.encharge.now())
            return json_answer({"item": broadcast})

    def receive_hook(self, hook: str) -> Response:
        """Take what a flow's "Receive Webhook" step is sent: JSON, or query values; its answer is assumed."""
        body = _object() if request.method == "POST" else request.args.to_dict()
        with self.encharge.lock:
            self.encharge.add_hook(hook, body)
        return json_answer({})

    # -- the article's dialect ------------------------------------------------------------------------------

    def post_event(self) -> Response:
        """Record an event as the article does it; its answer is assumed."""
        body = _object()
        name, properties = body.get("name"), body.get("properties") or {}
        if not name or not isinstance(name, str) or not isinstance(properties, dict):
            raise RefusedError(422, "An event should have a name, and properties as an object.")
        given = {key: body[key] for key in ("email", "userId") if body.get(key)}
        with self.encharge.changing() as changes:
            self.people.check(given)
            changes.append(self.people.upsert(given))
            self.encharge.add_event(name, properties, changes[0].person)
        return json_answer({"status": "success"})

    def broadcast_activity(self, number: str) -> Response:
        """List who did what with a broadcast, as the article claims; the shape is assumed."""
        with self.encharge.lock:
            name = self._broadcast(number)["name"]
            return json_answer({"activity": self.encharge.mails.activity.get(name, [])})

    # -- inside ---------------------------------------------------------------------------------------------

    def _spread(self, item: Any) -> Any:
        """Spread a nested `fields` in the article's dialect; the documented one stores it as one value."""
        if self.encharge.dialect != "article" or not isinstance(item, dict):
            return item
        fields = item.get("fields")
        if not isinstance(fields, dict):
            return item
        return {**{key: value for key, value in item.items() if key != "fields"}, **fields}

    def _selectors(self) -> Collection[Mapping[str, str]]:
        """Return what the bracketed query says of each person."""
        selectors: dict[str, dict[str, str]] = {}
        for key, value in request.args.items():
            if match := _SELECTOR.fullmatch(key):
                selectors.setdefault(match[1], {})[match[2]] = value
        if not selectors:
            raise RefusedError(422, "Query people should select people, as in people[0][email].")
        return selectors.values()

    def _selected(self) -> list[Person]:
        """Return the people that the bracketed query selects, each once."""
        found = {person.id: person for given in self._selectors() if (person := self.people.find(given))}
        return list(found.values())

    def _the_person(self, given: Mapping[str, Any]) -> Person:
        """Return the person that id, userId or email selects."""
        if not any(given.get(key) for key in IDENTIFIERS):
            raise RefusedError(422, "One of id, userId, email is required.")
        person = self.people.find(given)
        if person is None or person.archived:
            raise RefusedError(404, "Person not found.")
        return person

    def _tagging(self) -> tuple[Person, list[str]]:
        body = _object()
        tags = split_tags(body.get("tag"))
        if not tags:
            raise RefusedError(422, "Field tag is required.")
        return self._the_person(body), tags

    def _new_field(self, item: Any) -> dict[str, Any]:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not item["name"]:
            raise RefusedError(422, "Each field should have a name.")
        if item.get("type") not in TYPES:
            raise RefusedError(422, f"Field type should be one of {', '.join(TYPES)}.")
        if item["name"] in self.people.fields:
            raise RefusedError(422, f"Field {item['name']} already exists.")
        return make_field(**item)

    def _broadcast(self, number: str) -> dict[str, Any]:
        broadcast = self.encharge.mails.broadcasts.get(_number(number))
        if broadcast is None:
            raise RefusedError(404, "Broadcast not found.")
        return broadcast


def _body() -> Any:
    """Return the body as Express parses it: JSON or a form by its content type, else an empty object."""
    if not request.is_json:
        return request.form.to_dict()
    return request.get_json() if request.get_data() else {}


def _object() -> dict[str, Any]:
    body = _body()
    if not isinstance(body, dict):
        raise RefusedError(422, "The body should be an object.")
    return body


def _number(text: str, name: str = "id") -> int:
    if not (text.isascii() and text.isdigit()):
        raise RefusedError(422, f"Parameter {name} should be a number.")
    return int(text)


def _attributes() -> list[str]:
    return [name for name in request.args.get("attributes", "").split(",") if name]


def _page(people: Iterable[Person]) -> list[dict[str, Any]]:
    """Sort and cut people as the query says; 100 is the default, the largest page is not documented."""
    limit = _number(request.args.get("limit", "100"), "limit")
    offset = _number(request.args.get("offset", "0"), "offset")
    listed = [p for p in people if not (p.anonymous and request.args.get("ignoreAnonymous") == "true")]
    if sort := request.args.get("sort"):
        backwards = request.args.get("order", "asc") == "desc"
        listed.sort(key=lambda person: _sort_key(person.values.get(sort)), reverse=backwards)
    return [person.read(_attributes()) for person in listed[offset : offset + limit]]


def _sort_key(value: Any) -> tuple[int, float, str]:
    if value is None:
        return 2, 0.0, ""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))
