"""The resolve lane: who is this, which deal, which fields. Reads Kommo, writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

from app.clients.errors import ApiError, Fault
from app.clients.kommo import KommoClient
from app.events import (
    CONSENT_KINDS,
    Contact,
    Context,
    EmailActivity,
    FoundPerson,
    Job,
    Lane,
    Lead,
    Outcome,
    Seen,
    Source,
    StageChange,
    State,
    skipped,
)
from app.flows import Ledger, Result, keep_order
from app.mapping import Rules


@dataclass(frozen=True)
class Considered:
    """What a deal is chosen from: the one that is named, and those of the contacts with the address.

    `leads`: those that Kommo has, by id.
    """

    named: int | None
    email: str
    contacts: Sequence[Contact]
    leads: Mapping[int, Lead]


FindPeople = Callable[[Sequence[str]], Mapping[str, FoundPerson]]


class ResolveFlow:
    """Finds the deal and the person of each event, and plans what follows.

    Two calls to Kommo for up to 250 deals; an email without a known deal costs a search of its own. `people`: how
    the platforms' own ids of people are looked up there.
    """

    def __init__(
        self,
        kommo: KommoClient,
        rules: Rules,
        destinations: Collection[Lane],
        people: Mapping[Source, FindPeople] | None = None,
        clock: Callable[[], float] = time.time,
        consider: Callable[[Considered], None] = lambda considered: None,
    ) -> None:
        """`consider` hears of what each deal of an email activity is chosen from."""
        self._consider = consider
        self._kommo = kommo
        self._rules = rules
        self._destinations = destinations
        self._people = people or {}
        self._clock = clock

    def carry(self, batch: Sequence[Job], ledger: Ledger) -> Mapping[int, Result]:
        """Read Kommo for a batch and plan each event."""
        stages = [job for job in batch if isinstance(job.event.data, StageChange)]
        emails = [job for job in batch if isinstance(job.event.data, EmailActivity)]
        who, unknown = self._named(emails)
        known = [job for job in emails if job.id not in unknown]
        resolved = self._resolve(stages, self._deals, ledger)
        resolved |= self._resolve(known, lambda part: self._email_deals(part, who), ledger)
        return keep_order(batch, resolved | unknown)

    def _resolve(
        self, batch: list[Job], find: Callable[[list[Job]], dict[int, Context]], ledger: Ledger
    ) -> dict[int, Result]:
        if not batch:
            return {}
        try:
            contexts = find(batch)
        except ApiError as error:
            too_heavy = error.status == HTTPStatus.GATEWAY_TIMEOUT
            if not (error.fault == Fault.REFUSED or too_heavy) or len(batch) == 1:
                return dict.fromkeys((job.id for job in batch), error)
            # One id that Kommo does not take must not stop the others, nor a page that is too much for it.
            middle = len(batch) // 2
            return self._resolve(batch[:middle], find, ledger) | self._resolve(batch[middle:], find, ledger)
        seen = self._seen(batch, contexts, ledger)
        return {job.id: self._plan(job, contexts[job.id], seen.get(job.id, Seen())) for job in batch}

    def _seen(self, batch: Sequence[Job], contexts: Mapping[int, Context], ledger: Ledger) -> dict[int, Seen]:
        """Return what the people of email activities had done before."""
        active = [job for job in batch if isinstance(job.event.data, EmailActivity)]
        if not active:
            return {}
        who = {job.id: _who(contexts[job.id]) for job in active}
        return ledger.store.remember(who, active, moments=self._rules.activities.one_signal)

    def _plan(self, job: Job, context: Context, seen: Seen) -> Outcome:
        plan = self._rules.plan(job.event, context, self._destinations, seen)
        if isinstance(plan, str):
            return skipped(plan, context)
        return Outcome(State.DONE, context=context, owed=plan)

    def _context(self, lead: Lead | None, contact: Contact | None, email: str = "") -> Context:
        """Return what is worth keeping: only the fields that the mapping uses."""
        used = self._rules.fields_used

        def trim(fields: Mapping[str, object]) -> dict[str, object]:
            return {key: value for key, value in fields.items() if key in used}

        return Context(
            lead=replace(lead, fields=trim(lead.fields)) if lead else None,
            contact=replace(contact, fields=trim(contact.fields)) if contact else None,
            read_at=self._clock(),
            email=email or (contact.emails[0] if contact and contact.emails else ""),
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

    def _email_deals(self, batch: list[Job], who: Mapping[int, FoundPerson]) -> dict[int, Context]:
        """Find each job's deal: the active one that it names, else the latest active one of its email."""
        named = self._kommo.leads(lead_id for job in batch if (lead_id := who[job.id].lead_id))
        contacts = self._kommo.contacts(contact_id for lead in named.values() for contact_id in lead.contact_ids)
        contexts: dict[int, Context] = {}
        emails: dict[int, str] = {}  # of the jobs whose deal is to be found by an address
        for job in batch:
            email = who[job.id].email or ""
            if lead_id := who[job.id].lead_id:
                self._consider(Considered(lead_id, email, (), named))
            lead = named.get(who[job.id].lead_id or 0)
            person = _person(lead, contacts, email) if lead else None
            active = lead if lead and lead.active else None
            contexts[job.id] = self._context(active, person, email)
            if active is None or job.event.kind in CONSENT_KINDS:
                emails[job.id] = contexts[job.id].email
        contexts |= self._by_email(contexts, emails)
        return self._with_companies(contexts) if self._rules.activities_need_companies else contexts

    def _named(self, batch: list[Job]) -> tuple[dict[int, FoundPerson], dict[int, Result]]:
        """Return the address and the deal that each job names, and the errors of those whose platform cannot tell.

        A platform is asked who somebody is only where nothing but its own id is known.
        """
        found: dict[int, FoundPerson] = {job.id: FoundPerson(_email(job), _lead(job)) for job in batch}
        failed: dict[int, Result] = {}
        for source, find_people in self._people.items():
            asked = {job.id: person_id for job in batch if (person_id := _platform_id(job, source))}
            try:
                people = find_people(sorted(set(asked.values()))) if asked else {}
            except ApiError as error:
                failed |= dict.fromkeys(asked, error)
            else:
                found |= {job_id: people[key] for job_id, key in asked.items() if key in people}
        return found, failed

    def _by_email(self, contexts: Mapping[int, Context], emails: Mapping[int, str]) -> dict[int, Context]:
        """Find the contacts with exactly these emails, and the deal among theirs that was touched last.

        A deal that is known stays; consent gets everybody with the address.
        """
        people = {email: self._kommo.contacts_by_email(email) for email in sorted(set(emails.values()) - {""})}
        leads = self._kommo.leads(
            lead_id for contacts in people.values() for contact in contacts for lead_id in contact.lead_ids
        )
        for email, contacts in people.items():
            self._consider(Considered(None, email, contacts, leads))
        found: dict[int, Context] = {}
        for job_id, email in emails.items():
            context, contacts = contexts[job_id], people.get(email, [])
            deals = list(_active_deals(contacts, leads))
            if context.lead is None:
                latest = max(deals, key=lambda pair: pair[0].updated_at, default=(None, None))
                contact = latest[1] or context.contact or next(iter(contacts), None)
                context = self._context(latest[0], contact, email)
            found[job_id] = replace(
                context,
                contact_ids=tuple(sorted({contact.id for contact in contacts})),
                lead_ids=tuple(
                    sorted({lead.id for lead, _ in deals} | ({context.lead.id} if context.lead else set()))
                ),
            )
        return found


def _active_deals(contacts: Sequence[Contact], leads: Mapping[int, Lead]) -> Iterator[tuple[Lead, Contact]]:
    for contact in contacts:
        for lead_id in contact.lead_ids:
            lead = leads.get(lead_id)
            if lead and lead.active:
                yield lead, contact


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


def _email(job: Job) -> str | None:
    return job.event.data.email if isinstance(job.event.data, EmailActivity) else None


def _lead(job: Job) -> int | None:
    return job.event.data.lead_id


def _platform_id(job: Job, source: Source) -> str:
    """Return the own id at a platform of a person of whom nothing else is known, or ""."""
    activity = job.event.data
    if job.event.source != source or not isinstance(activity, EmailActivity) or activity.email or activity.lead_id:
        return ""
    return activity.person_id or ""


def _who(context: Context) -> str:
    """Return by what a person's activities are remembered: the address, else the contact or the deal."""
    if context.email:
        return context.email
    if context.contact:
        return f"contact:{context.contact.id}"
    return f"lead:{context.lead.id}" if context.lead else ""
