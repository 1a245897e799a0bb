"""The kommo lane: what a contact did with an email becomes tasks, notes, fields and tags of its deal."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.clients.errors import ApiError, Fault
from app.clients.kommo import Change, KommoClient, NewNote, NewTask, Written
from app.events import DONE, HELD, Action, Contact, Job, Lead, Response
from app.flows import Ledger, Result, deliver, keep_order, must_wait, read_by_halves

CLOCKS_APART_SECONDS = 300  # how far Kommo's clock and ours may differ
WRITES_A_CALL = 50  # Kommo takes 250 and recommends 50 or fewer


@dataclass(frozen=True)
class Todo:
    """One action of one job: a step of its ledger, named as the action."""

    job: Job
    action: Action
    lead_id: int
    contact_id: int | None

    @property
    def step(self) -> tuple[Job, str]:
        """The step as the ledger knows it."""
        return self.job, self.action.name


@dataclass
class Wish:
    """What all the actions of a batch, in their order, want a deal or a contact to look like."""

    fields: dict[int, str] = field(default_factory=dict)
    tags: dict[str, bool] = field(default_factory=dict)  # name: wanted or not

    def change(self, entity: Lead | Contact) -> Change | None:
        """Return what must be written, or None if the entity looks like that already."""
        fields = {key: value for key, value in self.fields.items() if str(entity.fields.get(str(key), "")) != value}
        add = tuple(name for name, wanted in self.tags.items() if wanted and name not in entity.tags)
        remove = tuple(name for name, wanted in self.tags.items() if not wanted and name in entity.tags)
        return Change(entity.id, fields, add, remove) if fields or add or remove else None


class EmailActivityFlow:
    """Writes what a batch of activities asks for: one call per kind of write, whatever the size of the batch."""

    def __init__(self, kommo: KommoClient, clock: Callable[[], float] = time.time) -> None:
        self._kommo = kommo
        self._clock = clock

    def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
        """Carry out a batch, kind by kind. A job whose step fails takes no further one."""
        results: dict[int, Result] = dict.fromkeys((job.id for job in batch), DONE)
        for wanted, write in (
            (_is_task, self._tasks),
            (_is_note, self._notes),
            (_changes_lead, self._lead_changes),
            (_changes_contact, self._contact_changes),
        ):
            todo = [
                item
                for job in batch
                if results[job.id] is DONE
                for item in _todo(job)
                if wanted(item) and not ledger.finished(*item.step)
            ]
            if todo:
                # Held back at once: a later activity must not be written before an earlier one of its deal.
                results = keep_order(batch, results | write(todo, ledger))
        return results

    def _tasks(self, todo: Sequence[Todo], ledger: Ledger) -> dict[int, Result]:
        """Add a task to each deal that has had none within the cooldown."""
        free: list[Todo] = []
        late: list[Todo] = []
        for item in todo:
            claimed = ledger.claim_cooldown(_cooldown(item), item.job, item.action.cooldown, now=self._clock())
            (free if claimed else late).append(item)
        ledger.finish([item.step for item in late], ["none: the deal has had one within the cooldown"] * len(late))
        results = self._add(
            free,
            ledger,
            lambda part: self._kommo.add_tasks([self._task(item) for item in part]),
            self._kommo.tasks_of,
        )
        for item in free:
            if _refused(results.get(item.job.id)):
                # No task came of it: the next activity may have one.
                ledger.free_cooldown(_cooldown(item), item.job)
        return results

    def _task(self, item: Todo) -> NewTask:
        action = item.action
        due_at = int(self._clock()) + action.due_in
        return NewTask(item.lead_id, action.text, due_at, action.task_type, action.user_id)

    def _notes(self, todo: Sequence[Todo], ledger: Ledger) -> dict[int, Result]:
        return self._add(
            todo,
            ledger,
            lambda part: self._kommo.add_notes([NewNote(item.lead_id, item.action.text) for item in part]),
            self._kommo.notes_of,
        )

    def _add(
        self,
        todo: Sequence[Todo],
        ledger: Ledger,
        add: Callable[[Sequence[Todo]], Sequence[int]],
        read: Callable[[Sequence[int]], Sequence[Written]],
    ) -> dict[int, Result]:
        """Add what Kommo would add again if asked again: begun before, ticked off with its id after each call.

        What an earlier attempt began, and never learned the end of, is first looked for at Kommo.
        """
        unknown = _behind(todo, self._look_up(todo, ledger, read))
        todo = [item for item in todo if item.job.id not in unknown and not ledger.finished(*item.step)]
        ids = ledger.begin([item.step for item in todo])
        ours = [item for item in todo if item.job.id in ids]

        def call(part: Sequence[Todo]) -> None:
            made = add(part)
            ledger.finish([item.step for item in part], [str(entity_id) for entity_id in made])

        errors = deliver(ours, call, WRITES_A_CALL)
        ledger.forget(
            [item.step for item, error in zip(ours, errors, strict=True) if error and not error.ambiguous]
        )
        lost: dict[int, Result] = {item.job.id: HELD for item in todo if item.job.id not in ids}
        return unknown | lost | _failures(ours, errors)

    @staticmethod
    def _look_up(
        todo: Sequence[Todo], ledger: Ledger, read: Callable[[Sequence[int]], Sequence[Written]]
    ) -> dict[int, Result]:
        """Tick off doubtful steps that turn out to have been taken; return the errors where Kommo did not tell."""
        unknown: dict[int, Result] = {}
        doubtful: dict[int, list[Todo]] = defaultdict(list)
        for item in todo:
            if ledger.begun(*item.step):
                doubtful[item.lead_id].append(item)
        for lead_id, items in doubtful.items():
            try:
                written = read([lead_id])
            except ApiError as error:
                if error.fault != Fault.REFUSED:
                    # Nothing more is asked of a vendor that does not answer: what is in doubt shares its error.
                    return unknown | {item.job.id: error for item in todo if ledger.begun(*item.step)}
                unknown |= {item.job.id: error for item in items}
                continue
            known = ledger.notes_of(items[0].job.order_key)
            # Oldest first, and each stands for one step only: several clicks may have made notes of the same words.
            free = [entry for entry in written if str(entry.id) not in known]
            for item in items:
                match = next((entry for entry in free if _is_of(entry, item)), None)
                if match:
                    free.remove(match)
                    ledger.finish([item.step], [str(match.id)])
        return unknown

    def _lead_changes(self, todo: Sequence[Todo], ledger: Ledger) -> dict[int, Result]:
        return self._change(todo, ledger, _lead_id, self._kommo.leads, self._kommo.update_leads)

    def _contact_changes(self, todo: Sequence[Todo], ledger: Ledger) -> dict[int, Result]:
        return self._change(todo, ledger, _contact_id, self._kommo.contacts, self._kommo.update_contacts)

    @staticmethod
    def _change(
        todo: Sequence[Todo],
        ledger: Ledger,
        target: Callable[[Todo], int],
        read: Callable[[Iterable[int]], Mapping[int, Lead | Contact]],
        write: Callable[[Sequence[Change]], None],
    ) -> dict[int, Result]:
        """Make deals or contacts look as wished; read first, so that only what differs is written."""
        try:
            entities, refused = read_by_halves(read, (target(item) for item in todo))
        except ApiError as error:
            return {item.job.id: error for item in todo}
        wishes: dict[int, Wish] = defaultdict(Wish)
        for item in todo:
            _wish(wishes[target(item)], item.action)
        changes = [
            change for key, wish in wishes.items() if key in entities and (change := wish.change(entities[key]))
        ]
        written = deliver(changes, write, WRITES_A_CALL)
        errors: dict[int, ApiError | None] = {
            **refused,
            **dict(zip((change.id for change in changes), written, strict=True)),
        }
        failed = [errors.get(target(item)) for item in todo]
        done = [item for item, error in zip(todo, failed, strict=True) if error is None]
        ledger.finish(
            [item.step for item in done],
            ["" if target(item) in entities else "none: it is gone from Kommo" for item in done],
        )
        return _failures(todo, failed)


def _behind(todo: Sequence[Todo], stopped: Mapping[int, Result]) -> dict[int, Result]:
    """Hold back whatever stands behind a job that could not be looked up: its deal's order must stay."""
    blocked = {item.job.order_key for item in todo if item.job.id in stopped and must_wait(stopped[item.job.id])}
    held: dict[int, Result] = {item.job.id: HELD for item in todo if item.job.order_key in blocked}
    return held | dict(stopped)


