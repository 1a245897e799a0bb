"""What the page shows, as plain values for the templates: they ask nothing, and hold no secret."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from app.events import Kind, Lane, Source, State
from app.journal import Attempt, EventStory, JobStory, Journal, Pause, WholeStory
from app.journal.history import REPLAYED, RETURNABLE
from app.moments import as_span, as_time
from app.ops import bodies, charts
from app.ops.masks import Mask
from app.ops.queries import PAGE, Query

Model = dict[str, Any]

REPLAYED_AT_ONCE = 1_000
COUNTED = 100  # new events beyond so many are not counted


@dataclass(frozen=True)
class Page:
    """Makes what is shown. `vendors`: each with its lanes. `stage`: a stage's label by pipeline and status."""

    journal: Journal
    vendors: Mapping[str, Sequence[Lane]]
    stage: Callable[[int | None, int], str | None]
    mask: Mask
    kommo_url: str | None = None  # where people open a deal

    def overview(self, query: Query, *, now: float, replayed: int | None = None) -> Model:
        """Return what waits and failed, the charts, and a page of the events that were asked for."""
        found = [] if query.faults else self.journal.find(replace(query.search, limit=PAGE + 1))
        asked = query.asked
        shown = found[:PAGE]
        model: Model = self.mask.value(
            {
                **self._now(query, newest=self._newest(query, shown), now=now),
                "charts": None if query.written else self._charts(now),
                "written": asked,
                "paged": "below" in query.written,
                "faults": query.faults,
                "events": [self._row(story, now) for story in shown],
                "older": _address(asked | {"below": str(shown[-1].id)}) if len(found) > PAGE else None,
                "first": _address(asked),
                "replayable": _address(asked, "/ops/replay") if asked.get("state") in RETURNABLE else None,
                "states": [state.value for state in State],
                "sources": [source.value for source in Source],
                "replayed": replayed,
            }
        )
        return model

    def now(self, query: Query, *, newest: int, now: float) -> Model:
        """Return how it stands now, and how many events have come since `newest` that fit."""
        model: Model = self.mask.value(self._now(query, newest=newest, now=now))
        return model

    def _now(self, query: Query, *, newest: int, now: float) -> Model:
        figures = self.journal.figures()
        pauses = self.journal.pauses(now=now)
        since = min((lane.since for lane in figures.lanes.values()), default=None)
        search = replace(query.search, above=newest, below=None, limit=COUNTED)
        fresh = 0 if query.faults or query.search.ids else self.journal.count(search)
        return {
            "waiting": sum(lane.waiting for lane in figures.lanes.values()),
            "oldest": as_span(max(0.0, now - since)) if since is not None else None,
            "dead": figures.dead,
            "skipped": figures.skipped,
            "vendors": [self._vendor(name, figures.lanes, pauses.get(name), now) for name in self.vendors],
            "at": as_time(now),
            "newest": newest,
            "fresh": f"{COUNTED}+" if fresh == COUNTED else fresh,
            "first": _address(query.asked),
            "watch": _address(query.asked | {"above": str(newest)}, "/ops/now"),
        }

    def story(self, event_id: int, *, now: float, replayed: int | None = None) -> Model | None:
        """Return the whole story of an event, or None if there is none with this id."""
        whole = self.journal.story(event_id)
        if whole is None:
            return None
        event = whole.event
        model = {
            "event": self._row(event, now),
            "facts": self._facts(whole),
            "timeline": _timeline(event),
            "jobs": [self._job(job, whole.plans.get(job.lane), now) for job in event.jobs],
            "context": _pretty(self.mask.value(whole.context)) if whole.context else None,
            "told_with": list(whole.told_with[:PAGE]),
            "more_told_with": max(0, len(whole.told_with) - PAGE),
            "replayed": replayed,
            "at": as_time(now),
        }
        shown: Model = self.mask.value(model)
        return shown | {"body": bodies.readable(whole.content_type, whole.body, self.mask)}

    def confirmation(self, found: Sequence[EventStory], *, cut: bool, now: float) -> Model:
        """Return what a replay of events would do."""
        again = [story for story in found if _returnable(story)]
        model = {
            "events": [
                self._row(story, now)
                | {"again": [{"lane": job.lane.value, "reason": job.reason} for job in _returnable(story)]}
                for story in again
            ],
            "left_out": len(found) - len(again),
            "jobs": sum(len(_returnable(story)) for story in again),
            "cut": cut,
            "at": as_time(now),
        }
        shown: Model = self.mask.value(model)
        return shown | {"ids": ",".join(str(story.id) for story in again)}

    # -- parts --

    def _newest(self, query: Query, shown: Sequence[EventStory]) -> int:
        """Return the id of the newest event that the reader knows of."""
        if query.search.above is not None:
            return query.search.above
        if query.search.below is None and shown:
            return shown[0].id
        return self.journal.figures().newest

    def _charts(self, now: float) -> list[Any]:
        hours = self.journal.hours(now=now)
        return [asdict(charts.throughput(hours)), asdict(charts.delay(hours))]

    def _vendor(self, name: str, owed: Mapping[Lane, Any], pause: Pause | None, now: float) -> Model:
        lanes = [owed[lane] for lane in self.vendors[name] if lane in owed]
        waiting, failed = sum(lane.waiting for lane in lanes), sum(lane.failed_before for lane in lanes)
        state = "paused" if pause else "retrying" if failed else "healthy"
        return {
            "name": name,
            "state": state,
            "until": as_time(pause.until) if pause else None,
            "left": as_span(max(0.0, pause.until - now)) if pause else None,
            "why": pause.reason if pause else "",
            "waiting": waiting,
            "failed": failed,
        }

    def _row(self, story: EventStory, now: float) -> Model:
        return {
            "id": story.id,
            "at": as_time(story.received_at),
            "ago": as_span(max(0.0, now - story.received_at)),
            "source": story.source.value,
            "kind": story.kind.value.replace("_", " "),
            "what": self._what(story),
            "deal": (deal := _deal(story)),
            "deal_url": f"{self.kommo_url}/leads/detail/{deal}" if self.kommo_url and deal else None,
            "email": story.email,
            "state": _state(story),
            "jobs": [{"lane": job.lane.value, "state": job.state.value} for job in story.jobs],
            "reason": _reason(story),
            "returnable": bool(_returnable(story)),
        }

    def _what(self, story: EventStory) -> str:
        if story.kind != Kind.STAGE_CHANGED:
            return str(story.data.get("campaign") or story.data.get("subject") or story.data.get("name") or "")
        pipeline, status = story.data.get("pipeline_id"), story.data.get("status_id", 0)
        return self.stage(pipeline, status) or f"stage {status}"

    def _facts(self, whole: WholeStory) -> list[tuple[str, str]]:
        event = whole.event
        facts = [
            ("Received", as_time(event.received_at)),
            ("Happened", as_time(event.occurred_at) if event.occurred_at else "the webhook does not say"),
            ("All settled after", _delay(event)),
            ("In order with", event.order_key),
            ("Known by", whole.dedupe_key),
        ]
        said = [
            (name.replace("_", " "), value) for name, value in event.data.items() if value not in (None, "", False)
        ]
        return facts + [(name, str(value)) for name, value in said]

    def _job(self, job: JobStory, plan: Mapping[str, Any] | None, now: float) -> Model:
        waits = job.state == State.PENDING
        told = bool(job.failures) and job.failures[-1].words == job.reason  # by that attempt, below
        return {
            "lane": job.lane.value,
            "about": LANES[job.lane],
            "state": job.state.value,
            "attempts": job.attempts,
            "due": as_time(job.due_at) if waits and job.due_at > now else None,
            "due_in": as_span(job.due_at - now) if waits and job.due_at > now else None,
            "settled": as_time(job.settled_at) if job.settled_at else None,
            "took": as_span(max(0.0, job.settled_at - job.created_at)) if job.settled_at else None,
            "reason": "" if told else job.reason,
            "steps": list(job.steps.items()),
            "failures": [_failure(attempt) for attempt in job.failures],
            "plan": _pretty(self.mask.value(plan)) if plan else None,
        }


