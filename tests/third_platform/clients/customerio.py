"""Customer.io's Track API v2. Reference: https://docs.customer.io/api/track/"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from app.clients.http import Http, Refusal, Wire, understanding
from app.events import Access, FoundPerson, StageNews, StageNotice

URL = "https://track.customer.io"  # in the European Union CUSTOMERIO_API_URL=https://track-eu.customer.io
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # https://github.com/ulid/spec


class CustomerioClient:
    """The calls to one Customer.io workspace. Every method raises ApiError."""

    CHANGES_A_CALL = 100  # a person and an event each; a call must be smaller than 500 kB

    def __init__(self, url: str, credentials: str, **wire: Unpack[Wire]) -> None:
        """`credentials`: site ID and Track API key, with a colon between them, as Basic auth has them."""
        basic = base64.b64encode(credentials.encode()).decode()
        self._http = Http("Customerio", url, {"Authorization": f"Basic {basic}"}, explain=_explain, **wire)

    def tell(self, changes: Sequence[StageNotice]) -> list[str]:
        """Upsert the persons and record the events; of events with the same id, Customer.io keeps the first."""
        return self._batch([entry for change in changes for entry in (_person(change.news), _event(change))], 2)

    def upsert(self, news: Sequence[StageNews]) -> list[str]:
        """Create or update the persons of deals."""
        return self._batch([_person(item) for item in news], 1)

    def find_people(self, ids: Sequence[str]) -> Mapping[str, FoundPerson]:
        """Return nobody: the Track API reads no persons, and the webhooks name the address."""
        return {}

    def check(self) -> str:
        """Return in which region the workspace is."""
        with understanding("Customerio", "GET /api/v1/accounts/region"):
            return f"lets us in, region {self._http.get('/api/v1/accounts/region')['region']}"

    def _batch(self, entries: Sequence[Mapping[str, Any]], each: int) -> list[str]:
        """Send entries, `each` of them for one item; return why each item was refused ("" = it was taken)."""
        # Reference: https://docs.customer.io/api/track/#operation/batch; 207 when some entries are wrong
        answer = self._http.post("/api/v2/batch", {"batch": entries})
        refusals = [""] * (len(entries) // each)
        with understanding("Customerio", "POST /api/v2/batch"):
            for error in (answer or {}).get("errors") or ():
                refusals[error["batch_index"] // each] = str(error.get("message") or error["reason"])
        return refusals


def connect(access: Access, **wire: Unpack[Wire]) -> CustomerioClient:
    """Return the client."""
    return CustomerioClient(access.api_url or URL, access.api_key or "", **wire)


def _person(news: StageNews) -> dict[str, Any]:
    names = {"first_name": news.first_name, "last_name": news.last_name}
    ours = {"kommo_lead_id": str(news.lead_id), "kommo_current_stage": news.person_stage}
    attributes = {**{name: value for name, value in names.items() if value}, **ours, **news.fields}
    return {
        "type": "person",
        "action": "identify",
        "identifiers": {"email": news.email},
        "attributes": attributes,
    }


def _event(change: StageNotice) -> dict[str, Any]:
    news = change.news
    return {
        "type": "person",
        "action": "event",
        "identifiers": {"email": news.email},
        "name": news.event,
        "id": _ulid(change),
        "timestamp": int(change.at),
        "attributes": {
            "lead_id": str(news.lead_id),
            "stage": news.stage,
            "pipeline_id": news.pipeline_id,
            "deal_value": news.deal_value,
        },
    }


def _ulid(change: StageNotice) -> str:
    """Return the change's key as a ULID. Reference: https://docs.customer.io/journeys/events/#deduplicating-events"""
    number = int(change.at * 1000) << 80 | int.from_bytes(hashlib.sha256(change.key.encode()).digest()[:10])
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def _explain(body: Any) -> Refusal:
    errors = body.get("errors") or [body["meta"]["error"]]
    first = errors[0]
    return Refusal(first if isinstance(first, str) else first.get("message") or first["reason"])
