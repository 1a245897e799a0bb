"""Carries out what the journal owes: one lane per vendor, everything that waits in one batch.

Knows flows by a table, no vendor and no SQL. The same carriers serve the request that waits for its webhook and the
jobs that come due later; in which process they run makes no difference.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from app.clients.errors import ApiError, Fault
from app.clients.http import LONGEST_WAIT_SECONDS
from app.clock import ClockWatch
from app.crowd import Crowd
from app.events import Event, Failure, Job, Lane, Outcome, State, Webhook
from app.flows import Flow, Ledger, Result
from app.journal import Journal, JournalError, Recorded, Settlement
from app.lease import Lease
from app.receipts import Part, Receipt, Wait
from app.retry import LOCKED_OUT_SECONDS, Decision, decide

log = structlog.get_logger("relay.dispatcher")

BATCH_LIMIT = 250  # jobs a batch: Kommo's page
LOOK_AGAIN_SECONDS = 0.02  # after a batch: what others still do for its webhook goes first
POLL_SECONDS = 1.0  # how soon a job is seen that another process wrote or let go
RENEW_SECONDS = 15.0
LONG_STREAK = 3  # failed batches in a row that are an outage: after it, what waits is tried at once
PURGE_SECONDS = 3600.0
CROWD_LOOK_SECONDS = 0.02
STOP_SECONDS = 20.0  # less than gunicorn's grace
RECORD_AGAIN_SECONDS = 0.05
DATABASE_SECONDS = 4.0  # for which a webhook waits for a database that restarts


class Dispatcher:
    """The lanes of one process and the requests that wait for them."""

    def __init__(
        self,
        journal: Journal,
        flows: Mapping[Lane, tuple[str, Flow]],
        *,
        places: int,
        retention: float,
        leases: Mapping[Lane, Lease] | None = None,
        chores: Mapping[str, Callable[[threading.Event], None]] | None = None,
        observe: Callable[[Settlement], None] = lambda settlement: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`flows`: each lane's vendor and flow. `places`: requests that may wait at once. `retention`: seconds.

        `chores`: what else runs as long as the carriers do, each in a thread of its own, until the event is set.
        `observe` hears of each settled job.
        """
        self._journal = journal
        self._places = threading.BoundedSemaphore(places)
        self._retention = retention
        self._chores = chores or {}
        self.observe = observe
        self._clock = clock
        self._waits: dict[int, Wait] = {}  # by event id
        self._waits_lock = threading.Lock()
        self._crowd = Crowd()
        self._watch = ClockWatch()
        self._set_back = False
        self._stopping = threading.Event()
        self._started = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.lanes = {
            lane: Carrier(self, journal, lane, vendor, flow, (leases or {}).get(lane) or Lease(), clock)
            for lane, (vendor, flow) in flows.items()
        }

    # -- for requests --

    def record(self, webhook: Webhook, found: Sequence[tuple[Event, str | None]], *, seconds: float) -> Receipt:
        """Write a webhook down; `seconds` for each attempt. Raises JournalError if it cannot be done.

        A database that restarts is waited for, in as many requests as may wait: late and written down is better
        than refused. What was written although nobody heard of it is found again as a duplicate.
        """
        self._crowd.comes()
        deadline = time.monotonic() + DATABASE_SECONDS
        waits = False
        try:
            while True:
                try:
                    return self._record(webhook, found, seconds)
                except JournalError:
                    waits = waits or self._places.acquire(blocking=False)
                    late = time.monotonic() > deadline
                    if not waits or late or self._stopping.wait(RECORD_AGAIN_SECONDS):
                        raise
        finally:
            if waits:
                self._places.release()

    def _record(self, webhook: Webhook, found: Sequence[tuple[Event, str | None]], seconds: float) -> Receipt:
        receipts: list[Receipt] = []

        def expect(recorded: list[Recorded]) -> None:
            # Heard by the journal's writer before any carrier of this process can claim the jobs.
            receipts.append(Receipt(recorded))
            with self._waits_lock:
                self._waits.update(dict.fromkeys(receipts[0].wait.open, receipts[0].wait))

        self._journal.record(webhook, found, now=self._clock(), committed=expect, seconds=seconds)
        return receipts[0]

    def let_in(self) -> bool:
        """Wait while a crowd of webhooks comes in: they are answered sooner, and make fewer batches.

        Say whether work may begin: False when the carriers are to end.
        """
        while self._crowd.waits() and not self._stopping.wait(CROWD_LOOK_SECONDS):
            pass
        return not self._stopping.is_set()

    def _forget(self, receipt: Receipt) -> None:
        with self._waits_lock:
            for item in receipt.recorded:
                # Not of a duplicate: somebody else may wait for the event that it repeats.
                if self._waits.get(item.event.id) is receipt.wait:
                    del self._waits[item.event.id]

    def carry_out(self, receipt: Receipt, seconds: float) -> None:
        """Have a webhook's jobs carried out; return when they are settled, will not be for now, or time is up."""
        try:
            if receipt.wait.open:
                self._wait(receipt.wait, seconds)
        finally:
            self._forget(receipt)

    def _wait(self, wait: Wait, seconds: float) -> None:
        self.start()
        self.wake([Lane.RESOLVE])
        if self.lanes[Lane.RESOLVE].paused or self._crowd.waits():
            return
        if not self._places.acquire(blocking=False):
            return
        try:
            wait.over.wait(seconds)
        finally:
            self._places.release()

    # -- the carriers --

    def start(self) -> None:
        """Start the carriers, once."""
        if self._threads:
            return
        with self._started:
            if self._threads or self._stopping.is_set():
                return
            # While no process ran, nobody would have noticed that the clock was set.
            self._mend_times(longest_wait=LONGEST_WAIT_SECONDS)
            self._threads = [
                *(
                    threading.Thread(target=lane.run, name=f"lane-{name}", daemon=True)
                    for name, lane in self.lanes.items()
                ),
                threading.Thread(target=self._keep_house, name="housekeeping", daemon=True),
                *(
                    threading.Thread(target=chore, args=(self._stopping,), name=name, daemon=True)
                    for name, chore in self._chores.items()
                ),
            ]
            for thread in self._threads:
                thread.start()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End sending, wait for the calls that are in flight, and release the jobs of lanes that have ended.

        A lane that is still in a call after `seconds` keeps its jobs: others take them over when its lease ends.
        """
        self._stopping.set()
        for lane in self.lanes.values():
            lane.end_sending()
        self.wake(self.lanes)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        busy = {thread.name for thread in self._threads if thread.is_alive()}
        ended = [lane for name, lane in self.lanes.items() if f"lane-{name}" not in busy]
        try:
            self._journal.release(job for lane in ended for job in lane.carrying)
        except JournalError as error:
            log.warning("not released: others take over when the leases end", error=str(error))

    def close(self) -> None:
        """Stop, and let go of the journal."""
        self.stop()
        self._journal.close()

    @property
    def stopping(self) -> threading.Event:
        """Set when the carriers are to end."""
        return self._stopping

    def wake(self, lanes: Iterable[Lane]) -> None:
        """Tell carriers that something is due."""
        for lane in lanes:
            if lane in self.lanes:
                self.lanes[lane].woken.set()

    def settled(self, settlement: Settlement) -> None:
        """Tell the request that waits for a job how it ended, and the lanes what follows."""
        job, outcome = settlement.job, settlement.outcome
        owed = [item.lane for item in outcome.owed]
        with self._waits_lock:
            wait = self._waits.get(job.event.id)
            if wait:
                wait.settle(job.event.id, Part(job.lane, outcome.state, outcome.reason), owed)
                for lane in owed:
                    if self.lanes[lane].paused:
                        wait.give_up_on(lane, self.lanes[lane].paused)
        self.wake(owed)

    def paused(self, lane: Lane, reason: str) -> None:
        """Tell the requests that wait for a lane that it will not move for now."""
        with self._waits_lock:
            for wait in {id(wait): wait for wait in self._waits.values()}.values():
                wait.give_up_on(lane, reason)

    def leases_count(self) -> bool:
        """Say whether the clock tells leases: not just after it was set, before all have renewed theirs."""
        jump = self._watch.look()
        if jump:
            log.warning("the clock was set", seconds=round(jump))
            self._renew()
        trusted = self._watch.trusted(3 * RENEW_SECONDS)
        if jump < 0 or (trusted and self._set_back):
            # Again once all is calm: what was under way while the clock was set may have written the old time.
            self._mend_times()
        self._set_back = jump < 0 or (self._set_back and not trusted)
        return trusted

    def _mend_times(self, longest_wait: float = 0.0) -> None:
        now = self._clock()
        try:
            self._journal.clock_was_set_back(now=now, longest_pause=LOCKED_OUT_SECONDS, longest_wait=longest_wait)
        except JournalError as error:
            log.error("times of a clock that was wrong may stand in the journal", error=str(error))

    def _renew(self) -> None:
        for lane in self.lanes.values():
            lane.renew()

    def _keep_house(self) -> None:
        """Renew the leases of what is under way; now and then, forget what is old."""
        purge_at = time.monotonic()
        while not self._stopping.wait(RENEW_SECONDS):
            try:
                self._renew()
                if time.monotonic() >= purge_at:
                    purge_at = time.monotonic() + PURGE_SECONDS
                    while self._journal.purge(self._clock() - self._retention):
                        pass
            except JournalError as error:
                log.error("housekeeping failed", error=str(error))


class Carrier:
    """The one who carries a lane's batches in this process: one batch at a time."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        journal: Journal,
        lane: Lane,
        vendor: str,
        flow: Flow,
        lease: Lease,
        clock: Callable[[], float],
    ) -> None:
        self._lease = lease
        self._holding = threading.Lock()  # claiming and renewing, which run in different threads
        self.woken = threading.Event()
        self.carrying: Sequence[Job] = ()
        self.paused = ""  # why the vendor is left alone, while it is
        self._dispatcher = dispatcher
        self._journal = journal
        self._lane = lane
        self._vendor = vendor
        self._flow = flow
        self._clock = clock
        self._streak = 0  # batches that failed in a row
        self._chance = random.Random()

    def run(self) -> None:
        """Carry batch after batch until the dispatcher stops."""
        while not self._dispatcher.stopping.is_set():
            told = self.woken.is_set()
            self.woken.clear()
            try:
                # What a failure of the journal interrupted is not under way any more.
                self._journal.release(self.carrying)
                self.carrying = ()
                if not self._carry_waiting(told):
                    self.woken.wait(self._idle_seconds())
            except Exception as error:
                # A lane must outlive whatever happens. Nothing is lost: the steps that were taken are on disk.
                foreseen = isinstance(error, JournalError)
                log.error("lane stopped for a moment", lane=self._lane, error=str(error), exc_info=not foreseen)
                self._dispatcher.stopping.wait(POLL_SECONDS)

    def _claim(self, told: bool) -> Sequence[Job]:
        take_over = self._dispatcher.leases_count()
        with self._holding:
            begun = Lease.begin()
            now = self._clock()
            self.carrying = self._journal.claim(
                self._lane, self._vendor, BATCH_LIMIT, now=now, take_over=take_over, told=told
            )
            self._lease.extend(begun, self._journal.lease_seconds)
            return self.carrying

    def renew(self) -> None:
        """Keep the jobs that are under way ours; if some are not any more, let nothing more be written."""
        with self._holding:
            if not self.carrying:
                return
            begun = Lease.begin()
            if self._journal.renew(self.carrying, now=self._clock()):
                self._lease.extend(begun, self._journal.lease_seconds)
            else:
                self._lease.end()

    def end_sending(self) -> None:
        """Let nothing more be written to the vendor; what is in flight ends by itself."""
        self._lease.close()

    def _idle_seconds(self) -> float:
        due = self._journal.next_due(self._lane)
        return POLL_SECONDS if due is None else min(POLL_SECONDS, max(0.01, due - self._clock()))

    def _carry_waiting(self, told: bool) -> bool:
        """Carry what waits in one batch; False if nothing could be claimed. `told`: somebody said that there is."""
        # Where something was said to be due, the claim itself minds the pause; if it finds nothing, the next look
        # tells why.
        if self.paused or not told:
            pause = self._journal.pauses(now=self._clock()).get(self._vendor)
            self.paused = f"{self._vendor} is paused: {pause.reason}" if pause else ""
            if pause:
                self._dispatcher.paused(self._lane, self.paused)
                # Not the time until its end: another process may end it sooner.
                self._dispatcher.stopping.wait(min(POLL_SECONDS, max(0.01, pause.until - self._clock())))
                return True
        if not self._dispatcher.let_in():
            return False
        batch = self._claim(told)
        if not batch:
            return told
        began = time.monotonic()
        ledger = Ledger(self._journal, batch)
        results = self._attempt(batch, ledger)
        self._settle(batch, results, ledger, time.monotonic() - began)
        self.carrying = ()
        if len(batch) < BATCH_LIMIT:
            self.woken.wait(LOOK_AGAIN_SECONDS)
        return True

    def _attempt(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
        try:
            return self._flow.carry(batch, ledger)
        except JournalError:
            raise
        except Exception as error:
            # A fault of ours must not stop the lane. What was begun is known; the jobs are tried again.
            log.exception("flow failed", lane=self._lane, events=[job.event.id for job in batch])
            failure = ApiError(
                f"internal error: {type(error).__name__}: {error}", fault=Fault.PASSING, ambiguous=True
            )
            return dict.fromkeys((job.id for job in batch), failure)

    def _settle(self, batch: Sequence[Job], results: Mapping[int, Result], ledger: Ledger, seconds: float) -> None:
        now = self._clock()
        pauses: dict[str, tuple[float, str]] = {}  # by vendor: the longest, and why
        settlements = []
        for job in batch:
            result = results[job.id]
            if isinstance(result, ApiError):
                decision = self._decide(job, result, now)
                settlements.append(_failed(job, result, decision, now, seconds))
                if decision.pause:
                    # Not always our own vendor: before a person is written, Kommo may be asked for the stage.
                    vendor = result.vendor or self._vendor
                    pauses[vendor] = max(pauses.get(vendor, (0.0, "")), (decision.pause, str(result)))
            else:
                settlements.append(Settlement(job, result, due_at=now))
        if not pauses and self._streak >= LONG_STREAK:
            self._journal.hurry(self._lane, now=now)
        self._streak = self._streak + 1 if pauses else 0
        for vendor, (pause, reason) in pauses.items():
            self._pause(vendor, now, pause, reason)
        settlements = [replace(item, steps=ledger.unsaved(item.job)) for item in settlements]
        for settlement in self._journal.settle(settlements, now=now):
            _report(settlement, self._vendor, seconds)
            self._dispatcher.observe(settlement)
            self._dispatcher.settled(settlement)

    def _pause(self, vendor: str, now: float, seconds: float, reason: str) -> None:
        write = log.error if seconds >= LOCKED_OUT_SECONDS else log.warning
        write("vendor paused", vendor=vendor, seconds=round(seconds, 1), reason=reason)
        if vendor == self._vendor:
            self.paused = f"{vendor} is paused: {reason}"
        self._journal.pause(vendor, now + seconds, reason)

    def _decide(self, job: Job, error: ApiError, now: float) -> Decision:
        age = now - job.created_at
        return decide(error, attempts=job.attempts, age=age, streak=self._streak, chance=self._chance)


def _failed(job: Job, error: ApiError, decision: Decision, now: float, seconds: float) -> Settlement:
    failure = Failure(error.fault, error.status, seconds)
    if decision.seconds is None:
        return Settlement(job, Outcome(State.DEAD, str(error)), failure=failure)
    waiting = Outcome(State.PENDING, str(error))
    return Settlement(job, waiting, due_at=now + decision.seconds, failed=decision.counts, failure=failure)


def _report(settlement: Settlement, vendor: str, seconds: float) -> None:
    """Write one line per delivery, without body or token."""
    job, outcome = settlement.job, settlement.outcome
    write = log.error if outcome.state == State.DEAD else log.info
    write(
        "job",
        vendor=vendor,
        lane=job.lane,
        event_id=job.event.id,
        kind=job.event.kind,
        deal=job.lead_id,
        email=job.email,
        state=outcome.state,
        reason=outcome.reason,
        attempts=job.attempts + settlement.failed,
        milliseconds=round(seconds * 1000),
    )