LANES = {lane: f"writes to {lane.title()}" for lane in Lane} | {
    Lane.RESOLVE: "reads Kommo: which deal, which person"
}


def _address(asked: Mapping[str, str], path: str = "/ops") -> str:
    return f"{path}?{urlencode(asked)}" if asked else path


def _pretty(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _returnable(story: EventStory) -> list[JobStory]:
    return [job for job in story.jobs if job.state in RETURNABLE]


def _state(story: EventStory) -> str:
    """Return how an event stands as a whole: the worst of its jobs counts."""
    states = {job.state for job in story.jobs}
    order: Iterable[State] = (State.DEAD, State.PENDING, State.SKIPPED)
    return next((state.value for state in order if state in states), State.DONE.value)


def _reason(story: EventStory) -> str:
    state = _state(story)
    return next((job.reason for job in story.jobs if job.state == state and job.reason), "")


def _deal(story: EventStory) -> str | None:
    """Return the deal for which something was done, else the one that the webhook names."""
    keys = [story.order_key, *(job.order_key for job in story.jobs)]
    told = story.data.get("lead_id")
    found = [key.removeprefix("lead:") for key in reversed(keys) if key.startswith("lead:")]
    return next(iter(found), str(told) if told else None)


def _delay(event: EventStory) -> str:
    settled = [job.settled_at for job in event.jobs]
    ended = [at for at in settled if at is not None]
    if len(ended) < len(settled) or not ended:
        return "not yet"
    return as_span(max(0.0, max(ended) - event.received_at))


def _failure(attempt: Attempt) -> Model:
    return {
        "at": as_time(attempt.at),
        "took": as_span(attempt.seconds),
        "outcome": OUTCOMES.get(attempt.outcome, attempt.outcome),
        "fault": attempt.fault,
        "status": attempt.status,
        "words": attempt.words,
    }


OUTCOMES = {
    State.PENDING.value: "tried again later",
    State.DEAD.value: "given up",
    REPLAYED: "taken up again by a person",
}


def _timeline(event: EventStory) -> list[Model]:
    """Return what happened to an event, in order."""
    moments = [
        (event.received_at, "in", f"The webhook came from {event.source.value.title()} and was written down.")
    ]
    for job in event.jobs:
        for attempt in job.failures:
            outcome = OUTCOMES.get(attempt.outcome, attempt.outcome)
            kind = "again" if attempt.outcome == REPLAYED else "failed"
            moments.append((attempt.at, kind, f"{job.lane.value}: {outcome} ({attempt.words})"))
        last = job.failures[-1].at if job.failures else None
        if job.settled_at is not None and job.settled_at != last:  # else that attempt has told it
            words = f"{job.lane.value}: {job.state.value}" + (f" ({job.reason})" if job.reason else "")
            moments.append((job.settled_at, job.state.value, words))
    ordered = sorted(moments, key=lambda moment: moment[0])
    return [
        {"at": as_time(at), "after": as_span(max(0.0, at - event.received_at)), "kind": kind, "words": words}
        for at, kind, words in ordered
    ]