def _is_of(entry: Written, item: Todo) -> bool:
    """Say whether something on a deal is what an action would have written."""
    since = item.job.event.received_at - CLOCKS_APART_SECONDS
    # Kommo trims texts.
    same = entry.lead_id == item.lead_id and entry.text.strip() == item.action.text.strip()
    return same and entry.created_at >= since


def _todo(job: Job) -> list[Todo]:
    assert isinstance(job.plan, Response)  # noqa: S101 - what the resolve lane plans for this lane
    return [Todo(job, action, job.plan.lead_id, job.plan.contact_id) for action in job.plan.actions]


def _cooldown(item: Todo) -> str:
    return f"task:lead:{item.lead_id}"


def _refused(result: Result | None) -> bool:
    return isinstance(result, ApiError) and result.fault == Fault.REFUSED


def _is_task(item: Todo) -> bool:
    return item.action.kind == "task"


def _is_note(item: Todo) -> bool:
    return item.action.kind == "note"


def _changes_lead(item: Todo) -> bool:
    return item.action.kind == "field" or (item.action.kind in ("tag", "untag") and item.action.on == "lead")


def _changes_contact(item: Todo) -> bool:
    # Without a contact there is nobody to tag.
    return item.action.kind in ("tag", "untag") and item.action.on == "contact" and item.contact_id is not None


def _lead_id(item: Todo) -> int:
    return item.lead_id


def _contact_id(item: Todo) -> int:
    return item.contact_id or 0


def _wish(wish: Wish, action: Action) -> None:
    """Add an action to what is wished; a later action on the same field or tag overrides an earlier one."""
    if action.kind == "field":
        wish.fields[action.field_id] = action.text
    else:
        wish.tags[action.text] = action.kind == "tag"


def _failures(todo: Sequence[Todo], errors: Sequence[ApiError | None]) -> dict[int, Result]:
    return {item.job.id: error for item, error in zip(todo, errors, strict=True) if error}
