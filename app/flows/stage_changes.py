"""The encharge and ortto lanes: a person upserted, and a stage event recorded."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from http import HTTPStatus

import structlog

from app.clients.encharge import PEOPLE_A_CALL, EnchargeClient, Person, person_of
from app.clients.errors import ApiError, Fault
from app.clients.kommo import KommoClient
from app.clients.platform import Teller
from app.events import DONE, HELD, Job, Lane, Outcome, Source, StageNews, StageNotice, State, skipped
from app.flows import Ledger, Result, Size, deliver, keep_order, must_wait, read_by_halves
from app.mapping import Rules

FRESH_SECONDS = 10.0  # a deal read longer ago is read again before its person is written
EVENTS_AT_ONCE = 32  # Encharge takes one event a call

PERSON, EVENT = "person", "event"  # steps
SENT_AGAIN = "sent again after an attempt without an answer: Encharge may have the event twice"
FOUND = "found at Encharge after an attempt without an answer"

log = structlog.get_logger("relay.flows")


class CurrentStages:
    """Knows the stage in which a deal is now, so that a late retry never writes an older one to its person."""

    def __init__(self, kommo: KommoClient, rules: Rules, clock: Callable[[], float] = time.time) -> None:
        self._kommo = kommo
        self._rules = rules
        self._clock = clock

    def refresh(self, batch: Sequence[Job], lane: Lane) -> dict[int, StageNews]:
        """Return each job's news with its deal's current stage for the person. Raises ApiError."""
        news = {job.id: _news(job) for job in batch}
        stale = {item.lead_id for item in news.values() if self._clock() - item.read_at > FRESH_SECONDS}
        # A deal that Kommo refuses to read is as good as gone: what was read last stands.
        leads, _ = read_by_halves(self._kommo.leads, stale)
        newest: dict[int, StageNews] = {}
        for item in news.values():
            if item.lead_id in leads:
                newest[item.lead_id] = self._rules.current(leads[item.lead_id], item, lane)
            elif item.lead_id not in newest or newest[item.lead_id].read_at <= item.read_at:
                newest[item.lead_id] = item
        return {
            job_id: replace(item, person_stage=newest[item.lead_id].person_stage) for job_id, item in news.items()
        }


class EnchargeFlow:
    """Records events, those of one deal in their order, and writes their persons: with them, or all before."""

    def __init__(
        self, client: EnchargeClient, stages: CurrentStages, *, by_tag: bool = False, latest_only: bool = False
    ) -> None:
        self._client = client
        self._stages = stages
        self._by_tag = by_tag
        self._together = client.EVENTS_CARRY_PEOPLE and not by_tag
        self._is_found_again = self._together or by_tag  # or may be repeated
        self._latest_only = latest_only
        self._size = Size(PEOPLE_A_CALL)
        self._pool = ThreadPoolExecutor(EVENTS_AT_ONCE, thread_name_prefix="encharge-events")

    def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
        """Carry out a batch: the events of those whose person was taken."""
        skips, batch = superseded(batch, ledger) if self._latest_only else ({}, batch)
        try:
            news = self._stages.refresh(batch, Lane(Source.ENCHARGE))
        except ApiError as error:
            return skips | dict.fromkeys((job.id for job in batch), error)
        doubtful = [job for job in batch if ledger.begun(job, EVENT)]
        # The latest news of a person stands for the earlier ones.
        people = {item.email: person_of(item) for item in (news[job.id] for job in batch)}
        failed = (
            self._look_up(doubtful, news, ledger) if self._together else self._upsert(batch, news, people, ledger)
        )
        by_deal: dict[str, list[Job]] = defaultdict(list)
        for job in batch:
            by_deal[job.order_key].append(job)
        begun = self._begin([jobs[0] for jobs in by_deal.values() if jobs[0].id not in failed], ledger)
        turn = _Turn(news, people, failed, {job.id for job in doubtful}, begun, ledger)
        calls = [self._pool.submit(self._track, jobs, turn) for jobs in by_deal.values()]
        # Whatever goes wrong in one of them leaves this flow only when none is in flight any more.
        wait(calls)
        results = skips
        for call in calls:
            results |= call.result()
        ledger.forget(
            [(job, EVENT) for job in turn.brake.unsent if job.id in begun and job.id not in turn.doubtful]
        )
        return results

    def _begin(self, firsts: Sequence[Job], ledger: Ledger) -> set[int]:
        """Write the intents of the first events of all deals at once; return the ids of those that may be sent.

        A death leaves so many in doubt, which is no harm where all can be looked for, or repeated.
        """
        if not self._is_found_again:
            return set()
        return ledger.begin([(job, EVENT) for job in firsts if not ledger.finished(job, EVENT)])

    def _look_up(self, doubtful: Sequence[Job], news: Mapping[int, StageNews], ledger: Ledger) -> dict[int, Result]:
        """Tick off the events that an earlier attempt may have recorded and did; return those that nobody can tell.

        Encharge shows no events, but the person tells the last one: it came in the same call.
        """
        if not doubtful:
            return {}
        try:
            last = self._client.last_events([news[job.id].email for job in doubtful])
        except ApiError as error:
            return dict.fromkeys((job.id for job in doubtful), error)
        found = [(job, EVENT) for job in doubtful if last.get(news[job.id].email) == _key(job)]
        ledger.finish(found, [FOUND] * len(found))
        return {}

    def _upsert(
        self,
        batch: Sequence[Job],
        news: Mapping[int, StageNews],
        people: Mapping[str, Person],
        ledger: Ledger,
    ) -> dict[int, Result]:
        """Write the persons; return the errors of those that were not taken."""
        waiting = [job for job in batch if not ledger.finished(job, PERSON)]
        wanted = list(dict.fromkeys(news[job.id].email for job in waiting))
        outcomes = deliver([people[email] for email in wanted], self._client.upsert_people, self._size)
        errors = dict(zip(wanted, outcomes, strict=True))
        ledger.finish([(job, PERSON) for job in waiting if errors[news[job.id].email] is None])
        return {job.id: error for job in waiting if (error := errors[news[job.id].email])}

    def _track(self, jobs: Sequence[Job], turn: _Turn) -> dict[int, Result]:
        """Record the events of one deal, in order, up to the first that must be tried again."""
        results: dict[int, Result] = {}
        for job in jobs:
            # The person tells the last event only: earlier ones must be ticked off before the next may be sent.
            last = self._is_found_again and job is jobs[-1]
            result = turn.failed.get(job.id)
            if result is None and turn.brake.error and not turn.ledger.finished(job, EVENT):
                turn.brake.unsent.append(job)
                result = turn.brake.error
            elif result is None:
                result = self._track_one(job, turn, last=last)
                turn.brake.note(result)
            results[job.id] = result
            if must_wait(result):
                break
        return {job.id: results.get(job.id, HELD) for job in jobs}

    def _track_one(self, job: Job, turn: _Turn, *, last: bool) -> Result:
        ledger, news = turn.ledger, turn.news[job.id]
        if ledger.finished(job, EVENT):
            return Outcome(State.DONE, ledger.note(job, EVENT))
        if job.id not in turn.begun and not ledger.begin([(job, EVENT)]):
            return HELD
        again = job.id in turn.doubtful
        try:
            if self._by_tag:
                self._client.add_tag(email=news.email, tag=news.event)
            else:
                person = turn.people[news.email]
                self._client.track(person, event=news.event, properties=_properties(news), key=_key(job))
        except ApiError as error:
            if not error.ambiguous and not again:
                ledger.forget([(job, EVENT)])
            return error
        if not again or self._by_tag:
            ledger.finish([(job, EVENT)], last=last)
            return DONE
        # The person does not tell it: it was not recorded, or another deal's event came after it.
        log.warning("possible duplicate", lane=job.lane, event_id=job.event.id, key=job.order_key)
        ledger.finish([(job, EVENT)], [SENT_AGAIN])
        return Outcome(State.DONE, SENT_AGAIN)


class _Brake:
    """Ends a batch of single calls at the first error that is about the vendor: nothing more is sent after it.

    One 5xx is its item's own, but for 503; so many in a row, with no success between, are the vendor's.
    """

    IN_A_ROW = 3

    def __init__(self) -> None:
        self.error: ApiError | None = None
        self.unsent: list[Job] = []  # what was not sent for the sake of `error`
        self._failures = 0

    def note(self, result: Result) -> None:
        """Take in how a call ended. Threads may do so at the same time: the count is a rough one."""
        if not isinstance(result, ApiError) or result.fault == Fault.REFUSED:
            self._failures = 0
            return
        self._failures += 1
        its_own = (
            result.status is not None and result.status >= 500 and result.status != HTTPStatus.SERVICE_UNAVAILABLE
        )
        if not its_own or self._failures >= self.IN_A_ROW:
            self.error = result


@dataclass(frozen=True)
class _Turn:
    """What is known of a batch; `doubtful`: events that an earlier attempt began, `begun`: that this one did."""

    news: Mapping[int, StageNews]
    people: Mapping[str, Person]
    failed: Mapping[int, Result]
    doubtful: Collection[int]
    begun: Collection[int]
    ledger: Ledger
    brake: _Brake = field(default_factory=_Brake)


class TellerFlow:
    """Tells a platform of stage changes, which carry their persons: one call for a batch."""

    def __init__(self, lane: Lane, client: Teller, stages: CurrentStages, *, latest_only: bool = False) -> None:
        self._lane = lane
        self._client = client
        self._size = Size(client.CHANGES_A_CALL)
        self._stages = stages
        self._latest_only = latest_only

    def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
        """Carry out a batch; the platform tells repeats by their key."""
        skips, batch = superseded(batch, ledger) if self._latest_only else ({}, batch)
        try:
            news = self._stages.refresh(batch, self._lane)
        except ApiError as error:
            return skips | dict.fromkeys((job.id for job in batch), error)
        results: dict[int, Result] = dict.fromkeys((job.id for job in batch), HELD)
        results |= {job.id: DONE for job in batch if ledger.finished(job, EVENT)}
        doubtful = {job.id for job in batch if ledger.begun(job, EVENT)}
        ids = ledger.begin([(job, EVENT) for job in batch if not ledger.finished(job, EVENT)])
        ours = [job for job in batch if job.id in ids]
        changes = [StageNotice(news[job.id], _key(job), job.event.moment) for job in ours]
        errors = deliver(changes, self._client.tell, self._size)
        results |= {job.id: error or DONE for job, error in zip(ours, errors, strict=True)}
        ledger.finish([(job, EVENT) for job in ours if results[job.id] is DONE], last=True)
        unsent = [job for job, error in zip(ours, errors, strict=True) if error and not error.ambiguous]
        ledger.forget([(job, EVENT) for job in unsent if job.id not in doubtful])
        return skips | keep_order(batch, results)


def superseded(batch: Sequence[Job], ledger: Ledger) -> tuple[dict[int, Result], list[Job]]:
    """Skip the jobs for which a later one of their deal stands; return those skips, and the jobs that are left.

    An event that may have been sent is not skipped: its attempt is brought to its end.
    """
    # By when it happened: what Kommo's log told late stands behind what happened after it.
    latest = {job.order_key: job for job in sorted(batch, key=lambda job: job.event.moment)}
    skips: dict[int, Result] = {
        job.id: skipped(f"only the latest stage is sent: event {latest[job.order_key].event.id} stands for it")
        for job in batch
        if job is not latest[job.order_key] and not ledger.finished(job, EVENT) and not ledger.begun(job, EVENT)
    }
    return skips, [job for job in batch if job.id not in skips]


def _news(job: Job) -> StageNews:
    assert isinstance(job.plan, StageNews)  # noqa: S101 - what the resolve lane plans for these lanes
    return job.plan


def _key(job: Job) -> str:
    """Return what tells an event from all others, at every vendor."""
    return f"kommo-relay-{job.event.dedupe_key}"


def _properties(news: StageNews) -> dict[str, object]:
    return {
        "lead_id": str(news.lead_id),
        "stage": news.stage,
        "pipeline_id": news.pipeline_id,
        "deal_value": news.deal_value,
    }
