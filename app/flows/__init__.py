"""Batches of jobs in, calls to vendors, outcomes out. One flow per lane."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Protocol, TypeVar

from app.clients.errors import ApiError, Fault
from app.events import DOUBTFUL, HELD, Job, Outcome, Seen, Source, Step

Result = Outcome | ApiError
Item = TypeVar("Item")
Entity = TypeVar("Entity")


class StepStore(Protocol):
    """Where steps and cooldowns are written down: the journal."""

    def write_steps(self, ledgers: Mapping[int, Mapping[str, Step]], token: str) -> set[int]:
        """Write the steps of jobs, by job id; return the ids of those that this claim still holds."""

    def claim_cooldown(self, key: str, job: Job, seconds: float, *, now: float) -> bool:
        """Claim a cooldown for a job; False if another job holds it."""

    def free_cooldown(self, key: str, job: Job) -> None:
        """Give back a cooldown that a job claimed for nothing."""

    def notes_of(self, order_key: str) -> set[str]:
        """Return what vendors said of all finished steps of a key."""

    def remember(self, people: Mapping[int, str], batch: Sequence[Job], *, moments: float) -> dict[int, Seen]:
        """Return what the person of each job had done before, by job id; `people`: who it is, by job id."""

    def unsubscribed(self, emails: Collection[str]) -> dict[str, tuple[Source, ...]]:
        """Return the platforms at which addresses are unsubscribed."""

    def made_under(self, scopes: Collection[str]) -> dict[str, str]:
        """Return what Kommo said of the task or note that was made under each scope."""

    def made_by(self, event_ids: Sequence[int]) -> dict[int, Mapping[str, str]]:
        """Return what Kommo said of each finished step of events."""


class Ledger:
    """The steps of a batch: begun before they are taken, ticked off after, each change on disk at once.

    A step that was begun but not ticked off may have happened: the process died, or no answer came.
    `store`: the journal, for what flows remember from batch to batch.
    """

    def __init__(self, store: StepStore, batch: Sequence[Job]) -> None:
        self.store = store
        self._token = batch[0].token if batch else ""
        self._steps = {job.id: dict(job.steps) for job in batch}
        self._unsaved: set[int] = set()

    def unsaved(self, job: Job) -> Mapping[str, Step] | None:
        """Return the steps of a job that its settlement has to write; None: they are on disk."""
        return self._steps[job.id] if job.id in self._unsaved else None

    def finished(self, job: Job, step: str) -> bool:
        """Say whether a step is done and must not be repeated."""
        taken = self._steps[job.id].get(step)
        return taken is not None and taken.finished

    def note(self, job: Job, step: str) -> str:
        """Return what was noted when a step was ticked off."""
        return self._steps[job.id][step].note

    def begun(self, job: Job, step: str) -> bool:
        """Say whether an earlier attempt began a step and never learned how it ended; one of a lost time, too."""
        taken = self._steps[job.id].get(step, self._steps[job.id].get(DOUBTFUL))
        return taken is not None and not taken.finished

    def begin(self, steps: Sequence[tuple[Job, str]]) -> set[int]:
        """Write the intent to take steps; return the ids of the jobs still ours: only theirs may be taken."""
        return self._write([(job, name, Step(finished=False)) for job, name in steps])

    def finish(self, steps: Sequence[tuple[Job, str]], notes: Sequence[str] = (), *, last: bool = False) -> None:
        """Tick off steps, each with a note of what the vendor said of it.

        `last`: nothing more is asked of the vendor before the batch is settled, which writes them down.
        """
        words = notes or [""] * len(steps)
        taken = [
            (job, name, Step(finished=True, note=note)) for (job, name), note in zip(steps, words, strict=True)
        ]
        if not last:
            self._write(taken)
            return
        for job, name, step in taken:
            self._steps[job.id][name] = step
            self._unsaved.add(job.id)

    def forget(self, steps: Sequence[tuple[Job, str]]) -> None:
        """Take back the intent of steps that certainly did not happen."""
        for job, name in steps:
            self._steps[job.id].pop(name, None)
        if steps:
            self.store.write_steps({job.id: self._steps[job.id] for job, _ in steps}, self._token)

    def _write(self, taken: Sequence[tuple[Job, str, Step]]) -> set[int]:
        for job, name, step in taken:
            self._steps[job.id][name] = step
        ids = {job.id for job, _, _ in taken}
        self._unsaved -= ids
        if not ids:
            return set()
        return self.store.write_steps({job_id: self._steps[job_id] for job_id in ids}, self._token)


class Flow(Protocol):
    """Carries out a batch of one lane's jobs, oldest first."""

    def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
        """Return how each job ended, by its id: an outcome, or the error that stopped it.

        A job that was not attempted, because an earlier one of its key failed, is HELD.
        """


