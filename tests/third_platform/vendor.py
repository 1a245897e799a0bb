"""A fake Customer.io: its Track API v2 on a real socket. Written from https://docs.customer.io/api/track/"""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any

from flask import Response, jsonify, request

from sandbox.courier import Courier
from sandbox.vendor import Vendor, json_answer

LARGEST = 500 * 1000  # bytes of a batch
ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class Customerio(Vendor):
    """One workspace that knows its people by their addresses."""

    name = "customerio"

    def __init__(self) -> None:
        super().__init__(Courier(), time.time)
        self.credentials = "site-0123456789:track-key-0123456789"
        self.people: dict[str, dict[str, Any]] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.app.add_url_rule("/api/v1/accounts/region", view_func=self._region)
        self.app.add_url_rule("/api/v2/batch", view_func=self._batch, methods=["POST"])

    def error(self, status: int, detail: str = "") -> Response:
        """Return a refusal of the whole call."""
        return json_answer({"errors": [{"reason": "refused", "message": detail or f"status {status}"}]}, status)

    def check(self) -> Response | None:
        """Refuse wrong credentials."""
        basic = base64.b64encode(self.credentials.encode()).decode()
        return None if request.headers.get("Authorization") == f"Basic {basic}" else self.error(401, "Unauthorized")

    def state(self) -> dict[str, Any]:
        """Return who is known, and what was recorded."""
        with self.lock:
            copied: dict[str, Any] = json.loads(json.dumps({"people": self.people, "events": self.events}))
        return copied

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        with self.lock:
            self.people.clear()
            self.events.clear()

    def _region(self) -> Response:
        return jsonify(region="us", url="https://track.customer.io", environment_id=78910)

    def _batch(self) -> Response:
        """Take each entry by itself; tell what is wrong with the others."""
        if len(request.get_data()) >= LARGEST:
            return self.error(413, "the batch is too large")
        with self.lock:
            found = [(number, self._take(entry)) for number, entry in enumerate(request.json["batch"])]
        errors = [
            {"batch_index": number, "reason": "invalid", "message": wrong} for number, wrong in found if wrong
        ]
        return json_answer({"errors": errors}, 207) if errors else json_answer({})

    def _take(self, entry: dict[str, Any]) -> str:
        """Do what an entry says; return what is wrong with it."""
        email, attributes = entry["identifiers"].get("email", ""), entry["attributes"]
        if entry["type"] != "person" or not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
            return "identifiers are not those of a person"
        if email.endswith("@suppressed.example"):
            return "the person is suppressed"
        if entry["action"] == "identify":
            self.people.setdefault(email, {}).update(attributes)
        elif entry["action"] != "event" or not entry["name"]:
            return "unknown action"
        elif not ULID.fullmatch(entry["id"]):
            return "id is not a ULID"
        else:
            # "If two events contain the same id, we won't process the event multiple times."
            told = {"email": email, "name": entry["name"], "at": entry["timestamp"], **attributes}
            self.events.setdefault(entry["id"], told)
        return ""
