"""The kommo lane: what a contact did with an email becomes tasks, notes, fields and tags in Kommo."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from app.clients.errors import ApiError, Fault
from app.clients.kommo import KommoClient, NewNote, NewTask
from app.events import DONE, HELD, Consent, Job, Outcome, State
from app.flows import Ledger, Result, keep_order
from app.flows.kommo_changes import Changes
from app.flows.kommo_entries import Entries
from app.flows.todo import Todo, response, todo
from app.mapping.due import due_at

CONSENT_SECONDS = 60.0  # no longer than a lease: so long one job has a person's consent to itself


class EmailActivityFlow:
    """Writes what a batch of activities asks for: one call per kind of write, whatever the size of the batch."""

    def __init__(self, kommo: KommoClient, clock: Callable[[], float] = time.time) -> None:
        self._kommo = kommo
        self._clock = clock
        self._writes: Sequence[tuple[Callable[[Todo], bool], Callable[[Sequence[Todo], Ledger], dict[int, Result]]]]
        self._writes = (
            (lambda item: item.action.kind == "task", self._tasks().write),
            (lambda item: _is_note(item, "lead"), self._notes("leads").write),
            (lambda item: _is_note(item, "contact"), self._notes("contacts").write),
            (lambda item: item.changes == "lead", Changes("lead", kommo.leads, kommo.update_leads).write),
            (
                lambda item: item.changes == "contact",
                Changes("contact", kommo.contacts, kommo.update_contacts).write,
            ),
        )

    def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
        """Carry out a batch, kind by kind. A job whose step fails takes no further one."""
        with self._consents(batch, ledger) as (busy, outdated):
            results = keep_order(batch, dict.fromkeys((job.id for job in batch), DONE) | busy)
            for wanted, write in self._writes:
                owed = [
                    item
                    for job in batch
                    if results[job.id] is DONE
                    for item in todo(job)
                    if wanted(item) and not ledger.finished(*item.step)
                    # What happened is still told; what no longer holds is not shown.
                    if not (item.changes and job.id in outdated)
                ]
                if owed:
                    # Held back at once: a later activity must not be written before an earlier one of its deal.
                    results = keep_order(batch, results | write(owed, ledger))
        for job in batch:
            if results[job.id] is DONE and job.id in outdated:
                told = any(not item.changes for item in todo(job))
                results[job.id] = Outcome(State.DONE if told else State.SKIPPED, outdated[job.id])
        return results

    @contextmanager
    def _consents(self, batch: Sequence[Job], ledger: Ledger) -> Iterator[tuple[dict[int, Result], dict[int, str]]]:
        """Have the consent of a batch's people to ourselves; give the jobs that must wait, and those out of date.

        What is written is how the consent stands, whichever event comes last: two platforms may differ, and an
        event may come late. Two jobs of one person, be they of two deals, never write it at the same time.
        """
        claimed: dict[str, Job] = {}
        consents: dict[int, Consent] = {}
        busy: dict[int, Result] = {}
        for job in batch:
            consent = response(job).consent
            if consent is None:
                continue
            if consent.email in claimed:
                busy[job.id] = HELD
            elif ledger.store.claim_cooldown(_lock(consent.email), job, CONSENT_SECONDS, now=self._clock()):
                claimed[consent.email] = job
                consents[job.id] = consent
            else:
                busy[job.id] = ApiError("another process is writing this person's consent", fault=Fault.OURS)
        try:
            standing = ledger.store.unsubscribed(claimed) if claimed else {}
            reasons = ((job_id, _outdated(consent, standing)) for job_id, consent in consents.items())
            yield busy, {job_id: reason for job_id, reason in reasons if reason}
        finally:
            for email, job in claimed.items():
                ledger.store.free_cooldown(_lock(email), job)

    def _tasks(self) -> Entries:
        kommo = self._kommo
        return Entries(
            "task",
            self._clock,
            add=lambda part: kommo.add_tasks([self._task(item) for item in part]),
            standing_on=kommo.tasks_of,
            by_id=kommo.tasks,
            rewrite=kommo.update_tasks,
        )

    def _notes(self, on: str) -> Entries:
        kommo = self._kommo
        return Entries(
            "note",
            self._clock,
            add=lambda part: kommo.add_notes([NewNote(item.entity_id, item.action.text) for item in part], on),
            standing_on=partial(kommo.notes_of, on=on),
            by_id=partial(kommo.notes, on=on),
            rewrite=partial(kommo.update_notes, on=on),
        )

    def _task(self, item: Todo) -> NewTask:
        action = item.action
        due = due_at(action, self._clock())
        return NewTask(item.entity_id, action.text, due, action.task_type, action.user_id)


def _is_note(item: Todo, on: str) -> bool:
    return item.action.kind == "note" and item.action.on == on


def _lock(email: str) -> str:
    return f"consent:{email}"


def _outdated(consent: Consent, standing: Mapping[str, Sequence[str]]) -> str:
    """Return why a change of consent is not how it stands now, or ""."""
    platforms = standing.get(consent.email, ())
    if consent.unsubscribed and not platforms:
        return "subscribed again since"
    if not consent.unsubscribed and platforms:
        return f"still unsubscribed at {' and '.join(platform.title() for platform in platforms)}"
    return ""
