"""The routes of the webhooks: secret, read, record, carry out, answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    Unauthorized,
)

from app.dispatcher import Dispatcher
from app.events import EmailActivity, Event, Reading, Source, State, Webhook
from app.journal import JournalError, Recorded
from app.mapping import Rules
from app.receipts import Receipt
from app.strangers import Strangers, is_ours
from app.webhooks.bodies import BodyError
from app.webhooks.secrets import presented

log = structlog.get_logger("relay.webhooks")

RECORD_SECONDS = 1.5  # Kommo and Encharge's stream wait 2 s for an answer
LARGEST_BODY = 1024 * 1024
FAULTS_NAMED = 10  # in one answer
KOMMOS_AGENT = "amoCRM"  # what the User-Agent of its webhooks begins with

Heard = Callable[[Source, int, Mapping[str, Any], float], None]  # its route, the status, the answer, its seconds


@dataclass(frozen=True)
class Route:
    """One vendor's way in: its secrets (none = the route is off) and its reader."""

    source: Source
    secrets: Sequence[str]
    read: Callable[[Webhook, float, str | None], Reading]  # webhook, now, ?event=


class Receiver:
    """Takes webhooks; `budget`: seconds that a request may wait for its work."""

    def __init__(
        self,
        routes: Mapping[Source, Route],
        rules: Rules,
        dispatcher: Dispatcher,
        *,
        budget: float,
        to_kommo: Callable[[int, float], None] = lambda status, seconds: None,
        observe: Heard = lambda source, status, body, seconds: None,
        strangers: Strangers | None = None,
        clean: Callable[[str], str] = str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`to_kommo` hears the status of each answer to Kommo, and its seconds; `observe` hears of every answer.

        `clean` takes secrets out of the words of an answer: a vendor's debug page may have told them to us.
        """
        self._routes = routes
        self._rules = rules
        self._dispatcher = dispatcher
        self._budget = budget
        self._to_kommo = to_kommo
        self._observe = observe
        self._strangers = strangers or Strangers()
        self._clean = clean
        self._clock = clock

    def receive(self, source: Source, secret: str = "") -> Response:
        """Write down the events in the body, have them carried out, say what was done."""
        began = time.monotonic()
        events: Sequence[Event] = ()
        try:
            body, events = self._handle(self._routes[source], secret, began)
            status = 200
        except HTTPException as error:
            body, status = {"error": error.description}, error.code or 500
        except Exception:
            # Flask would write the path into the log, and Kommo's secret with it.
            log.exception("a webhook could not be handled", vendor=source)
            body, status = {"error": "An error of the service's own: send it again later."}, 500
        if source == Source.ORTTO and status == 413:
            status = 400  # what is refused with 413, Ortto sends again for days
        seconds = time.monotonic() - began
        tried = status == 401 and bool(presented(request, secret))
        if status != 401 or self._strangers.refused(source, request.remote_addr, tried=tried):
            _report(source, body, events, status, seconds)
        self._observe(source, status, body, seconds)
        # Without the secret it may be anybody, unless it says that it is Kommo.
        if source == Source.KOMMO and (status != 401 or request.user_agent.string.startswith(KOMMOS_AGENT)):
            self._to_kommo(status, seconds)
        if tried:
            self._strangers.keep_waiting()
        answer = jsonify(body)
        answer.status_code = status
        return answer

    def _handle(self, route: Route, secret: str, began: float) -> tuple[dict[str, Any], Sequence[Event]]:
        if not route.secrets:
            raise NotFound(f"This route is off: set {route.source.name}_WEBHOOK_SECRET to use it.")
        if not is_ours(presented(request, secret), route.secrets):
            raise Unauthorized(
                "The webhook's secret is missing or wrong: send it as X-Webhook-Secret, as Authorization, "
                "as ?secret= or as the last part of the path."
            )
        webhook = Webhook(route.source, request.mimetype, _body())
        try:
            reading = route.read(webhook, self._clock(), request.args.get("event"))
        except BodyError as error:
            raise BadRequest(str(error)) from error
        if reading.faults and not reading.events:
            raise BadRequest(_named(reading.faults))
        found = [(event, self._rules.refusal(event)) for event in reading.events]
        try:
            receipt = self._dispatcher.record(webhook, found, seconds=RECORD_SECONDS)
        except JournalError as error:
            log.error("not recorded", vendor=route.source, error=str(error))
            raise ServiceUnavailable("The journal cannot be written now: send it again later.") from error
        self._dispatcher.carry_out(receipt, self._budget - (time.monotonic() - began))
        answer = _answer(reading, receipt)
        for entry in answer["events"]:
            entry["reason"] = self._clean(entry["reason"])
        return answer, reading.events


def make_blueprint(receiver: Receiver, sources: Iterable[Source]) -> Blueprint:
    """Build the blueprint of the routes."""
    blueprint = Blueprint("webhooks", __name__, url_prefix="/webhooks")
    paths = [(f"/{source}", source) for source in sources] + [("/kommo/stage", Source.KOMMO)]
    for path, source in paths:
        for rule in (path, f"{path}/<secret>"):
            blueprint.add_url_rule(
                rule, path.strip("/"), receiver.receive, methods=["POST"], defaults={"source": source}
            )
    return blueprint


def _body() -> bytes:
    """Return the body, whole: Werkzeug cuts off what is too long or does not come, and says nothing.

    A form that was cut off would still be one, of other deals and stages. What is compressed is never unpacked: a
    few bytes can become a flood. Raises HTTPException.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise BadRequest("The body is compressed (see its Content-Encoding): send it as it is.")
    too_large = RequestEntityTooLarge(f"The body is larger than {LARGEST_BODY} bytes: send it in parts.")
    length = request.content_length
    if length is None:  # it comes in chunks, and of those nothing beyond the limit is seen
        body = request.get_data()
        if len(body) >= LARGEST_BODY:
            raise too_large
        return body
    if length > LARGEST_BODY:
        raise too_large
    body = request.get_data()
    if len(body) < length:
        raise BadRequest(f"The body was cut off: {len(body)} of its {length} bytes came. Send it again.")
    return body


def _named(faults: Sequence[str]) -> str:
    """Return the first few faults as one sentence."""
    more = f"; and {len(faults) - FAULTS_NAMED} more" if len(faults) > FAULTS_NAMED else ""
    return "; ".join(faults[:FAULTS_NAMED]) + more


def _answer(reading: Reading, receipt: Receipt) -> dict[str, Any]:
    """Say what became of each event, and in one word of all."""
    entries = [_entry(item, receipt) for item in receipt.recorded]
    entries += [
        {"id": None, "kind": item.kind, "status": "ignored", "reason": item.reason} for item in reading.ignored
    ]
    entries += [
        {"id": None, "kind": None, "status": "ignored", "reason": fault} for fault in reading.faults[:FAULTS_NAMED]
    ]
    statuses = {entry["status"] for entry in entries}
    # `dead` is written down and waits for a person: not delivered, and not lost.
    for status, members in (
        ("accepted", {"accepted", "dead"}),
        ("delivered", {"delivered"}),
        ("duplicate", {"duplicate"}),
    ):
        if statuses & members:
            return {"status": status, "events": entries}
    return {"status": "ignored", "events": entries}


def _entry(item: Recorded, receipt: Receipt) -> dict[str, Any]:
    status, reason = _status(item, receipt)
    return {"id": item.event.id, "kind": item.event.kind, "status": status, "reason": reason}


def _status(item: Recorded, receipt: Receipt) -> tuple[str, str]:
    if item.duplicate:
        return "duplicate", f"the same as event {item.event.id}"
    if item.refused:
        return "ignored", item.refused
    parts = receipt.parts(item.event)
    reasons = {state: [part.reason for part in parts if part.state == state] for state in State}
    if receipt.open(item.event) or reasons[State.PENDING]:
        return "accepted", "; ".join(reasons[State.PENDING]) or "written down, still under way"
    if reasons[State.DEAD]:
        return "dead", "; ".join(reasons[State.DEAD])
    if reasons[State.SKIPPED]:
        return "skipped", "; ".join(reasons[State.SKIPPED])
    return "delivered", ""


def _report(source: Source, body: Mapping[str, Any], events: Iterable[Event], status: int, seconds: float) -> None:
    """Write one line per webhook: never the body, the path or a secret."""
    emails = (event.data.email for event in events if isinstance(event.data, EmailActivity))
    log.info(
        "webhook",
        vendor=source,
        address=request.remote_addr,
        scheme=request.scheme,
        code=status,
        status=body.get("status", ""),
        events=[entry["id"] for entry in body.get("events", ()) if entry["id"]],
        deals=list(dict.fromkeys(event.data.lead_id for event in events if event.data.lead_id)),
        emails=list(dict.fromkeys(filter(None, emails))),
        error=body.get("error", ""),
        milliseconds=round(seconds * 1000),
    )
