"""The parts of the service put together by hand, for tests that turn the time or carry single batches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from support import PIPELINE

from app import mapping
from app.clients.encharge import ArticleEnchargeClient, EnchargeClient
from app.clients.errors import ApiError, Fault
from app.clients.kommo import KommoClient
from app.clients.ortto import OrttoClient
from app.events import (
    EmailActivity,
    Event,
    Job,
    Kind,
    Lane,
    Outcome,
    Owed,
    Plan,
    Source,
    StageChange,
    State,
    Step,
    Webhook,
)
from app.flows import Flow, Ledger, Result
from app.journal import Journal, Settlement
from app.mapping import Rules
from sandbox.town import Town

WEBHOOK = Webhook(Source.KOMMO, "application/json", b"{}")
FIELDS: dict[str, int | None] = {"KOMMO_CF_EMAIL_ACTIVITY": 800_110, "KOMMO_CF_EMAIL_STATUS": 800_111}
VENDORS = {Lane.RESOLVE: "kommo", Lane.KOMMO: "kommo", Lane.ENCHARGE: "encharge", Lane.ORTTO: "ortto"}


class Clock:
    """A clock that begins now, runs `speed` times as fast as a real one, and can be put forward."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._began = time.monotonic()
        self._begin = time.time()

    def __call__(self) -> float:
        return self._begin + self._speed * (time.monotonic() - self._began)

    def put_forward(self, seconds: float) -> None:
        """Let so many seconds have passed."""
        self._begin += seconds


def kommo_client(town: Town) -> KommoClient:
    """Return a client of the town's Kommo that waits for no place within its rate."""
    return KommoClient(town.kommo.url, town.kommo.token)


def ortto_client(town: Town) -> OrttoClient:
    """Return a client of the town's Ortto."""
    return OrttoClient(f"{town.ortto.url}/v1", town.ortto.api_key)


def encharge_client(town: Town, dialect: str = "documented") -> EnchargeClient:
    """Return a client of the town's Encharge."""
    made = ArticleEnchargeClient if dialect == "article" else EnchargeClient
    urls = (f"{town.encharge.url}/v1", f"{town.encharge.ingest.url}/v1")
    return made(*urls, town.encharge.api_key, town.encharge.write_key)


def rules_of(path: Path, text: str, variables: Mapping[str, int | None] = FIELDS) -> Rules:
    """Return the rules of a mapping file with this text."""
    path.write_text(text, encoding="utf-8")
    return mapping.load(path, variables)


def stage_event(lead_id: int, status_id: int, number: int = 0, *, pipeline_id: int | None = PIPELINE) -> Event:
    """Return the event of a deal that entered a stage; `number` tells the moves of one deal apart."""
    return Event(
        source=Source.KOMMO,
        kind=Kind.STAGE_CHANGED,
        data=StageChange(lead_id, status_id, pipeline_id),
        order_key=f"lead:{lead_id}",
        dedupe_key=f"stage-{lead_id}-{status_id}-{number}",
        occurred_at=float(int(time.time())) + number,
    )


def email_event(
    number: int = 0,
    *,
    email: str | None = None,
    lead_id: int | None = None,
    campaign: str = "Pricing",
    kind: Kind = Kind.EMAIL_CLICKED,
    source: Source = Source.ENCHARGE,
) -> Event:
    """Return the event of an email activity, keyed as the readers of webhooks do; `number` tells repeats apart."""
    return Event(
        source=source,
        kind=kind,
        data=EmailActivity(email=email, lead_id=lead_id, campaign=campaign, name=kind.value),
        order_key=f"lead:{lead_id}" if lead_id else f"email:{email}",
        dedupe_key=f"{source}-{kind}-{lead_id}-{email}-{number}",
        occurred_at=float(int(time.time())) + number,
    )


@dataclass
class Desk:
    """Carries batches of a lane by hand: claim, carry, settle, as the dispatcher does, but for the waiting.

    What must be tried again is due at once.
    """

    journal: Journal
    clock: Clock = field(default_factory=Clock)

    def record(self, *events: Event) -> list[int]:
        """Write events down; return their ids."""
        recorded = self.journal.record(WEBHOOK, [(event, None) for event in events], now=self.clock())
        return [item.event.id for item in recorded]

    def owe(self, lane: Lane, plans: Sequence[tuple[Event, Plan]]) -> list[int]:
        """Have a lane owe a plan for each event, as if it had been resolved so; return the events' ids."""
        ids = self.record(*(event for event, _ in plans))
        wanted = {event_id: plan for event_id, (_, plan) in zip(ids, plans, strict=True)}
        resolved = [
            Settlement(job, Outcome(State.DONE, owed=(Owed(lane, job.order_key, wanted[job.event.id]),)))
            for job in self.claim(Lane.RESOLVE)
        ]
        self.journal.settle(resolved, now=self.clock())
        return ids

    def claim(self, lane: Lane, limit: int = 250) -> list[Job]:
        """Lease what is due in a lane."""
        return self.journal.claim(lane, VENDORS[lane], limit, now=self.clock())

    def carry(self, flow: Flow, lane: Lane, limit: int = 250) -> dict[int, Result]:
        """Carry what is due in a lane and settle it; return how each job ended, by its event's id."""
        batch = self.claim(lane, limit)
        ledger = Ledger(self.journal, batch)
        results = flow.carry(batch, ledger)
        now = self.clock()
        settled = [_settlement(job, results[job.id], now) for job in batch]
        self.journal.settle([replace(item, steps=ledger.unsaved(item.job)) for item in settled], now=now)
        return {job.event.id: results[job.id] for job in batch}

    def steps(self, lane: Lane) -> dict[int, Mapping[str, Step]]:
        """Return the ledgers of what a lane still owes, by event id; nothing is changed."""
        batch = self.claim(lane)
        self.journal.release(batch)
        return {job.event.id: job.steps for job in batch}


def _settlement(job: Job, result: Result, now: float) -> Settlement:
    if not isinstance(result, ApiError):
        return Settlement(job, result, due_at=now)
    state = State.DEAD if result.fault == Fault.REFUSED else State.PENDING
    return Settlement(job, Outcome(state, str(result)), due_at=now, failed=True)
