"""Encharge's ingest host: events and the people who did them, on a key and a plan of its own."""

from __future__ import annotations

from http.client import responses
from typing import TYPE_CHECKING, Any

from flask import Response, request

from sandbox.encharge.answers import cannot
from sandbox.encharge.people import Change, RefusedError
from sandbox.vendor import Vendor, json_answer

if TYPE_CHECKING:
    from sandbox.encharge.cloud import Encharge

_NO_EVENTS = ("identify", "alias", "group")


class Ingest(Vendor):
    """The ingest host of an Encharge account (docs.encharge.io, "Ingest API"); its state is the account's."""

    name = "ingest"

    def __init__(self, encharge: Encharge) -> None:
        super().__init__(encharge.courier, lambda: encharge.clock())
        self.encharge = encharge
        self.lock = encharge.lock
        self.app.url_map.strict_slashes = False
        self.app.url_map.merge_slashes = False
        self.app.register_error_handler(RefusedError, lambda error: self.error(400, error.message))
        self.app.add_url_rule("/v1/", "receive", self._receive, methods=["POST"])
        self.app.add_url_rule("/v1/<write_key>", "receive_by_path", self._receive, methods=["POST"])

    def error(self, status: int, detail: str = "") -> Response:
        """Answer with a plain string as error; no path is the host's own page."""
        if status == 404 and not detail:
            return cannot()
        return json_answer({"error": detail or responses.get(status, "Error")}, status)

    def check(self) -> Response | None:
        """Take the write key by header or path; events are a Premium feature.

        Public code disagrees on whether the API key works here too: it does not. The texts about the key were
        seen, their status (400) only in an integrator's mocks. The 403 was seen, its text was not.
        """
        if request.url_rule is None:
            return self.error(404)
        key = (request.view_args or {}).get("write_key") or request.headers.get("X-Encharge-Token")
        if not key:
            return self.error(400, "Missing Encharge write key.")
        if key != self.encharge.write_key:
            return self.error(400, "Can't find this account.")
        if self.encharge.plan != "premium":
            return self.error(403, "API events are not available on your plan.")
        return None

    def state(self) -> dict[str, Any]:
        """Return the recorded events and objects; the rest is in the state of Encharge."""
        whole = self.encharge.state()
        return {"events": whole["events"], "objects": whole["objects"]}

    def _receive(self, write_key: str = "") -> Response:
        """Take an event; `check` has looked at the key."""
        body = request.get_json(silent=True)
        if not isinstance(body, dict):
            raise RefusedError(400, "The body should be a JSON object.")
        name, user, properties = _parts(body)
        with self.encharge.changing() as changes:
            changes += self._write(name, body, user)
            person = changes[0].person if changes else None
            if name == "group":
                self.encharge.add_object(body.get("objectType"), properties, person)
            elif name not in _NO_EVENTS:
                self.encharge.add_event(name, properties, person)
        # Any 2xx is success; the body is not documented, an integrator lists a status.
        return json_answer({"status": "success"})

    def _write(self, name: str, body: dict[str, Any], user: dict[str, Any]) -> list[Change]:
        """Upsert the event's person; an alias gives the one it names new identifiers, a group needs none."""
        if not user:
            return []
        people = self.encharge.people
        previous = {"email": body.get("previousEmail"), "userId": body.get("previousUserId")}
        known = people.find(previous) if name == "alias" else None
        people.check(user)
        return [people.upsert(user, known)]


def _parts(body: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return name, user and properties, of Encharge's own shape or of the Segment destination's."""
    name = body.get("name") or (body.get("event") if body.get("type") == "track" else body.get("type"))
    user = body.get("user") or {}
    properties = body.get("properties") or {}
    # What is refused how is not documented.
    if not isinstance(name, str) or not name:
        raise RefusedError(400, "Missing event name.")
    if not isinstance(user, dict) or not isinstance(properties, dict):
        raise RefusedError(400, "Fields user and properties should be objects.")
    user = {**{key: body[key] for key in ("email", "userId") if body.get(key)}, **user}
    if user and body.get("sourceIp"):
        user.setdefault("ip", body["sourceIp"])
    if not (user.get("email") or user.get("userId") or name == "group"):
        raise RefusedError(400, "Missing user email or userId.")
    return name, user, properties
