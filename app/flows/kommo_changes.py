"""Fields and tags in Kommo: read first, so that only what differs is written and nothing else is touched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.clients.errors import ApiError
from app.clients.kommo import Change
from app.events import Action, Contact, Lead
from app.flows import Ledger, Result, Size, deliver, read_by_halves
from app.flows.todo import WRITES_A_CALL, Todo

Entity = Lead | Contact


@dataclass
class Wish:
    """What all the actions of a batch, in their order, want a deal or a contact to look like."""

    fields: dict[int, str] = field(default_factory=dict)
    tags: dict[str, bool] = field(default_factory=dict)  # name: wanted or not

    def add(self, action: Action) -> None:
        """Add what an action wants; a later one on the same field or tag overrides an earlier one."""
        if action.kind == "field":
            self.fields[action.field_id] = action.text
        else:
            self.tags[action.text] = action.kind == "tag"

    def change(self, entity: Entity) -> Change | None:
        """Return what must be written, or None if the entity looks like that already."""
        fields = {key: value for key, value in self.fields.items() if str(entity.fields.get(str(key), "")) != value}
        add = tuple(name for name, wanted in self.tags.items() if wanted and name not in entity.tags)
        remove = tuple(name for name, wanted in self.tags.items() if not wanted and name in entity.tags)
        return Change(entity.id, fields, add, remove) if fields or add or remove else None


class Changes:
    """Changes to deals, or to contacts."""

    def __init__(
        self,
        kind: str,
        read: Callable[[Iterable[int]], Mapping[int, Entity]],
        update: Callable[[Sequence[Change]], None],
    ) -> None:
        self._kind = kind
        self._read = read
        self._update = update
        self._size = Size(WRITES_A_CALL)

    def write(self, todo: Sequence[Todo], ledger: Ledger) -> dict[int, Result]:
        """Make deals or contacts look as wished; return the errors of the jobs that failed."""
        try:
            entities, refused = read_by_halves(self._read, (target for item in todo for target in item.targets))
        except ApiError as error:
            return {item.job.id: error for item in todo}
        wishes: dict[int, Wish] = defaultdict(Wish)
        for item in todo:
            for target in item.targets:
                wishes[target].add(item.action)
        changes = [
            change for key, wish in wishes.items() if key in entities and (change := wish.change(entities[key]))
        ]
        written = deliver(changes, self._update, self._size)
        errors: dict[int, ApiError | None] = {
            **refused,
            **dict(zip((change.id for change in changes), written, strict=True)),
        }
        failed = [next(filter(None, map(errors.get, item.targets)), None) for item in todo]
        done = [item for item, error in zip(todo, failed, strict=True) if error is None]
        ledger.finish([item.step for item in done], [self._note(item, entities) for item in done])
        return {item.job.id: error for item, error in zip(todo, failed, strict=True) if error}

    def _note(self, item: Todo, entities: Mapping[int, Entity]) -> str:
        if not item.targets:
            return f"none: there is no {self._kind}"
        return "" if any(target in entities for target in item.targets) else "none: it is gone from Kommo"
