"""The resolve lane: who is this, which deal, which fields. Reads Kommo, writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from app.clients.errors import ApiError, Fault
from app.clients.kommo import KommoClient
from app.events import Contact, Context, EmailActivity, Job, Lane, Lead, Outcome, StageChange, State, skipped
from app.flows import Ledger, Result, keep_order
from app.mapping import Rules


class ResolveFlow:
    """Finds the deal and the person of each event, and plans what follows.

    Two calls to Kommo for up to 250 deals; an email without a known deal costs a search of its own.
    """

    def __init__(
        self,
        kommo: KommoClient,
        rules: Rules,
        destinations: Collection[Lane],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kommo = kommo
        self._rules = rules
        self._destinations = destinations
        self._clock = clock

    def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
        """Read Kommo for a batch and plan each event."""
        stages = [job for job in batch if isinstance(job.event.data, StageChange)]
        emails = [job for job in batch if isinstance(job.event.data, EmailActivity)]
        return keep_order(batch, self._resolve(stages, self._deals) | self._resolve(emails, self._email_deals))

    def _resolve(self, batch: list[Job], find: Callable[[list[Job]], dict[int, Context]]) -> dict[int, Result]:
        if not batch:
            return {}
        try:
            contexts = find(batch)
        except ApiError as error:
            if error.fault != Fault.REFUSED or len(batch) == 1:
                return dict.fromkeys((job.id for job in batch), error)
            # One id that Kommo does not take must not stop the others.
            middle = len(batch) // 2
            return self._resolve(batch[:middle], find) | self._resolve(batch[middle:], find)
        return {job.id: self._plan(job, contexts[job.id]) for job in batch}

    def _plan(self, job: Job, context: Context) -> Outcome:
        if isinstance(job.event.data, EmailActivity) and context.lead is None:
            return skipped("no active deal: neither the deal it names nor a contact with this email has one")
        plan = self._rules.plan(job.event, context, self._destinations)
        if isinstance(plan, str):
            return skipped(plan, context)
        return Outcome(State.DONE, context=context, owed=plan)

    def _context(self, lead: Lead | None, contact: Contact | None) -> Context:
        """Return what is worth keeping: only the fields that the mapping uses."""
        used = self._rules.fields_used

        def trim(fields: Mapping[str, object]) -> dict[str, object]:
            return {key: value for key, value in fields.items() if key in used}

        return Context(
            lead=replace(lead, fields=trim(lead.fields)) if lead else None,
            contact=replace(contact, fields=trim(contact.fields)) if contact else None,
            read_at=self._clock(),
        )

    def _deals(self, batch: list[Job]) -> dict[int, Context]:
        """Read each job's deal, its main contact, and the company if a mapped field needs it."""
        leads = self._kommo.leads(_lead_id(job) for job in batch)
        contacts = self._kommo.contacts(lead.contact_ids[0] for lead in leads.values() if lead.contact_ids)
        contexts: dict[int, Context] = {}
        for job in batch:
            lead = leads.get(_lead_id(job))
            contact = contacts.get(lead.contact_ids[0]) if lead and lead.contact_ids else None
            contexts[job.id] = self._context(lead, contact)
        return self._with_companies(contexts) if self._rules.needs_companies else contexts

    def _with_companies(self, contexts: dict[int, Context]) -> dict[int, Context]:
        wanted = {job_id: company_id_of(context) for job_id, context in contexts.items()}
        companies = self._kommo.companies(company_id for company_id in wanted.values() if company_id)
        return {
            job_id: replace(context, company=companies.get(wanted[job_id] or 0))
            for job_id, context in contexts.items()
        }

    def _email_deals(self, batch: list[Job]) -> dict[int, Context]:
        """Find each job's deal: the active one that it names, else the latest active one of its email."""
        named = self._kommo.leads(lead_id for job in batch if (lead_id := _named(job)))
        active = {lead.id: lead for lead in named.values() if lead.active}
        found = {job.id: active[_named(job)] for job in batch if _named(job) in active}
        contacts = self._kommo.contacts(contact_id for lead in found.values() for contact_id in lead.contact_ids)
        contexts = {
            job.id: self._context(lead, _person(lead, contacts, _email(job)))
            for job in batch
            if (lead := found.get(job.id))
        }
        rest = [job for job in batch if job.id not in contexts]
        return contexts | self._by_email(rest)

    def _by_email(self, batch: list[Job]) -> dict[int, Context]:
        """Find the contacts with exactly the job's email, and the deal among theirs that was touched last."""
        emails = sorted({_email(job) for job in batch} - {""})
        people = {email: self._kommo.contacts_by_email(email) for email in emails}
        leads = self._kommo.leads(
            lead_id for contacts in people.values() for contact in contacts for lead_id in contact.lead_ids
        )
        return {job.id: self._context(*_latest(people.get(_email(job), []), leads)) for job in batch}


def _latest(contacts: Sequence[Contact], leads: Mapping[int, Lead]) -> tuple[Lead | None, Contact | None]:
    candidates = [
        (lead, contact)
        for contact in contacts
        for lead_id in contact.lead_ids
        if (lead := leads.get(lead_id)) and lead.active
    ]
    return max(candidates, key=lambda pair: pair[0].updated_at, default=(None, None))


def _person(lead: Lead, contacts: Mapping[int, Contact], email: str) -> Contact | None:
    """Return the deal's contact with this email, else its main one."""
    people = [contacts[contact_id] for contact_id in lead.contact_ids if contact_id in contacts]
    return next((person for person in people if email in person.emails), people[0] if people else None)


def company_id_of(context: Context) -> int | None:
    """Return the company of the deal, else that of its contact."""
    owners = (context.lead, context.contact)
    return next((owner.company_id for owner in owners if owner and owner.company_id), None)


def _lead_id(job: Job) -> int:
    assert isinstance(job.event.data, StageChange)  # noqa: S101 - told apart in carry()
    return job.event.data.lead_id


def _named(job: Job) -> int:
    """Return the id of the deal that an email activity names, or 0."""
    return job.event.data.lead_id or 0


def _email(job: Job) -> str:
    """Return the email of an email activity, or ''."""
    return (isinstance(job.event.data, EmailActivity) and job.event.data.email) or ""
