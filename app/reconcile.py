"""Finds the stage changes of which no webhook told, in Kommo's own log of events.

What is found is recorded like a webhook and merged with what webhooks brought (`app/journal/twins.py`): so an
outage of ours, or a webhook that Kommo switched off, costs time and no stage change.
Reference: https://developers.kommo.com/reference/events-list
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from itertools import chain

import structlog

from app.clients.kommo import LOG_PAGE, KommoClient, LoggedMove, Position
from app.events import LOGGED, Event, Kind, Source, StageChange, Webhook, stage_repeat
from app.journal import Journal, Progress, Recorded
from app.mapping import Rules

log = structlog.get_logger("relay.reconcile")

LOG = "kommo"
TURN = "reconcile"
TURN_SECONDS = 60.0  # longer than any call and any commit between two looks at the turn
# What is read again each time: the log may be late, and nobody says by how much.
OVERLAP_SECONDS = 1800.0
QUIET_SECONDS = 3600.0  # how far behind our clock Kommo's may be
PART_SECONDS = 6 * 3600  # of a long time at once: what is done is written down, and memory stays small
RECORDED_AT_ONCE = 25  # events in one transaction: webhooks wait for it
# At most, after each of them. Who waits for SQLite's lock asks for it now and then, and between transactions that
# follow one another at once it is never free at that moment: another process would refuse webhooks meanwhile.
REST_SECONDS = 0.25
REPEAT_SECONDS = 3600


@dataclass(frozen=True)
class Report:
    """What a look at the log found."""

    read: int = 0  # entries
    new: int = 0  # stage changes of which no webhook had told
    refused: int = 0  # of those: nothing is to be done for them, because of the mapping
    known: int = 0
    gone: int = 0  # deals that were added and are deleted again

    def __add__(self, other: Report) -> Report:
        return Report(*(ours + theirs for ours, theirs in zip(astuple(self), astuple(other), strict=True)))


class InterruptedLookError(Exception):
    """The look at the log was given up: the process stops, or another one has the turn."""


class Reconciler:
    """Looks into Kommo's log of events. One at a time, see `Journal.take_turn`; two at once only cost calls."""

    def __init__(
        self,
        journal: Journal,
        kommo: KommoClient,
        rules: Rules,
        clock: Callable[[], float] = time.time,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._journal = journal
        self._kommo = kommo
        self._rules = rules
        self._clock = clock
        self._rest = rest
        self._seen: set[str] = set()  # entries that this process has dealt with and will read again

    def begin(self) -> bool:
        """Begin with what happens from now on, unless the log was looked at before; say whether it is so."""
        if self._journal.progress(LOG) is not None:
            return False
        now = self._clock()
        self._journal.set_progress(LOG, Progress(now, now))
        return True

    def take_turn(self) -> bool:
        """Take or keep the turn; False if another process has it."""
        return self._journal.take_turn(TURN, TURN_SECONDS, now=self._clock())

    def end_turn(self) -> None:
        """Let another process have its turn."""
        self._journal.end_turn(TURN)

    def look(
        self,
        since: float | None = None,
        *,
        rehearse: bool = False,
        may_go_on: Callable[[], bool] = lambda: True,
        heard: Callable[[Report, Sequence[Recorded]], None] = lambda so_far, new: None,
    ) -> Report:
        """Record the stage changes that are not known yet, from where the last look ended or `since` a time.

        `rehearse`: only find out. `may_go_on` is asked after every page and every commit. `heard` is told after
        each page and commit how far it is, and what was new in it.
        Raises ApiError, JournalError and InterruptedLookError.
        """
        now = self._clock()
        kept = self._journal.progress(LOG)
        begin = since if since is not None else max(kept.since, kept.until - OVERLAP_SECONDS) if kept else now
        # Going back on purpose must leave no gap behind it that nobody looks at any more.
        keeps = not rehearse and (since is None or kept is None or since <= kept.until)
        done = Report()
        seen: set[str] = set()
        for start, end in _parts(begin, now):
            _check(may_go_on)
            found: list[LoggedMove] = []
            for move in self._kommo.moves(int(start), end):
                found.append(move)
                if len(found) % LOG_PAGE == 0:
                    _check(may_go_on)
                    heard(replace(done, read=done.read + len(found)), ())
            moves = sorted({move.id: move for move in found}.values(), key=lambda move: (move.at, move.id))
            done += replace(self._merge(moves, rehearse, may_go_on, done, heard), read=len(moves))
            seen |= {move.id for move in moves if move.at >= now - 2 * OVERLAP_SECONDS - QUIET_SECONDS}
            if keeps:
                until = float(end) if end else max([now - QUIET_SECONDS, *(min(move.at, now) for move in moves)])
                begun = kept.since if kept else begin
                self._journal.set_progress(LOG, Progress(begun, max(until, kept.until if kept else until)))
        if not rehearse:
            self._seen = seen
        return done

    def _merge(
        self,
        moves: Sequence[LoggedMove],
        rehearse: bool,
        may_go_on: Callable[[], bool],
        before: Report,
        heard: Callable[[Report, Sequence[Recorded]], None],
    ) -> Report:
        """Record what is not known, the moves of one deal together and in their order."""
        fresh = [move for move in moves if move.id not in self._seen]
        changes, gone = self._changes(fresh, moves)
        done = Report(known=len(moves) - len(fresh), gone=gone)
        for group in _groups(changes):
            webhook = Webhook(Source.KOMMO, "application/json", _body([move for move, _ in group]))
            events = [_event(move, change) for move, change in group]
            found = [(event, self._rules.refusal(event)) for event in events]
            began = time.monotonic()
            recorded = self._journal.record(webhook, found, now=self._clock(), rehearse=rehearse)
            new = [item for item in recorded if not item.duplicate]
            done += Report(
                new=len(new), refused=sum(bool(item.refused) for item in new), known=len(recorded) - len(new)
            )
            heard(replace(before + done, read=before.read + len(moves)), new)
            _check(may_go_on)
            self._rest(min(time.monotonic() - began, REST_SECONDS))
        return done

    def _changes(
        self, fresh: Sequence[LoggedMove], moves: Sequence[LoggedMove]
    ) -> tuple[list[tuple[LoggedMove, StageChange]], int]:
        """Return each fresh move with the stage change that it is; count the deals that are gone since."""
        entered = self._first_stages({move.lead_id: move for move in fresh if move.after is None}, moves)
        changes = []
        for move in fresh:
            after = move.after or entered.get(move.lead_id)
            if after:
                old = move.before.status_id if move.before else None
                changes.append((move, StageChange(move.lead_id, after.status_id, after.pipeline_id, old)))
        return changes, len(fresh) - len(changes)

    def _first_stages(self, added: Mapping[int, LoggedMove], moves: Sequence[LoggedMove]) -> dict[int, Position]:
        """Return the stages into which deals were added, by deal: the log says only which one they left first."""
        left = _first_left(moves)
        leads = self._kommo.leads(added.keys() - left.keys())
        # What was changed after it was added may have been moved, later than the moves that we know of: times are
        # in whole seconds, so the last one that the log told of may have gone on behind it.
        told = max((move.at for move in moves), default=0.0)
        changed = sorted(
            lead.id for lead in leads.values() if lead.updated_at > added[lead.id].at or lead.updated_at >= told
        )
        left |= _first_left(self._kommo.moves_of(changed))
        stands = {lead.id: Position(lead.status_id, lead.pipeline_id) for lead in leads.values()}
        return {**stands, **left}


def _first_left(moves: Sequence[LoggedMove]) -> dict[int, Position]:
    """Return by deal the stage that it left first."""
    left: dict[int, Position] = {}
    for move in sorted(moves, key=lambda move: (move.at, move.id)):
        if move.before:
            left.setdefault(move.lead_id, move.before)
    return left


def _event(move: LoggedMove, change: StageChange) -> Event:
    return Event(
        source=Source.KOMMO,
        kind=Kind.STAGE_CHANGED,
        data=change,
        order_key=f"lead:{move.lead_id}",
        dedupe_key=f"{LOGGED}kommo:{move.id}",
        occurred_at=move.at,
        repeat=stage_repeat(change, REPEAT_SECONDS),
    )


def _body(moves: Sequence[LoggedMove]) -> bytes:
    """Return what the journal keeps in place of a webhook's body."""
    return json.dumps({"events": [asdict(move) for move in moves]}).encode()


def _groups(
    changes: Sequence[tuple[LoggedMove, StageChange]],
) -> Iterator[list[tuple[LoggedMove, StageChange]]]:
    """Yield the changes in groups of bearable size, in which those of a deal are together."""
    of_deal: dict[int, list[tuple[LoggedMove, StageChange]]] = defaultdict(list)
    for move, change in changes:
        of_deal[move.lead_id].append((move, change))
    group: list[list[tuple[LoggedMove, StageChange]]] = []
    for deal in of_deal.values():
        group.append(deal)
        if sum(map(len, group)) >= RECORDED_AT_ONCE:
            yield list(chain(*group))
            group = []
    if group:
        yield list(chain(*group))


def _parts(begin: float, now: float) -> Iterator[tuple[float, int | None]]:
    """Yield the beginnings and ends (included) of the parts of a time; the last one has no end."""
    start = int(begin)
    while start + PART_SECONDS < now:
        yield start, start + PART_SECONDS - 1
        start += PART_SECONDS
    yield start, None


def _check(may_go_on: Callable[[], bool]) -> None:
    if not may_go_on():
        raise InterruptedLookError
