"""A vendor's budget of calls: who may call when. Pure; the journal keeps it, as JSON, for all processes at once.

It hands out *places*: moments at which one call may go. Two rules make it safe and fair:

- A place stays where it was first put, and no window of time ever holds more of them than the limit. So the limit
  holds, whoever uses them.
- Who uses a place may change until shortly before its time: a more urgent call takes it from a less urgent one,
  which moves back to the next. But of seven places in a row two are for stages and one is for the backfill, if they
  wait. So the urgent wait for about one place, and nobody waits for ever.

A refusal (429) although the limit was kept means that others use the same account: the rate is halved, and comes
back by itself.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field

from app.events import Priority, Turn

MARGIN = 1.08  # calls that leave us evenly may bunch up on their way: 8 % more time than the limit asks for
KEPT_FREE = {Priority.TASKS: 0, Priority.STAGES: 2}  # of a second's places; what is not named here calls evenly
IN_A_ROW = 7
SHARES = {Priority.TASKS: 0, Priority.STAGES: 2, Priority.BACKFILL: 1}  # of so many places in a row, if they wait
FIRM_SECONDS = 0.06  # a place so near is not taken away: its holder may not hear of it in time
BOOKED_AHEAD_SECONDS = 60.0

LOWEST_RATE = 1.0  # or a seventh of the limit, if that is more
RECOVERY_SECONDS = 300.0  # from nothing to the whole limit
LONGEST_RECOVERY_SECONDS = 600.0
ONE_REFUSAL_SECONDS = 2.0  # refusals so soon after one another are of calls that were under way together


@dataclass
class Place:
    """A moment at which one call may go, and whose it is."""

    at: float
    priority: int
    holder: str

    def swap(self, other: Place) -> None:
        """Change holders with another place."""
        mine = (self.priority, self.holder)
        self.priority, self.holder = other.priority, other.holder
        other.priority, other.holder = mine


@dataclass
class Budget:
    """The latest places and those still to come, in order of time; and the rate, if it was lowered.

    `asked_at`: the latest time at which somebody asked. `rate`: calls a second at the time `since`, and none
    before; 0 = never lowered. `recovery`: seconds from nothing to the whole limit.
    """

    places: list[Place] = field(default_factory=list)
    asked_at: float = 0.0
    rate: float = 0.0
    since: float = 0.0
    lowered_at: float = 0.0
    recovery: float = RECOVERY_SECONDS

    @classmethod
    def read(cls, text: str | None) -> Budget:
        """Return what `text` holds; a list is what the version before this one wrote, and long past."""
        stored = json.loads(text or "{}")
        if not stored or isinstance(stored, list):
            return cls()
        return cls(**{**stored, "places": [Place(*place) for place in stored["places"]]})

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps({**vars(self), "places": [list(vars(place).values()) for place in self.places]})

    def rate_at(self, now: float, limit: float) -> float:
        """Return how many calls a second may go now."""
        if not self.rate:
            return limit
        return min(limit, self.rate + limit * max(0.0, now - self.since) / self.recovery)

    def refuse(self, now: float, limit: float, retry_after: float) -> bool:
        """Let no call go for `retry_after` seconds, then half as many a second, and slowly more.

        If the rate had not come back since the last refusal, it now takes twice the time. False if this belongs to
        a refusal that was heard of already.
        """
        if self.lowered_at <= now < self.lowered_at + ONE_REFUSAL_SECONDS:
            self.since = max(self.since, now + retry_after)
            return False
        rate = self.rate_at(now, limit)
        self.recovery = RECOVERY_SECONDS if rate >= limit else min(2 * self.recovery, LONGEST_RECOVERY_SECONDS)
        self.rate = max(rate / 2, limit / 7, min(limit, LOWEST_RATE))
        self.lowered_at, self.since = now, now + retry_after
        return True

    def held_by(self, holder: str) -> float | None:
        """Return the place of a holder; None if it has none, or may not use it any more."""
        return next((place.at for place in self.places if place.holder == holder and place.at >= self.since), None)

    def book(self, now: float, limit: float, priority: Priority, holder: str, ahead: float = 0.0) -> Turn:
        """Give a call its place, not before `ahead` seconds from now."""
        if self.asked_at < now + BOOKED_AHEAD_SECONDS:
            # What came before that may be forgotten: a clock that is behind must not book there.
            now = max(now, self.asked_at)
        self.asked_at = now
        if now < self.since:
            return Turn(self.since, closed=True)
        past = [place for place in self.places if place.at <= now]
        # What lies further ahead was written before the clock was set back.
        coming = [place for place in self.places if now < place.at < now + BOOKED_AHEAD_SECONDS]
        self.places = [*past[-max(IN_A_ROW, int(limit)) :], *coming]
        new = Place(self._free(now, now + ahead, limit, priority), priority, holder)
        index = bisect_right([place.at for place in self.places], new.at)
        for ahead, place in enumerate(self.places[:index]):
            if place.at > now + FIRM_SECONDS and self._goes_first(new, place, ahead, newcomer=holder):
                place.swap(new)
        self.places.insert(index, new)
        at = self.held_by(holder)
        assert at is not None  # noqa: S101 - it was given one above
        return Turn(at, taken=new.holder != holder)

    def left(self, now: float, limit: float) -> int:
        """Return how many calls of the most urgent kind may go at once now; nothing is booked."""
        trial = Budget.read(self.text())
        at = max(now, self.asked_at) if self.asked_at < now + BOOKED_AHEAD_SECONDS else now
        for count in range(max(1, int(limit))):
            turn = trial.book(at, limit, Priority.TASKS, f"trial {count}")
            if turn.closed or turn.at > at:
                return count
        return max(1, int(limit))

    def _goes_first(self, mover: Place, place: Place, ahead: int, newcomer: str) -> bool:
        """Say whether a call that would have to go later takes this place; `ahead` are before it."""
        if mover.priority == place.priority:
            # Who had to move back stays before those of its kind that came after it.
            return mover.holder != newcomer
        less_urgent = max(mover.priority, place.priority)
        served = sum(item.priority == less_urgent for item in self.places[max(0, ahead - IN_A_ROW + 1) : ahead])
        due = served < SHARES[Priority(less_urgent)]
        return (mover.priority == less_urgent) == due

    def _free(self, now: float, start: float, limit: float, priority: Priority) -> float:
        """Return the first moment from `start` at which one more call keeps every rule."""
        rate = self.rate_at(now, limit)
        count, most = max(1, int(limit)), max(1, int(rate))
        # So many calls in so many seconds: the limit; the lowered rate; and at the same rate in shorter windows, of
        # fewer calls the less urgent this one is. So whoever calls alone gets the whole rate, but spread more
        # evenly: a more urgent call that comes finds a place soon.
        own = max(1, most - KEPT_FREE[priority]) if priority in KEPT_FREE else 1
        windows = {(count, count / limit * MARGIN, True), *((n, n / rate * MARGIN, n == most) for n in (most, own))}
        times = [place.at for place in self.places]
        later = (time + seconds for time in times for _, seconds, _ in windows)
        return next(
            at
            for at in sorted([start, *(at for at in later if at > start)])
            if all(_fits(times, at, n, seconds, both) for n, seconds, both in windows)
        )


def _fits(times: list[float], at: float, count: int, seconds: float, both: bool) -> bool:
    """Say whether no window that holds `at` has more than `count`; without `both`, none that ends with it."""
    index = bisect_right(times, at)
    line = [*times[:index], at, *times[index:]]
    last = min(index, len(line) - 1 - count) if both else index - count
    return all(line[i + count] - line[i] > seconds - 1e-6 for i in range(max(0, index - count), last + 1))
