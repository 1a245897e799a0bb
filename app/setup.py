"""What is to be made in the vendors' accounts, as steps that are shown before they are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import cast

from app import accounts, guardian
from app.accounts import Finding, Need, Standing
from app.advice import advice
from app.clients.encharge import EnchargeClient
from app.clients.errors import ApiError, Fault
from app.clients.fields import ACTIVITY, Field
from app.clients.kommo import KommoClient
from app.clients.ortto import OrttoClient
from app.clients.platform import Platform, Teller
from app.events import Source
from app.guardian import Remedy
from app.mapping import Rules

TAKEN = {HTTPStatus.LOCKED, HTTPStatus.CONFLICT}  # 423 is Ortto's word for a name that there is already


@dataclass(frozen=True)
class Step:
    """One thing to make. `take` makes it; it returns what came of it and raises ApiError."""

    words: str
    take: Callable[[], Outcome]


@dataclass(frozen=True)
class Outcome:
    """What came of a step; `trouble`: what a person must do about it; `variables`: settings that it gives."""

    trouble: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Work:
    """What is there, what is to be made, and what only a person can mend, in one vendor's account.

    `variables`: settings that must hold an id of the account and do not.
    """

    vendor: str
    there: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Take an error of the vendor as trouble, so that the rest goes on."""
        try:
            yield
        except ApiError as error:
            self.troubles.append(advice(error))


def kommo_work(
    kommo: KommoClient,
    rules: Rules | None,
    ids: Mapping[str, int | None],
    secrets: Sequence[str],
    public_url: str | None,
) -> Work:
    """Look at Kommo: the deal's fields and our webhook."""
    work = Work(accounts.KOMMO)
    with work.trying():
        for finding in accounts.findings(accounts.kommo_needs(rules, ids), kommo.deal_fields()):
            if finding.standing == Standing.UNNAMED and finding.field:
                work.there.append(_there(finding))
                work.variables[finding.need.variable] = finding.field.id
            else:
                _sort_in(work, finding, partial(_make_deal_field, kommo, finding.need))
    with work.trying():
        _add_hook(work, kommo, secrets, public_url)
    return work


def platform_work(name: Source, client: Platform, rules: Rules | None) -> Work:
    """Look at an email platform: the person's fields, and what else its events need."""
    work = Work(name)
    with work.trying():
        if isinstance(client, EnchargeClient):
            for finding in accounts.findings(accounts.encharge_needs(rules), client.person_fields()):
                _sort_in(work, finding, partial(_make_encharge_field, client, finding.need))
        elif isinstance(client, OrttoClient):
            _sort_in_ortto(work, client, rules)
        else:
            work.there.append(f"account: {cast(Teller, client).check()}")
    return work


def _sort_in_ortto(work: Work, ortto: OrttoClient, rules: Rules | None) -> None:
    needs = accounts.ortto_needs(rules)
    for finding in accounts.findings(needs, ortto.schema()):
        need = finding.need
        if need.kind == ACTIVITY:
            parts = [need, *(part for part in needs if part.of == need.id)]
            _sort_in(work, finding, partial(_make_activity, ortto, parts))
        else:
            _sort_in(work, finding, partial(_make_ortto_field, ortto, need))


def carry_out(work: Work, hear: Callable[[str, str], None]) -> dict[str, str]:
    """Take the steps of one vendor; return the settings that they give.

    `hear` is told each step's words, and what is wrong with it or ''. After a failure that is not about one thing
    alone, the rest is not tried.
    """
    variables: dict[str, str] = {}
    for number, step in enumerate(work.steps):
        try:
            outcome = step.take()
        except ApiError as error:
            hear(step.words, _failure(error))
            left = len(work.steps) - number - 1
            if error.fault != Fault.REFUSED and error.status not in TAKEN and left:
                hear(f"{left} more", "not tried after that; run the command again.")
                break
        else:
            hear(step.words, outcome.trouble)
            variables |= outcome.variables
    return variables


def _failure(error: ApiError) -> str:
    vendor = error.vendor.title()
    if error.status in TAKEN or (error.fault == Fault.REFUSED and "exist" in str(error)):
        return (
            f"{error}. {vendor} has one of this name and does not list it: it is archived, or another kind of "
            f"thing. Restore it in {vendor}, or delete it there for good, and run the command again."
        )
    return advice(error)


def _sort_in(work: Work, finding: Finding, make: Callable[[], Outcome]) -> None:
    if finding.standing == Standing.FOUND:
        work.there.append(_there(finding))
    elif finding.standing == Standing.MISSING and finding.need.kind:
        with_type = "" if finding.need.kind == ACTIVITY else f", type {finding.need.kind}"
        work.steps.append(Step(f"make {finding.need}{with_type}", make))
    else:
        work.troubles.append(finding.words)


def _there(finding: Finding) -> str:
    number = f" ({finding.field.id})" if finding.need.vendor == accounts.KOMMO and finding.field else ""
    return f"{finding.need}{number}"


# -- the steps --


def _make_deal_field(kommo: KommoClient, need: Need) -> Outcome:
    made = kommo.add_deal_fields([need.name], need.kind)
    return Outcome(variables={need.variable: made[0].id})


def _make_encharge_field(encharge: EnchargeClient, need: Need) -> Outcome:
    return _compared([need], [encharge.add_person_field(need.id, need.name, need.kind)])


def _make_ortto_field(ortto: OrttoClient, need: Need) -> Outcome:
    return _compared([need], [ortto.add_person_field(need.name, need.kind)])


def _make_activity(ortto: OrttoClient, needs: Sequence[Need]) -> Outcome:
    return _compared(needs, ortto.add_activity(needs[0].name, accounts.attribute_types()))


def _compared(needs: Sequence[Need], made: Sequence[Field]) -> Outcome:
    """Return how what was made differs from what our code writes."""
    return Outcome(" ".join(accounts.differences(needs, made)))


# -- the webhook --


def _add_hook(work: Work, kommo: KommoClient, secrets: Sequence[str], public_url: str | None) -> None:
    hooks = kommo.webhooks()
    if not secrets:
        work.troubles.append(
            "The webhook cannot be looked for: set KOMMO_WEBHOOK_SECRET, or let --write-env make one."
        )
        return
    if public_url is None:
        if words := guardian.fault(guardian.ours(hooks, secrets), ", or set PUBLIC_URL and run this again"):
            work.troubles.append(words)
        else:
            work.there.append("webhook")
        return
    needed = guardian.remedy(hooks, secrets, public_url)
    if needed is None:
        work.there.append("webhook")
        return
    words = f"{needed.verb} webhook {needed.destination}, for {', '.join(needed.settings)}"
    work.steps.append(Step(words, partial(_mend_hook, kommo, needed)))


def _mend_hook(kommo: KommoClient, needed: Remedy) -> Outcome:
    made = guardian.mend(kommo, needed)
    return Outcome(guardian.fault([made]) if made else "")
