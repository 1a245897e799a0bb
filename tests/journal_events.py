"""Webhooks, events and plans for the tests that need a journal, and the ways to record and claim them."""

from __future__ import annotations

from app.events import (
    Action,
    Context,
    EmailActivity,
    Event,
    Job,
    Kind,
    Lane,
    Lead,
    Owed,
    Repeat,
    Response,
    Source,
    StageChange,
    StageNews,
    Webhook,
)
from app.journal import Journal, Recorded

NOW = 1_767_607_800.0
WEBHOOK = Webhook(Source.KOMMO, "application/x-www-form-urlencoded", b"leads%5Bstatus%5D%5B0%5D%5Bid%5D=1")


def stage(lead_id: int, dedupe_key: str | None = None, *, repeat: Repeat | None = None) -> Event:
    """Return a stage change of a deal."""
    return Event(
        source=Source.KOMMO,
        kind=Kind.STAGE_CHANGED,
        data=StageChange(lead_id, 61000102, 7100010, 61000101),
        order_key=f"lead:{lead_id}",
        dedupe_key=dedupe_key,
        occurred_at=NOW - 2,
        repeat=repeat,
    )


def click(email: str, dedupe_key: str | None = None) -> Event:
    """Return a click of a person."""
    return Event(
        source=Source.ENCHARGE,
        kind=Kind.EMAIL_CLICKED,
        data=EmailActivity(email=email, campaign="Предложение “März”", link="https://example.com/?a=1", first=True),
        order_key=f"email:{email}",
        dedupe_key=dedupe_key,
    )


def news(lead_id: int) -> StageNews:
    """Return what a destination hears of a deal."""
    return StageNews(
        lead_id=lead_id,
        email="zoe@example.com",
        first_name="Zoë",
        last_name="Example",
        stage="qualified",
        person_stage="qualified",
        status_id=61000102,
        pipeline_id=7100010,
        deal_value=1500,
        event="deal_moved_to_qualified",
        fields={"jobTitle": "Head of Sales", "size": 12, "vip": True},
        read_at=NOW,
    )


RESPONSE = Response(41500011, 52300021, (Action("task", "task", "Call Zoë", due_in=7200, cooldown=86400),))
CONTEXT = Context(lead=Lead(41500011, "Order", 61000102, 7100010, 1500, tags=("trial",)), read_at=NOW)


def owed(lane: Lane, lead_id: int) -> Owed:
    """Return a job to be made for a deal."""
    return Owed(lane, f"lead:{lead_id}", RESPONSE if lane == Lane.KOMMO else news(lead_id))


def record(journal: Journal, *events: Event, now: float = NOW) -> list[Recorded]:
    """Record events of one webhook, none of them refused."""
    return journal.record(WEBHOOK, [(event, None) for event in events], now=now)


def claim(journal: Journal, limit: int = 250, *, lane: Lane = Lane.RESOLVE, now: float = NOW) -> list[Job]:
    """Claim jobs of a lane, by default of the one that reads Kommo."""
    return journal.claim(lane, "kommo", limit, now=now)


def keys(jobs: list[Job]) -> list[str]:
    """Return the order keys of jobs."""
    return [job.order_key for job in jobs]
