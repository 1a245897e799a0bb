"""The fake Ortto: its API on a real server, its webhooks, and the levers of both."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from flask import Response, jsonify, request

from sandbox.courier import DELIVERIES_KEPT, Courier, Target
from sandbox.ortto import reads, webhooks
from sandbox.ortto.account import Account
from sandbox.ortto.activities import Activity
from sandbox.ortto.limits import Limits
from sandbox.ortto.people import EMAIL, PERSON_ID, Person
from sandbox.ortto.switches import Switches
from sandbox.ortto.webhooks import LEAD_ID, Act, Webhook
from sandbox.ortto.wire import Ids, ItemError, RefusedError, envelope, nanoseconds, seconds, too_many
from sandbox.vendor import Vendor, json_answer

BODY_BYTES = 2_000_000
WEBHOOK_SECONDS = 5.0
"""How long Ortto waits for a webhook's answer; not documented."""
FEED_PATH = "/v1/person/get/activities"

SEED_FIELDS = {
    "Kommo lead ID": "text",
    "Kommo stage": "text",
    "Job title": "text",
    "Company size": "integer",
    "Industry": "text",
}
SEED_ACTIVITY = {
    "name": "crm-stage-changed",
    "track_conversion_value": True,
    "attributes": [
        {"name": "lead-id", "display_type": "text"},
        {"name": "stage", "display_type": "text"},
        {"name": "deal-value", "display_type": "currency"},
    ],
}

Handler = Callable[[dict[str, Any]], Any]