class Size:
    """How many items go into a call: `most`, fewer after one that was too heavy for the vendor (504), then more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.now = most

    def shrink(self) -> None:
        """Halve it: the attempt that failed comes again, and must not be as heavy."""
        self.now = max(1, self.now // 2)

    def grow(self) -> None:
        """Let a call that went well make the next one larger."""
        self.now = min(self._most, self.now * 2)


def deliver(
    items: Sequence[Item], call: Callable[[Sequence[Item]], Iterable[str] | None], size: Size
) -> list[ApiError | None]:
    """Call a vendor with as many items at once as it takes; return what went wrong with each, or None.

    `call` may return why it refused each item ("" = taken). If it refuses a whole batch, the batch is halved until
    the bad item stands alone. After a failure that is no item's fault, nothing more is called: the rest shares it.
    """
    errors: list[ApiError | None] = []
    start = 0
    while start < len(items):
        part = items[start : start + size.now]
        start += len(part)
        try:
            refusals = call(part)
        except ApiError as error:
            if error.status == HTTPStatus.GATEWAY_TIMEOUT:
                size.shrink()
            if error.fault != Fault.REFUSED:
                return [*errors, *[error] * (len(items) - len(errors))]
            if len(part) == 1:
                errors.append(error)
                continue
            errors += deliver(part, call, Size((len(part) + 1) // 2))
            passing = next((item for item in errors if item and item.fault != Fault.REFUSED), None)
            if passing:
                return [*errors, *[passing] * (len(items) - len(errors))]
        else:
            size.grow()
            words = list(refusals or [""] * len(part))
            errors += [ApiError(word, fault=Fault.REFUSED) if word else None for word in words]
    return errors


def read_by_halves(
    read: Callable[[Sequence[int]], Mapping[int, Entity]], ids: Iterable[int]
) -> tuple[dict[int, Entity], dict[int, ApiError]]:
    """Read entities; return those found, and the errors of those that the vendor refuses to read.

    One id that is refused must not stop the others, nor a page that is too heavy (504). Raises ApiError if it is
    nobody's fault.
    """
    wanted = sorted(set(ids))
    try:
        return dict(read(wanted)), {}
    except ApiError as error:
        too_heavy = error.status == HTTPStatus.GATEWAY_TIMEOUT and len(wanted) > 1
        if error.fault != Fault.REFUSED and not too_heavy:
            raise
        if len(wanted) == 1:
            return {}, {wanted[0]: error}
    middle = len(wanted) // 2
    found, refused = read_by_halves(read, wanted[:middle])
    more, others = read_by_halves(read, wanted[middle:])
    return found | more, refused | others


def must_wait(result: Result) -> bool:
    """Say whether a job is not over, so that the later ones of its key must wait for it."""
    return result is HELD or (isinstance(result, ApiError) and result.fault != Fault.REFUSED)


def keep_order(batch: Sequence[Job], results: Mapping[int, Result]) -> dict[int, Result]:
    """Hold back every job behind one of its key that must be tried again, so that the order stays.

    What such a job has already done stands in its ledger and is not repeated.
    """
    kept: dict[int, Result] = {}
    blocked: set[str] = set()
    for job in batch:
        result = HELD if job.order_key in blocked else results[job.id]
        kept[job.id] = result
        if must_wait(result):
            blocked.add(job.order_key)
    return kept
