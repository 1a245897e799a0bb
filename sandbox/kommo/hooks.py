"""The account's webhooks: who gets what, how often it is tried, and when it is given up."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sandbox.courier import Target
from sandbox.kommo.bodies import Bodies, Data, LeadChange
from sandbox.kommo.records import SINGULAR, Company, Contact, Note, Task
from sandbox.vendor import numbers

if TYPE_CHECKING:
    from sandbox.kommo.server import Kommo

DEADLINE_SECONDS = 2.0
CONTENT_TYPE = "application/x-www-form-urlencoded"
USER_AGENT = "amoCRM-Webhooks/3.0"
MOST_HOOKS = 100

# https://www.amocrm.ru/developers/content/crm_platform/webhooks-format: the first two for any invalid answer, the
# other two for 499 and 5xx only. A timeout is recorded as 499.
SETTINGS_RETRIES = (300.0, 900.0, 900.0, 3600.0)
# https://developers.kommo.com/docs/webhooks-dp: up to four within an hour; the intervals are not documented.
PIPELINE_RETRIES = (300.0, 900.0, 900.0, 1500.0)
MOST_BAD = 100
SETTINGS_WINDOW = 2 * 3600
PIPELINE_WINDOW = 300
PIPELINE_PAUSE = 300

SETTINGS = frozenset(
    f"{action}_{entity}"
    for entity in ("lead", "contact", "company")
    for action in ("add", "update", "delete", "restore", "responsible", "note")
) | {
    "status_lead",
    "add_task",
    "update_task",  # The amoCRM list only; on Kommo unsure.
    "delete_task",
    "responsible_task",
    "add_message",
    "add_talk",
    "update_talk",
    "add_outgoing_message",
    "add_chat_template_review",
}


@dataclass
class Hook:
    """A webhook of the settings, or one that a pipeline sends (`kind` "dp")."""

    id: int
    url: str
    kind: Literal["settings", "dp"]
    created_by: int
    created_at: int
    updated_at: int
    settings: list[str] = field(default_factory=list)
    status_ids: list[int] | None = None
    sort: int = 1
    disabled: bool = False
    bad: deque[float] = field(default_factory=deque)
    paused_until: float = 0.0


@dataclass(frozen=True)
class Parcel:
    """A webhook that is ready to go."""

    hook: Hook
    kind: str
    body: bytes


class Hooks:
    """Turns changes into parcels (under the vendor's lock), and sends them (outside it)."""

    def __init__(self, bodies: Bodies, kommo: Kommo) -> None:
        self.by_url: dict[str, Hook] = {}
        self.pipeline: dict[str, Hook] = {}
        self._bodies = bodies
        self._kommo = kommo
        self._parcels: list[Parcel] = []
        self._ids = numbers(900_051)

    # -- registration ---------------------------------------------------------------------------------------

    def register(self, url: str, settings: Sequence[str], by: int, sort: int | None = None) -> Hook:
        """Register a settings webhook; the same address again replaces its settings and enables it.

        Merge or replace is not documented; neither is enabling through the API, which can be switched off.
        """
        now = int(self._kommo.clock())
        hook = self.by_url.get(url)
        if not hook:
            hook = self.by_url[url] = Hook(next(self._ids), url, "settings", by, now, now)
        hook.settings = list(dict.fromkeys(settings))
        hook.sort = hook.sort if sort is None else sort
        hook.updated_at = now
        if self._kommo.saving_enables:
            hook.disabled = False
            hook.bad.clear()
        return hook

    def register_pipeline(self, url: str, status_ids: Sequence[int] | None, by: int) -> Hook:
        """Register a Digital Pipeline webhook for leads that enter one of the stages (None = any)."""
        now = int(self._kommo.clock())
        hook = self.pipeline[url] = Hook(next(self._ids), url, "dp", by, now, now)
        hook.status_ids = None if status_ids is None else list(status_ids)
        return hook

    # -- what happened --------------------------------------------------------------------------------------

    def leads(self, action: str, changes: list[LeadChange]) -> None:
        """Announce leads: `add`, `update`, `status`, `responsible`, `delete`; all of them in one body."""
        item = self._bodies.deleted if action == "delete" else self._bodies.lead
        self._announce(f"{action}_lead", "leads", action, lambda: [item(change) for change in changes])

    def entered(self, change: LeadChange) -> None:
        """Let the pipeline announce a lead that entered a stage."""
        wanted = [
            h for h in self.pipeline.values() if h.status_ids is None or change.lead.status_id in h.status_ids
        ]
        if wanted:
            body = self._bodies.pipeline(change)
            self._parcels += [Parcel(hook, "dp", body) for hook in wanted]

    def person(self, action: str, entity: Contact | Company, old_responsible_user_id: int | None = None) -> None:
        """Announce a contact or company: `add` or `update`."""
        setting = f"{action}_{'contact' if isinstance(entity, Contact) else 'company'}"
        self._announce(setting, "contacts", action, lambda: [self._bodies.person(entity, old_responsible_user_id)])

    def responsible_person(self, entity: Contact | Company, old_responsible_user_id: int) -> None:
        """Announce a new responsible user, which arrives as an `update`."""
        setting = f"responsible_{'contact' if isinstance(entity, Contact) else 'company'}"
        self._announce(
            setting, "contacts", "update", lambda: [self._bodies.person(entity, old_responsible_user_id)]
        )

    def task(self, setting: str, action: str, task: Task, old_responsible_user_id: int | None = None) -> None:
        """Announce a task under the singular key `task`."""
        self._announce(setting, "task", action, lambda: [self._bodies.task(task, old_responsible_user_id)])

    def note(self, note: Note) -> None:
        """Announce a note of an entity."""
        entity = "leads" if note.kind == "leads" else "contacts"
        self._announce(f"note_{SINGULAR[note.kind]}", entity, "note", lambda: [self._bodies.note(note)])

    def _announce(self, setting: str, entity: str, action: str, items: Callable[[], list[Data]]) -> None:
        wanted = [hook for hook in self.by_url.values() if setting in hook.settings and not hook.disabled]
        if not wanted:
            return
        body = self._bodies.settings(entity, action, items(), account_last=self._kommo.account_last)
        self._parcels += [Parcel(hook, setting, body) for hook in wanted]

    # -- delivery -------------------------------------------------------------------------------------------

    def take(self) -> list[Parcel]:
        """Return the parcels that are ready and forget them."""
        parcels, self._parcels = self._parcels, []
        return parcels

    def send(self, parcel: Parcel) -> None:
        """Hand a parcel to the courier; a retry carries the same request id (not documented)."""
        hook = parcel.hook
        self._kommo.courier.send(
            "kommo",
            parcel.kind,
            Target(hook.url),
            parcel.body,
            CONTENT_TYPE,
            headers={
                "User-Agent": USER_AGENT,
                "X-Amocrm-Requestid": str(uuid.uuid4()),
                "Accept-Encoding": "gzip",
            },
            timeout=DEADLINE_SECONDS,
            ok=lambda status, answer: is_valid(status),
            retries=lambda status: self._waits(hook, status),
            on_result=lambda status: self._heard(hook, status),
        )

    def _waits(self, hook: Hook, status: int) -> tuple[float, ...]:
        if hook.kind == "dp":
            pause = max(0.0, hook.paused_until - self._kommo.clock())
            return tuple(wait + pause for wait in PIPELINE_RETRIES) if self._kommo.dp_retries else ()
        if hook.disabled:
            return ()
        return SETTINGS_RETRIES if status in (0, 499) or 500 <= status < 600 else SETTINGS_RETRIES[:2]

    def _heard(self, hook: Hook, status: int) -> None:
        """Count an invalid answer; after too many, settings hooks are disabled and pipeline hooks pause."""
        if is_valid(status):
            return
        now = self._kommo.clock()
        with self._kommo.lock:
            hook.bad.append(now)
            window = SETTINGS_WINDOW if hook.kind == "settings" else PIPELINE_WINDOW
            while hook.bad[0] < now - window:
                hook.bad.popleft()
            if len(hook.bad) <= MOST_BAD:
                return
            if hook.kind == "settings":
                hook.disabled = True
            else:
                hook.paused_until = now + PIPELINE_PAUSE

    def state(self) -> list[dict[str, Any]]:
        """Return all webhooks as plain data."""
        return [
            {
                "id": hook.id,
                "kind": hook.kind,
                "url": hook.url,
                "settings": list(hook.settings),
                "status_ids": hook.status_ids,
                "disabled": hook.disabled,
                "bad_answers": len(hook.bad),
                "paused_until": hook.paused_until,
            }
            for hook in (*self.by_url.values(), *self.pipeline.values())
        ]


def is_valid(status: int) -> bool:
    """Say whether Kommo takes an answer as success: 100 to 299."""
    return 100 <= status < 300
