"""What to do after a failure: a value, decided without clock or queue. The dispatcher only carries it out."""

from __future__ import annotations

import random
from dataclasses import dataclass

from app.clients.errors import ApiError, Fault

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 6 * 3600.0
GIVE_UP_SECONDS = 75 * 3600.0  # a vendor may be down over a long weekend
ENOUGH_ATTEMPTS = 20  # so many are made even of a job that first waited for days: locked out, or for us to run
DOUBLINGS = 20  # more change nothing, and overflow in the end
LOCKED_OUT_SECONDS = 300.0  # until the next probe
LONGEST_PAUSE_SECONDS = 30.0  # of a vendor that fails; one that asks for longer gets it


@dataclass(frozen=True)
class Decision:
    """Try again in `seconds`, or give the job up (None); leave the vendor alone for `pause` seconds."""

    seconds: float | None
    pause: float = 0.0
    counts: bool = True  # whether the attempt is one of the job's failures


def decide(error: ApiError, *, attempts: int, age: float, streak: int, chance: random.Random) -> Decision:
    """Decide about a job that failed with `error`.

    `attempts`: its failures so far. `age`: seconds since it was made. `streak`: batches of its vendor that have
    failed in a row before this one.
    """
    if error.fault == Fault.REFUSED:
        return Decision(None)
    if error.fault == Fault.OURS:
        return Decision(FIRST_SECONDS, counts=False)
    asked = error.retry_after or 0.0
    if error.fault == Fault.LOCKED_OUT:
        # The account's fault, not the job's: keep it until a person has mended the token, plan or rights.
        wait = max(asked, LOCKED_OUT_SECONDS)
        return Decision(wait, pause=wait, counts=False)
    if age >= GIVE_UP_SECONDS and attempts >= ENOUGH_ATTEMPTS:
        return Decision(None)
    pause = max(asked, min(FIRST_SECONDS * 2 ** min(streak, DOUBLINGS), LONGEST_PAUSE_SECONDS))
    # Full jitter: jobs that failed together do not come back together.
    backoff = chance.uniform(0, min(FIRST_SECONDS * 2 ** min(attempts, DOUBLINGS), LONGEST_SECONDS))
    return Decision(max(asked, backoff, FIRST_SECONDS), pause=pause)
