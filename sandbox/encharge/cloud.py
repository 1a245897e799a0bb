"""The Encharge account: its state, its webhooks, and the levers that move it."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.client import responses
from typing import Any, ClassVar

from flask import Response, request
from flask.typing import ResponseReturnValue

from sandbox.courier import Courier, Target
from sandbox.encharge import bodies
from sandbox.encharge.answers import cannot
from sandbox.encharge.ingest import Ingest
from sandbox.encharge.mails import Mails
from sandbox.encharge.people import Change, People, Person, RefusedError
from sandbox.encharge.rest import ARTICLE_ONLY, KEYLESS, Rest
from sandbox.vendor import Vendor, json_answer, numbers

JSON = "application/json"
SHAPES = ("flow", "article", "subscription", "stream")
SWITCHES: dict[str, tuple[object, ...]] = {
    "dialect": ("documented", "article"),
    "plan": ("premium", "growth"),
    "account": ("active", "trial", "canceled", "trialExpired"),
    "every_open": (True, False),
    "unknown_people": ("left out", "404"),
}
NOT_LOGGED_IN = "User not logged in: Unauthorized request: no authentication given"
NO_JWT = 10082


@dataclass(frozen=True)
class Subscription:
    """An event subscription: one event type, one address."""

    id: int
    eventType: str  # noqa: N815 - the vendor's name
    url: str


class Encharge(Vendor):
    """An Encharge account behind its REST host; `ingest` is its second host.

    Switches: `dialect` "article" adds what a public article claims and no vendor page knows: Bearer with the
    API key, `POST /events`, `GET /broadcasts/{id}/activity`, and a nested `fields` that is spread. `plan`
    "growth" shuts the ingest host. With `every_open` off, a second open of a mail starts no flow. A read that
    asks for `unknown_people` leaves them out, or answers 404: it is not documented which.

    `target` is where the flows and the Activity Stream post; without one they do nothing. `flow_rows` are the
    key/value rows of the "Send Webhook" step. A reset keeps the target and the keys.

    Not there: objects, templates, transactional mail, writing of segments and of the tag registry.
    """

    name = "encharge"
    webhook_timeout: ClassVar[float] = 2.0
    """Seconds; documented for the Activity Stream only, and taken for all."""

    def __init__(self, courier: Courier, clock: Callable[[], float] = time.time) -> None:
        super().__init__(courier, clock)
        self.api_key = "sandbox.encharge.key"
        self.write_key = "sandbox-encharge-write-key"
        self.target: Target | None = None
        self.people = People(self.now)
        self.ingest = Ingest(self)
        self.app.url_map.strict_slashes = False
        self.app.url_map.merge_slashes = False
        self.app.register_error_handler(RefusedError, lambda error: self.error(error.status, error.message))
        Rest(self).add_to(self.app)
        self._add_levers()
        self.reset()

    # -- the frame's questions ------------------------------------------------------------------------------

    def error(self, status: int, detail: str = "", code: int = 0) -> Response:
        """Answer with the REST envelope (docs.encharge.io, "Transactional email API"); no path is HTML."""
        if status == 404 and not detail:
            return cannot()
        message = detail or (NOT_LOGGED_IN if status == 401 else responses.get(status, "Error"))
        error: dict[str, Any] = {"message": message, "markdown": message, "traceId": uuid.uuid4().hex}
        if code:
            error["errorCode"] = code
        if status >= 500:
            error["stack"] = f"Error: {message}\n    at Layer.handle (/app/router/layer.js:95:5)"
        return json_answer({"error": error}, status, "application/json; charset=utf-8")

    def check(self) -> Response | None:
        """Refuse unknown paths first, then missing and wrong keys."""
        rule = request.url_rule
        if rule is None or (self.dialect != "article" and rule.endpoint in ARTICLE_ONLY):
            return self.error(404)
        return None if rule.endpoint in KEYLESS else self._check_key()

    def state(self) -> dict[str, Any]:
        """Return everything of the account."""
        with self.lock:
            state: dict[str, Any] = {
                "people": [person.read() for person in self.people.listed()],
                "archived": [person.read() for person in self.people.listed(archived=True)],
                "events": self._events,
                "objects": self._objects,
                "hooks": self._hooks,
                "tags": self.people.tag_counts(),
                "fields": list(self.people.fields.values()),
                "subscriptions": [asdict(subscription) for subscription in self.subscriptions.values()],
                "broadcasts": list(self.mails.broadcasts.values()),
                "activity": self.mails.activity,
                "switches": self.switches(),
                "flow_rows": self.flow_rows,
                "target": self.target and asdict(self.target),
            }
            # A copy: what was read stays as it was.
            copy: dict[str, Any] = json.loads(json.dumps(state))
        return copy

    def reset(self) -> None:
        """Go back to the seeded start, switches too; both hosts forget their faults and calls."""
        super().reset()
        self.ingest.reset()
        with self.lock:
            self.dialect = "documented"
            self.plan = "premium"
            self.account = "active"
            self.every_open = True
            self.unknown_people = "left out"
            self.flow_rows = dict(bodies.FLOW_ROWS)
            self.people.clear()
            self.mails = Mails(self.now())
            self.subscriptions: dict[int, Subscription] = {}
            self._by_type: dict[str, dict[int, Subscription]] = {}
            self._subscription_ids = numbers(70001)
            self._events: list[dict[str, Any]] = []
            self._objects: list[dict[str, Any]] = []
            self._hooks: list[dict[str, Any]] = []

    # -- levers ---------------------------------------------------------------------------------------------

    def add_person(self, email: str, /, **fields: Any) -> str:
        """Add a person, or update the one with that email, as the user would in the app; return its id."""
        if not isinstance(email, str) or not email.strip():
            raise ValueError("a person needs an email")
        with self.changing(source="app") as changes:
            try:
                self.people.check({**fields, "email": email})
            except RefusedError as refused:
                raise ValueError(refused.message) from refused
            changes.append(self.people.upsert({"email": email, **fields}))
            return changes[0].person.id

    def act(
        self,
        email: str,
        event: str,
        *,
        broadcast: str = "Proposal follow-up - May",
        shape: str = "flow",
        link: str | None = None,
        first: bool = True,
    ) -> None:
        """Let a person do something with a mail and call out about it in one of four shapes.

        `flow` is what a "Send Webhook" step posts and `article` what the article shows (`first` only there).
        `stream` is the Activity Stream: the names of its email events are not documented, it uses
        emailOpened, emailClicked and emailBounced. `subscription` exists for "unsubscribed" only. A mail that
        is no broadcast has no totals.
        """
        _check_act(event, shape)
        with self.changing(source="app") as changes:
            person = self.people.find({"email": email})
            if person is None or person.archived:
                raise KeyError(f"no person has the email {email}")
            change = self._set_unsubscribed(person, event)
            changes += [change] if change else []
            now = person.values["lastActivity"] = self.now()
            entry = {"at": now, "event": event, "email": person.values["email"], "link": link}
            again = self.mails.record(broadcast, event, person.id, entry)
            email_id = self.mails.email_id(broadcast)
            done = bodies.Act(person, event, broadcast, email_id, link, first, self.clock(), change)
            body = bodies.act_body(shape, done, self.flow_rows)
        if event == "opened" and again and not self.every_open and shape in ("flow", "article"):
            return
        if self.target:
            kind = str(body.get("event") or body.get("eventType") or body.get("name"))
            self._post(kind, self.target, json.dumps(body).encode())

    def switch(self, **values: Any) -> dict[str, Any]:
        """Set switches and return them all."""
        for key, value in values.items():
            if key not in SWITCHES:
                raise ValueError(f"no such switch: {key}")
            if value not in SWITCHES[key]:
                raise ValueError(f"{key} must be one of {', '.join(map(repr, SWITCHES[key]))}")
        with self.lock:
            for key, value in values.items():
                setattr(self, key, value)
        return self.switches()

    def switches(self) -> dict[str, Any]:
        """Return the switches."""
        return {key: getattr(self, key) for key in SWITCHES}

    def set_flow_rows(self, rows: dict[str, str]) -> None:
        """Replace the rows of the "Send Webhook" step; `event` is always its first."""
        if not all(isinstance(value, str) for value in rows.values()):
            raise ValueError("the value of each row must be text")
        self.flow_rows = dict(rows)

    # -- what both hosts use --------------------------------------------------------------------------------

    def now(self) -> str:
        """Return the time as Encharge writes it: ISO 8601 with milliseconds and Z."""
        moment = datetime.fromtimestamp(self.clock(), UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @contextlib.contextmanager
    def changing(self, source: str = "api") -> Iterator[list[Change]]:
        """Hold the lock while changes are made and listed, then tell the event subscriptions of them.

        Only the source "api" was ever seen, for REST; ingest is taken for the same, "app" is the rest.
        """
        changes: list[Change] = []
        with self.lock:
            yield changes
            notices = [notice for change in changes for notice in self._notices(change, source)]
        for subscription, body in notices:
            self._post(subscription.eventType, Target(subscription.url), body)

    def add_event(self, name: str, properties: dict[str, Any], person: Person | None) -> None:
        """Record an event of a person. The caller holds the lock."""
        email = person.values.get("email") if person else None
        if person:
            person.values["lastActivity"] = self.now()
        self._events.append({"at": self.clock(), "name": name, "email": email, "properties": properties})

    def add_object(self, object_type: Any, properties: dict[str, Any], person: Person | None) -> None:
        """Record an object from a `group` event. The caller holds the lock."""
        email = person.values.get("email") if person else None
        self._objects.append(
            {"at": self.clock(), "objectType": object_type, "email": email, "properties": properties}
        )

    def add_hook(self, hook: str, body: dict[str, Any]) -> None:
        """Record a call of a flow's "Receive Webhook" address. The caller holds the lock."""
        self._hooks.append({"at": self.clock(), "hook": hook, "body": body})

    def subscribe(self, event_type: str, url: str) -> int:
        """Add an event subscription and return its id; a second one for the same doubles the deliveries."""
        with self.lock:
            made = Subscription(next(self._subscription_ids), event_type, url)
            self.subscriptions[made.id] = made
            self._by_type.setdefault(event_type, {})[made.id] = made
        return made.id

    def unsubscribe(self, number: int) -> bool:
        """Remove an event subscription; return whether it was there."""
        with self.lock:
            gone = self.subscriptions.pop(number, None)
            if gone:
                del self._by_type[gone.eventType][number]
        return gone is not None

    # -- inside ---------------------------------------------------------------------------------------------

    def _check_key(self) -> Response | None:
        token = request.headers.get("X-Encharge-Token") or request.args.get("token")
        # Bearer is for OAuth tokens; nothing shows that an API key works there: it counts as none given.
        if not token and self.dialect == "article":
            token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not token:
            return self.error(401)
        if token == self.api_key:
            return None
        if token.count(".") != 2:
            return self.error(401, "Token without payload (should be JWT token).", NO_JWT)
        # The answer to a JWT of somebody else was not seen.
        return self.error(401, "User not logged in: Unauthorized request: invalid token")

    def _set_unsubscribed(self, person: Person, event: str) -> Change | None:
        if event not in ("unsubscribed", "resubscribed"):
            return None
        return self.people.upsert({"unsubscribed": event == "unsubscribed"}, person)

    def _notices(self, change: Change, source: str) -> Iterator[tuple[Subscription, bytes]]:
        if not self.subscriptions:
            return
        for event_type, payload, person in bodies.events_of(change, source):
            for subscription in self._by_type.get(event_type, {}).values():
                yield subscription, json.dumps(bodies.subscription(event_type, payload, person)).encode()

    def _post(self, kind: str, target: Target, body: bytes) -> None:
        # Retries and signatures are not documented: there are none.
        self.courier.send(self.name, kind, target, body, JSON, timeout=self.webhook_timeout)

    def _add_levers(self) -> None:
        @self.control.post("/people")
        def add_person() -> ResponseReturnValue:
            body = _lever_body()
            return {"id": self.add_person(body.pop("email", ""), **body)}

        @self.control.post("/act")
        def act() -> ResponseReturnValue:
            self.act(**_lever_body())
            return {}

        @self.control.route("/switches", methods=["GET", "POST"])
        def switches() -> ResponseReturnValue:
            return self.switch(**_lever_body()) if request.method == "POST" else self.switches()

        @self.control.post("/flow")
        def flow() -> ResponseReturnValue:
            self.set_flow_rows(_lever_body())
            return self.flow_rows


def _check_act(event: str, shape: str) -> None:
    if event not in bodies.FLOW_EVENTS:
        raise ValueError(f"event must be one of {', '.join(bodies.FLOW_EVENTS)}")
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}")
    if shape == "subscription" and event != "unsubscribed":
        raise ValueError("there is no event subscription for email activity, only for unsubscribed")


def _lever_body() -> dict[str, Any]:
    body = request.get_json(force=True)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body
