"""Tasks and notes in Kommo: added once, whatever happens, or told in the text of one that stands there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.clients.errors import ApiError, Fault
from app.clients.kommo import Written
from app.events import DONE, HELD
from app.flows import Ledger, Result, Size, deliver, must_wait, read_by_halves
from app.flows.todo import WRITES_A_CALL, Todo

CLOCKS_APART_SECONDS = 300  # how far Kommo's clock and ours may differ
LONGEST_TEXT = 8_000  # characters of a text that is added to; Kommo documents no limit
COOLDOWN = "none: the deal has had one within the cooldown"


@dataclass(frozen=True)
class Entries:
    """Writes tasks, or notes on deals or on contacts; `kind`: which.

    `add` returns the ids of what it made, in order: None where Kommo's answer does not name one.
    `standing_on` reads what stands on deals or contacts, `by_id` reads entries, `rewrite` gives them other texts.
    """

    kind: str
    clock: Callable[[], float]
    add: Callable[[Sequence[Todo]], Sequence[int | None]]
    standing_on: Callable[[Sequence[int]], Sequence[Written]]
    by_id: Callable[[Iterable[int]], Mapping[int, Written]]
    rewrite: Callable[[Mapping[int, str]], None]
    size: Size = field(default_factory=lambda: Size(WRITES_A_CALL))

    def write(self, todo: Sequence[Todo], ledger: Ledger) -> dict[int, Result]:
        """Add what nothing stands for yet, then tell the rest where it belongs; return the jobs not done."""
        results: dict[int, Result] = {}
        rest = list(todo)
        while rest:
            first, rest = self._parted(rest, ledger)
            results |= self._add(first, ledger)
            refused = [item for item in first if _scope(item) and _refused(results.get(item.job.id))]
            if not refused:
                break
            for item in refused:
                # No entry came of it: the next activity may have one.
                ledger.store.free_cooldown(_scope(item), item.job)
        waiting = {item.job.order_key for item in todo if must_wait(results.get(item.job.id, DONE))}
        return results | self._tell([item for item in rest if item.job.order_key not in waiting], ledger)

    def _parted(self, todo: Sequence[Todo], ledger: Ledger) -> tuple[list[Todo], list[Todo]]:
        """Return the actions that may have an entry of their own, and the rest."""
        own: list[Todo] = []
        rest: list[Todo] = []
        for item in todo:
            (own if self._may_add(item, ledger) else rest).append(item)
        return own, rest

    def _may_add(self, item: Todo, ledger: Ledger) -> bool:
        scope, seconds = _scope(item), item.action.cooldown
        if scope and seconds:
            return ledger.store.claim_cooldown(scope, item.job, seconds, now=self.clock())
        return not item.action.joins or ledger.begun(*item.step)

    # -- adding --

    def _add(self, todo: Sequence[Todo], ledger: Ledger) -> dict[int, Result]:
        """Add what Kommo would add again if asked again: begun before, ticked off with its id after each call.

        What an earlier attempt began, and never learned the end of, is first looked for at Kommo.
        """
        unknown = _behind(todo, self._look_up(todo, ledger))
        todo = [item for item in todo if item.job.id not in unknown and not ledger.finished(*item.step)]
        ids = ledger.begin([item.step for item in todo])
        ours = [item for item in todo if item.job.id in ids]

        def call(part: Sequence[Todo]) -> None:
            named = [(item, made) for item, made in zip(part, self.add(part), strict=True) if made is not None]
            ledger.finish([item.step for item, _ in named], [str(entity_id) for _, entity_id in named])

        outcomes = zip(ours, deliver(ours, call, self.size), strict=True)
        errors = [
            error or (None if ledger.finished(*item.step) else _unnamed(self.kind)) for item, error in outcomes
        ]
        ledger.forget(
            [item.step for item, error in zip(ours, errors, strict=True) if error and not error.ambiguous]
        )
        lost: dict[int, Result] = {item.job.id: HELD for item in todo if item.job.id not in ids}
        failed = {item.job.id: error for item, error in zip(ours, errors, strict=True) if error}
        return unknown | lost | failed

    def _look_up(self, todo: Sequence[Todo], ledger: Ledger) -> dict[int, Result]:
        """Tick off doubtful steps that turn out to have been taken; return the errors where Kommo did not tell."""
        unknown: dict[int, Result] = {}
        doubtful: dict[int, list[Todo]] = defaultdict(list)
        for item in todo:
            if ledger.begun(*item.step):
                doubtful[item.entity_id].append(item)
        for entity_id, items in doubtful.items():
            try:
                written = self.standing_on([entity_id])
            except ApiError as error:
                if error.fault != Fault.REFUSED:
                    # Nothing more is asked of a vendor that does not answer: what is in doubt shares its error.
                    return unknown | {item.job.id: error for item in todo if ledger.begun(*item.step)}
                unknown |= {item.job.id: error for item in items}
                continue
            known = ledger.store.notes_of(items[0].job.order_key)
            # Oldest first, and each stands for one step only: several clicks may have made notes of the same words.
            free = [entry for entry in written if str(entry.id) not in known]
            for item in items:
                match = next((entry for entry in free if _is_of(entry, item)), None)
                if match:
                    free.remove(match)
                    ledger.finish([item.step], [str(match.id)])
        return unknown

    # -- telling it in what stands there --

    def _tell(self, todo: Sequence[Todo], ledger: Ledger) -> dict[int, Result]:
        """Add texts to the entries that stand for them, or leave them out, as the mapping file wants it."""
        told = [item for item in todo if item.action.extend or item.action.joins]
        _leave_out([item for item in todo if item not in told], COOLDOWN, ledger)
        if not told:
            return {}
        entry_ids = self._entry_ids(told, ledger)
        try:
            entries, _ = read_by_halves(self.by_id, filter(None, entry_ids.values()))
        except ApiError as error:
            return {item.job.id: error for item in told}
        alone = [item for item in told if entry_ids[item.key] not in entries]
        there = [(item, entries[entry_ids[item.key]]) for item in told if entry_ids[item.key] in entries]
        longer, without_room = _texts(there)
        texts = list(longer.items())
        outcomes = deliver(texts, lambda part: self.rewrite(dict(part)), self.size)
        errors = {number: error for (number, _), error in zip(texts, outcomes, strict=True) if error is not None}
        full = {item.key for item in without_room}
        there = [(item, entry) for item, entry in there if item.key not in full]
        done = [(item, entry) for item, entry in there if entry.id not in errors]
        ledger.finish([item.step for item, _ in done], [self._said(entry) for _, entry in done])
        failed: dict[int, Result] = {item.job.id: errors[entry.id] for item, entry in there if entry.id in errors}
        if self.kind == "note":
            return failed | self._add(alone + without_room, ledger)  # what happened must be read somewhere
        _leave_out(alone, f"{COOLDOWN}, which is gone", ledger)
        _leave_out(without_room, f"{COOLDOWN}, which is full", ledger)
        return failed

    def _entry_ids(self, todo: Sequence[Todo], ledger: Ledger) -> dict[tuple[int, str], int]:
        """Return the id of the entry that stands for each action, 0 where none is known."""
        made_under = ledger.store.made_under({_scope(item) for item in todo if item.action.extend})
        made_by = ledger.store.made_by(sorted({item.action.joins for item in todo if item.action.joins}))
        found = {
            item.key: made_under.get(_scope(item), "")
            if item.action.extend
            else made_by.get(item.action.joins, {}).get(item.action.name, "")
            for item in todo
        }
        return {key: int(words) if words.isdecimal() else 0 for key, words in found.items()}

    def _said(self, entry: Written) -> str:
        return f"in {self.kind} {entry.id}" if entry.open else f"none: {self.kind} {entry.id} is completed"


def _texts(todo: Sequence[tuple[Todo, Written]]) -> tuple[dict[int, str], list[Todo]]:
    """Return the texts that entries must get, by id, and what has no room there.

    What stands there already is not repeated.
    """
    texts: dict[int, str] = {}
    without_room: list[Todo] = []
    for item, entry in todo:
        text, more = texts.get(entry.id, entry.text), item.action.text
        if not entry.open or f"\n{more}\n" in f"\n{text}\n":
            continue
        longer = f"{text}\n{more}"
        if len(longer) > LONGEST_TEXT:
            without_room.append(item)
        else:
            texts[entry.id] = longer
    return texts, without_room


def _leave_out(todo: Sequence[Todo], words: str, ledger: Ledger) -> None:
    ledger.finish([item.step for item in todo], [words] * len(todo))


def _behind(todo: Sequence[Todo], stopped: Mapping[int, Result]) -> dict[int, Result]:
    """Hold back whatever stands behind a job that could not be looked up: its deal's order must stay."""
    blocked = {item.job.order_key for item in todo if item.job.id in stopped and must_wait(stopped[item.job.id])}
    held: dict[int, Result] = {item.job.id: HELD for item in todo if item.job.order_key in blocked}
    return held | dict(stopped)


def _is_of(entry: Written, item: Todo) -> bool:
    """Say whether something on a deal is what an action would have written."""
    since = item.job.event.received_at - CLOCKS_APART_SECONDS
    # Kommo trims texts.
    same = entry.entity_id == item.entity_id and entry.text.strip() == item.action.text.strip()
    return same and entry.created_at >= since


def _scope(item: Todo) -> str:
    """Return the scope of an action; tasks that an older version planned have none of their own."""
    return item.action.scope or (f"task:lead:{item.entity_id}" if item.action.kind == "task" else "")


def _unnamed(kind: str) -> ApiError:
    """Return the error of what Kommo's answer does not name: it is looked up before it is sent again."""
    words = f"Kommo: asked to add this {kind}, it answered with none: whether it was made is looked up"
    return ApiError(words, fault=Fault.PASSING, vendor="kommo", ambiguous=True)


def _refused(result: Result | None) -> bool:
    return isinstance(result, ApiError) and result.fault == Fault.REFUSED
