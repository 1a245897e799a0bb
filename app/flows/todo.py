"""What a job of the kommo lane asks for, action by action."""

from __future__ import annotations

from dataclasses import dataclass

from app.events import Action, Job, Response

WRITES_A_CALL = 50  # Kommo takes 250 and recommends 50 or fewer


@dataclass(frozen=True)
class Todo:
    """One action of one job: a step of its ledger, named as the action."""

    job: Job
    action: Action
    response: Response

    @property
    def step(self) -> tuple[Job, str]:
        """The step as the ledger knows it."""
        return self.job, self.action.name

    @property
    def key(self) -> tuple[int, str]:
        """What tells it from any other."""
        return self.job.id, self.action.name

    @property
    def entity_id(self) -> int:
        """The deal or the contact that gets the task or the note."""
        entity_id = self.response.lead_id if self.action.on == "lead" else self.response.contact_id
        return entity_id or 0

    @property
    def changes(self) -> str:
        """What it changes: a `lead`, a `contact`, or nothing ("": it adds a task or a note)."""
        if self.action.kind == "field":
            return "lead"
        return self.action.on if self.action.kind in ("tag", "untag") else ""

    @property
    def targets(self) -> tuple[int, ...]:
        """The deals or contacts that it changes: consent shows on everybody with the address."""
        on_leads = self.changes == "lead"
        consent = self.response.consent
        everybody = (consent.lead_ids if on_leads else consent.contact_ids) if consent else ()
        one = self.response.lead_id if on_leads else self.response.contact_id
        return everybody or ((one,) if one is not None else ())


def response(job: Job) -> Response:
    """Return the plan of a job of the kommo lane."""
    assert isinstance(job.plan, Response)  # noqa: S101 - what the resolve lane plans for this lane
    return job.plan


def todo(job: Job) -> list[Todo]:
    """Return what a job asks for, in the order of the mapping file."""
    plan = response(job)
    return [Todo(job, action, plan) for action in plan.actions]