class Ortto(Vendor):
    """One Ortto account in one region: a key of another region is a wrong key here."""

    name = "ortto"

    def __init__(self, courier: Courier, clock: Callable[[], float] = time.time) -> None:
        super().__init__(courier, clock)
        self.api_key = "PRV-sandbox-ortto-key"
        self.target: Target | None = None
        """The webhook data source; like the key it is set up once and outlives a reset."""
        self.switches = Switches()
        self._ids = Ids(self._now)
        self.webhook_id = self._ids.bare()
        self._start_over()
        self._add_routes()
        self._add_levers()

    # -- the frame ------------------------------------------------------------------------------------------

    def error(self, status: int, detail: str = "") -> Response:
        """Return Ortto's error envelope; that of 429 is another one."""
        if status == 429:
            return json_answer(too_many(self.switches.try_in_seconds), 429)
        return json_answer(envelope(status, detail), status)

    def check(self) -> Response | None:
        """Refuse banned addresses, wrong keys and calls above the plan's rate."""
        address = request.remote_addr or ""
        banned = self._limits.banned(address)
        if banned:
            return json_answer(too_many(banned), 429)
        if self.switches.disconnected:
            return self.error(401, "API key is disconnected")  # 401 or 403 is unsure.
        if request.headers.get("X-Api-Key") != self.api_key:
            return self.error(401)
        wait = self._limits.too_fast(request.path == FEED_PATH)
        return json_answer(too_many(wait), 429) if wait else None

    def state(self) -> dict[str, Any]:
        """Return the whole account as JSON; `own_activities` are those Ortto noticed itself."""
        with self.lock:
            self._account.settle()
            people, activities = self._account.people, self._account.activities
            found: dict[str, Any] = {
                "people": [vars(person) for person in people.by_id.values()],
                "activities": [vars(activity) for activity in activities.sent],
                "own_activities": [vars(activity) for activity in activities.own],
                "definitions": list(self._account.schema.definitions.values()),
                "custom_fields": [vars(field) for field in self._account.schema.custom.values()],
                "tags": [{**vars(tag), "people": sorted(tag.people)} for tag in people.tags.values()],
                "suppressed": sorted(people.suppressed),
                "counters": {
                    "duplicates": activities.duplicates,
                    "dropped": activities.dropped,
                    "queued": self._account.queued(),
                },
                "webhooks": [vars(webhook) for webhook in self._webhooks],
                "target": asdict(self.target) if self.target else None,
                "switches": asdict(self.switches),
            }
            copied: dict[str, Any] = json.loads(json.dumps(found))
        return copied

    def may_sleep(self) -> bool:
        """Say whether a call may sleep now."""
        return super().may_sleep() or self.switches.merge_seconds > 0

    def reset(self) -> None:
        """Restore the seeded account; key and target stay, as what a user set up once."""
        super().reset()
        with self.lock:
            self.switches.restore()
            self._start_over()

    def _now(self) -> float:
        # Tests may replace the clock after construction.
        return self.clock()

    def _start_over(self) -> None:
        self._limits = Limits(self._now, self.switches)
        self._account = Account(self._now, self._ids, self.switches)
        self._webhooks: deque[Webhook] = deque(maxlen=DELIVERIES_KEPT)
        self._campaigns: dict[str, tuple[str, str]] = {}
        for name, kind in SEED_FIELDS.items():
            self._account.schema.create_field({"name": name, "type": kind}, 423)
        self._account.schema.create_definition(SEED_ACTIVITY)

    def forget_relay(self) -> None:
        """Take away what is made for a relay: custom fields, and the activity."""
        with self.lock:
            self._account.schema.clear()

    # -- the API --------------------------------------------------------------------------------------------

    def _add_routes(self) -> None:
        self.app.register_error_handler(RefusedError, self._refuse)
        self.app.after_request(self._finish)
        self._route("POST", "person/merge", lambda body: self._account.merge_people(body))
        self._route("POST", "activities/create", lambda body: self._account.create_activities(body))
        for path, read in {
            "person/get": reads.get_people,
            "person/get-by-ids": reads.get_people_by_ids,
            "person/get/activities": reads.get_feed,
            "person/subscriptions": reads.get_subscriptions,
        }.items():
            self._route("POST", path, lambda body, read=read: read(self._account, body))  # type: ignore[misc]
        self._add_schema_routes()

    def _add_schema_routes(self) -> None:
        def create_field(body: dict[str, Any]) -> dict[str, Any]:
            return self._account.schema.create_field(body, self.switches.duplicate_field_status).created()

        def schema() -> Any:
            return self._account.schema

        self._route("POST", "person/custom-field/create", create_field)
        self._route("PUT", "person/custom-field/update", lambda body: schema().update_field(body))
        self._route("POST", "definitions/activity/create", lambda body: schema().create_definition(body))
        self._route("PUT", "definitions/activity/modify", lambda body: schema().modify_definition(body))
        self._route("DELETE", "definitions/activity/delete", lambda body: schema().archive_definition(body))
        # These work without a body.
        self._route("POST", "person/custom-field/get", lambda body: schema().list_fields(), needs_body=False)
        self._route(
            "POST", "instance-schema/get", lambda body: reads.get_schema(self._account, body), needs_body=False
        )
        self._route("POST", "tags/get", lambda body: reads.get_tags(self._account, body), needs_body=False)

    def _route(self, method: str, path: str, handler: Handler, *, needs_body: bool = True) -> None:
        def view() -> Response:
            body = self._read_body(needs_body)
            by_key = path == "person/merge" and body.get("async") is not True
            by_key = by_key and body.get("merge_by") != [PERSON_ID]
            with self._limits.merge_slot() if by_key else nullcontext(), self.lock:
                self._account.settle()
                answer = handler(body)
            self._send_echoes()
            return json_answer(answer)

        self.app.add_url_rule(f"/v1/{path}", path, view, methods=[method], provide_automatic_options=False)

    def _read_body(self, needed: bool) -> dict[str, Any]:
        raw = request.get_data()
        if not raw:
            if needed:
                # "Also without the needed body" it is this status (help.ortto.com/a-714).
                raise RefusedError(404)
            return {}
        if len(raw) > BODY_BYTES:
            raise RefusedError(self.switches.size_status, f"Request body above {BODY_BYTES} bytes")
        try:
            body = json.loads(raw, parse_constant=_no_constant)
        except ValueError as error:
            raise RefusedError(400, f"Invalid JSON ({error})") from None
        if not isinstance(body, dict):
            raise RefusedError(400, "The body must be a JSON object")
        return body

    def _refuse(self, error: RefusedError) -> Response:
        return json_answer(envelope(error.status, error.error, error.details), error.status)

    def _finish(self, response: Response) -> Response:
        """Count bad requests and add the recorded headers; there are none about rate limits."""
        self._limits.count_bad(request.remote_addr or "", response.status_code)
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE, OPTIONS"
        response.headers["X-Version"] = "master-sandbox"
        return response

    # -- levers ---------------------------------------------------------------------------------------------

    def add_person(
        self,
        email: str,
        *,
        first_name: str | None = None,
        last_name: str | None = None,
        kommo_lead_id: str | None = None,
        fields: dict[str, Any] | None = None,
    ) -> str:
        """Add a person, or update the one with this email, as an import in the UI does; return the id."""
        plain = {"str::first": first_name, "str::last": last_name, LEAD_ID: kommo_lead_id}
        given = {field_id: value for field_id, value in plain.items() if value is not None}
        with self.lock:
            self._account.settle()
            try:
                return self._account.upsert({**(fields or {}), **given, EMAIL: email}).id
            except ItemError as error:
                raise ValueError(str(error)) from None

    def person(self, email: str) -> dict[str, Any]:
        """Return the person with this email."""
        with self.lock:
            self._account.settle()
            return asdict(self._find(email))

    def suppress(self, email: str) -> None:
        """Put an email on the suppression list."""
        with self.lock:
            self._account.people.suppressed.add(email)

    def switch(self, **changes: Any) -> dict[str, Any]:
        """Set switches by name and return all of them."""
        with self.lock:
            self.switches.set(**changes)
            return asdict(self.switches)

    def act(
        self,
        email: str,
        event: str,
        *,
        subject: str = "Your offer is ready",
        campaign: str = "Offer reminder",
        link: str = "https://shop.example.test/offer",
        shape: str = "dynamic",
        machine: bool = False,
    ) -> None:
        """Let a person do something; it becomes an activity, and a webhook of the shape if a target is set."""
        if shape not in webhooks.SHAPES:
            raise ValueError(f"shape must be one of {', '.join(webhooks.SHAPES)}")
        if event not in webhooks.KINDS:
            raise ValueError(f"event must be one of {', '.join(webhooks.KINDS)}")
        if shape == "test":
            self._send_test(event)
            return
        with self.lock:
            self._account.settle()
            person = self._find(email)
            campaign_id, email_id = self._campaign(campaign)
            act = Act(event, subject, campaign, link, machine, campaign_id, email_id, run_id=self._ids.bare())
            attributes = webhooks.attributes(act, person.fields.get(EMAIL, ""))
            activity = self._account.note(person, act.kind.activity_id, attributes)
            webhook = self._keep(shape, event, person, self._body(shape, act, person, activity))
        self._send(webhook, person)

    def _add_levers(self) -> None:
        @self.control.post("/people")
        def people() -> Response:
            return jsonify(id=self.add_person(**_lever_body()))

        @self.control.get("/people/<email>")
        def one_person(email: str) -> Response:
            return jsonify(self.person(email))

        @self.control.post("/act")
        def act() -> Response:
            self.act(**_lever_body())
            return jsonify({})

        @self.control.post("/suppressions")
        def suppressions() -> Response:
            self.suppress(**_lever_body())
            return jsonify({})

        @self.control.route("/switches", methods=["GET", "POST"])
        def switches() -> Response:
            return jsonify(self.switch(**(_lever_body() if request.method == "POST" else {})))

    def _find(self, email: str) -> Person:
        people = self._account.people
        found = people.having(EMAIL, email) or people.having(EMAIL, email.strip().lower())
        if not found:
            raise KeyError(f"no person with the email {email}")
        return found[0]

    def _campaign(self, name: str) -> tuple[str, str]:
        """Return the ids of a campaign and of its mail, the same ones each time."""
        if name not in self._campaigns:
            self._campaigns[name] = (self._ids.bare(), self._ids.bare())
        return self._campaigns[name]

    # -- webhooks -------------------------------------------------------------------------------------------

    def _body(self, shape: str, act: Act, person: Person, activity: Activity) -> dict[str, Any]:
        if shape == "activity":
            return webhooks.activity_body(activity, person, self._call_ids())
        sent = activity if self.switches.send_activity else None
        if shape == "journey":
            url = self.target.url if self.target else ""
            return webhooks.journey_body(act, person, self._call_ids(), sent, url)
        if shape == "playbook":
            return webhooks.playbook_body(act, person, self._call_ids(), sent)
        if shape == "article":
            return webhooks.article_body(act, person)
        return webhooks.dynamic_body(act, person, activity.created)

    def _call_ids(self) -> dict[str, str]:
        call_id = self._ids.record()
        moment = nanoseconds(self.clock(), below=int(call_id[-2:], 16) % 100)
        return {"id": call_id, "time": moment, "webhook_id": self.webhook_id}

    def _keep(self, shape: str, event: str, person: Person | None, body: dict[str, Any]) -> Webhook:
        email = person.fields.get(EMAIL, "") if person else ""
        webhook = Webhook(body.get("id") or self._ids.record(), shape, event, email, body)
        self._webhooks.append(webhook)
        return webhook

    def _send_test(self, event: str) -> None:
        if not self.target:
            raise ValueError("there is no webhook to test: set the target first")
        with self.lock:
            body = webhooks.test_body(self._ids.record(), seconds(self.clock()), self._call_ids())
            webhook = self._keep("test", event, None, body)
        self._send(webhook, None)

    def _send_echoes(self) -> None:
        """Tell the webhook of unsubscribes and resubscribes made through the API."""
        with self.lock:
            echoes, self._account.echoes = self._account.echoes, []
            kept = []
            for person, activity in echoes:
                body = webhooks.activity_body(activity, person, self._call_ids())
                kept.append((self._keep("activity", "api", person, body), person))
        for webhook, person in kept:
            self._send(webhook, person)

    def _send(self, webhook: Webhook, person: Person | None) -> None:
        if not self.target:
            webhook.outcome = "no target"
            return
        account = self._account

        def ok(status: int, content: bytes) -> bool:
            with self.lock:
                webhook.attempts.append(status)
                webhook.problem = webhooks.failure(webhook.shape, status, content)
                webhook.outcome = "failed" if webhook.problem else "delivered"
                if not webhook.problem and webhook.shape in webhooks.ACTIONS and person:
                    webhook.problem = account.write_back(person, json.loads(content))
            return webhook.outcome == "delivered"

        self.courier.send(
            self.name,
            webhook.shape,
            self.target,
            json.dumps(webhook.body).encode(),
            "application/json",
            timeout=WEBHOOK_SECONDS,
            ok=ok,
            retries=webhooks.waits_after,
        )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _lever_body() -> dict[str, Any]:
    body = request.get_json(force=True)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body
