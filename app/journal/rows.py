"""Our words into the journal's rows, and back. What has structure is stored as JSON."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import RowMapping

from app.events import (
    DOUBTFUL,
    Context,
    EmailActivity,
    Event,
    Failure,
    Job,
    Kind,
    Lane,
    Outcome,
    Owed,
    Response,
    Source,
    StageChange,
    StageNews,
    State,
    Step,
    Webhook,
)

_stage_change = TypeAdapter(StageChange)
_email_activity = TypeAdapter(EmailActivity)
_context = TypeAdapter(Context)
_steps = TypeAdapter(dict[str, Step])
_news = TypeAdapter(StageNews)
_response = TypeAdapter(Response)

Row = dict[str, Any]

LONGEST_CAMPAIGN = 200  # characters by which campaigns are told apart
WORDS_KEPT = 500  # of why an attempt failed


def webhook_row(webhook: Webhook, now: float) -> Row:
    """Return the row of a webhook."""
    return {
        "source": webhook.source.value,
        "content_type": webhook.content_type,
        "body": webhook.body,
        "received_at": now,
    }


def event_row(event: Event, webhook_id: int, now: float) -> Row:
    """Return the row of an event."""
    adapter: TypeAdapter[Any] = _stage_change if isinstance(event.data, StageChange) else _email_activity
    return {
        "webhook_id": webhook_id,
        "source": event.source.value,
        "kind": event.kind.value,
        "dedupe_key": event.dedupe_key or f"once:{uuid.uuid4().hex}",
        "order_key": event.order_key,
        "occurred_at": event.occurred_at,
        "received_at": now,
        "data": adapter.dump_json(event.data).decode(),
        "email": event.data.email if isinstance(event.data, EmailActivity) else None,
        "campaign": (isinstance(event.data, EmailActivity) and folded(event.data.campaign)) or None,
    }


def folded(campaign: str) -> str:
    """Return a campaign's name as it is compared: without case, and cut."""
    return unicodedata.normalize("NFC", campaign).casefold()[:LONGEST_CAMPAIGN]


def context_row(event: Event, context: Context) -> Row:
    """Return what is written onto an event once it is understood; its addresses apart, to be found by them."""
    told = event.data.email if isinstance(event.data, EmailActivity) else None
    emails = [context.email, *(context.contact.emails if context.contact else ())]
    email = told or next(filter(None, emails), None)
    others = sorted({*emails} - {email, ""})
    return {
        "event_id_": event.id,
        "context_": _context.dump_json(context).decode(),
        "email_": email,
        "other_emails_": f" {' '.join(others)} " if others else None,
    }


def attempt_row(job_id: int, failure: Failure, outcome: Outcome, now: float) -> Row:
    """Return the row of an attempt that did not end well."""
    return {
        "job_id": job_id,
        "at": now,
        "seconds": failure.seconds,
        "outcome": outcome.state.value,
        "fault": failure.fault,
        "status": failure.status,
        "words": outcome.reason[:WORDS_KEPT],
    }


def first_job_row(event_id: int, order_key: str, refusal: str | None, now: float) -> Row:
    """Return the row of an event's first job: skipped at once if there is a reason to refuse the event."""
    return {
        "event_id": event_id,
        "lane": Lane.RESOLVE.value,
        "order_key": order_key,
        "state": (State.SKIPPED if refusal else State.PENDING).value,
        "due_at": now,
        "plan": None,
        "reason": refusal or "",
        "created_at": now,
        "settled_at": now if refusal else None,
    }


def job_row(event_id: int, owed: Owed, now: float, *, doubtful: bool = False) -> Row:
    """Return the row of a job that follows from what the resolve lane found; `doubtful`: for the second time."""
    adapter: TypeAdapter[Any] = _news if isinstance(owed.plan, StageNews) else _response
    return {
        "event_id": event_id,
        "lane": owed.lane.value,
        "order_key": owed.order_key,
        "state": State.PENDING.value,
        "due_at": now,
        "plan": adapter.dump_json(owed.plan).decode(),
        "steps": steps_text({DOUBTFUL: Step(finished=False)} if doubtful else {}),
        "reason": "",
        "created_at": now,
        "settled_at": None,
    }


def steps_text(steps: Mapping[str, Step]) -> str:
    """Return a ledger as it is stored."""
    return _steps.dump_json(dict(steps)).decode()


def read_steps(text: str) -> dict[str, Step]:
    """Return a stored ledger."""
    return _steps.validate_json(text)


def read_activity(text: str) -> EmailActivity:
    """Return the stored data of an email activity."""
    return _email_activity.validate_json(text)


def read_stage_change(text: str) -> StageChange:
    """Return the stored data of a stage change."""
    return _stage_change.validate_json(text)


def read_context(text: str) -> Context:
    """Return a stored context."""
    return _context.validate_json(text)


def read_response(text: str) -> Response:
    """Return the stored plan of a job of the kommo lane."""
    return _response.validate_json(text)


def read_job(row: RowMapping, token: str) -> Job:
    """Return a job from its row, joined with its event's, as the claim with this token holds it."""
    kind, lane = Kind(row["kind"]), Lane(row["lane"])
    data: TypeAdapter[Any] = _stage_change if kind == Kind.STAGE_CHANGED else _email_activity
    plan: TypeAdapter[Any] = _response if lane == Lane.KOMMO else _news
    return Job(
        id=row["id"],
        lane=lane,
        event=Event(
            source=Source(row["source"]),
            kind=kind,
            data=data.validate_json(row["data"]),
            order_key=row["event_order_key"],
            dedupe_key=row["dedupe_key"],
            occurred_at=row["occurred_at"],
            id=row["event_id"],
            received_at=row["received_at"],
        ),
        order_key=row["order_key"],
        attempts=row["attempts"],
        created_at=row["created_at"],
        plan=plan.validate_json(row["plan"]) if row["plan"] else None,
        steps=read_steps(row["steps"]),
        token=token,
    )
