"""The table, the verdict, and the story of a deal with which something is wrong."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from bench.chaos.audit import Findings
from bench.chaos.load import Deal, Ledger
from bench.chaos.processes import Database
from sandbox.town import Town

if TYPE_CHECKING:
    from bench.chaos.run import Result

KINDS = ("tasks", "notes", "tags", "Ortto activities", "Encharge events")
TOLD = 5  # sentences of one kind
CALLS_TOLD = 150
WORDS_TOLD = 240  # characters of a call's body


def faults(result: Result) -> list[str]:
    """Return each reason why the promise does not hold, as a sentence."""
    from bench.chaos.run import TAKEOVER_SECONDS

    tally, options = result.tally, result.options
    said = effect_faults(
        result.findings, result.ledger, result.owed, result.dead, tally.kills.total(), result.sent_again
    )
    if result.too_many_calls:
        said.append(f"{result.too_many_calls} calls to Kommo were over its limit")
    if options.real_lease and result.real_takeover is None:
        said.append("no take-over with the real lease was seen: no proof")
    if result.real_takeover is not None and result.real_takeover > TAKEOVER_SECONDS:
        said.append(f"a frozen replica's work was taken over after {result.real_takeover:.0f} s only")
    if len(result.ledger.hooks) < options.acknowledged:
        said.append(f"only {len(result.ledger.hooks)} of {options.acknowledged} webhooks acknowledged: no proof")
    if tally.kills.total() < options.kills:
        said.append(f"only {tally.kills.total()} of {options.kills} kills happened: no proof")
    return said


def effect_faults(
    found: Findings,
    ledger: Ledger,
    owed: int,
    dead: Collection[str],
    kills: int,
    sent_again: Collection[tuple[int, int]],
) -> list[str]:
    """Return what is wrong with what arrived at the vendors, and with what is still to arrive, as sentences."""
    said = []
    for count, what in (
        (len(found.lost), "effects are lost"),
        (len(found.out_of_order), "deals have effects out of order"),
        (len(found.wrong_state), "people, fields or tags are in a wrong state at the end"),
        (owed, "jobs are still owed at the end"),
        (len(dead), "jobs are dead"),
        (len(ledger.refused), "webhooks were answered 4xx or 500"),
        (len(ledger.given_up), "webhooks were never acknowledged"),
        (len(ledger.repeats_taken_as_new), "repeated webhooks were taken as new"),
        *((len(found.duplicates[kind]), f"{kind} are duplicates") for kind in KINDS[:-1]),
    ):
        if count:
            said.append(f"{count} {what}")
    events = len(found.duplicates["Encharge events"])
    if events > kills:
        said.append(f"{events} Encharge events are duplicates after {kills} kills")
    silent = found.twice_at_encharge.difference(sent_again)
    if silent:
        said.append(
            f"{len(silent)} Encharge events are there twice without the journal saying so: {sorted(silent)[:5]}"
        )
    return said


def table(result: Result) -> str:
    """Return what a reader wants to know."""
    found, tally, ledger = result.findings, result.tally, result.ledger
    again = sum(hook.attempts - 1 for hook in ledger.hooks)
    rows: list[tuple[str, object, str]] = [
        (
            "webhooks acknowledged",
            len(ledger.hooks),
            f"{len(ledger.facts())} facts; {again} times no answer or 503",
        ),
        ("  repeated later", ledger.repeats, f"{len(ledger.repeats_taken_as_new)} taken as new"),
        ("  never acknowledged", len(ledger.given_up), ""),
        ("effects expected", found.expected, ""),
        ("effects found", found.delivered, ""),
        ("lost", len(found.lost), ""),
        ("wrong at the end", len(found.wrong_state), "person's stage, deal's fields, contact's tags"),
        ("out of order", len(found.out_of_order), "deals"),
        *((f"duplicated {kind}", len(found.duplicates[kind]), _words(kind, result)) for kind in KINDS),
        ("still owed, dead", f"{result.owed}, {len(result.dead)}", ""),
        ("longest take-over", f"{result.longest_takeover:.1f} s", _lease(result)),
    ]
    if result.real_takeover is not None:
        rows.append(("  with the real lease", f"{result.real_takeover:.1f} s", "lease 60 s; a frozen replica"))
    if result.options.rate_seconds:
        words = f"{result.too_many_calls} refused, at KOMMO_RATE_LIMIT=7"
        rows.append(("busiest second at Kommo", result.busiest_second, words))
    rows.append(("kills", tally.kills.total(), ""))
    rows += [(f"  {name}", count, "") for name, count in sorted(tally.kills.items())]
    rows.append(("other faults", tally.faults.total(), ""))
    rows += [(f"  {name}", count, "") for name, count in sorted(tally.faults.items())]
    title = f"{result.options.database}, seed {result.options.seed}, {result.seconds:.0f} s"
    return "\n".join([title, *(f"  {name:<40} {value!s:>8}  {words}".rstrip() for name, value, words in rows)])


def _words(kind: str, result: Result) -> str:
    if kind == "Encharge events":
        tally = result.tally
        return f"after {tally.unanswered_events} lost answers and {tally.kills.total()} kills"
    return f"{result.repeats_known_to_ortto} repeats known by their key" if kind == "Ortto activities" else ""


def _lease(result: Result) -> str:
    return f"{result.takeovers} jobs; lease {result.options.lease:g} s"


# -- stories -------------------------------------------------------------------------------------------------------


def stories(
    found: Findings, ledger: Ledger, dead: Sequence[str], database: Database, town: Town, deals: Sequence[Deal]
) -> list[str]:
    """Return what went wrong, and all that is known of the first deal with which it did."""
    told = []
    first: int | None = None
    for sentences in (found.lost, found.out_of_order, found.wrong_state, *found.duplicates.values()):
        told += [sentence for _, sentence in sentences[:TOLD]]
        if sentences and first is None and not _is_allowed(sentences, found):
            first = sentences[0][0]
    told += [f"dead: {words}" for words in dead[:TOLD]]
    told += ledger.refused[:TOLD] + ledger.repeats_taken_as_new[:TOLD]
    deal = next((deal for deal in deals if deal.id == first), None)
    return [*told, *([_story(deal, ledger, database, town)] if deal else [])]


def _is_allowed(sentences: Sequence[tuple[int, str]], found: Findings) -> bool:
    return sentences is found.duplicates["Encharge events"]


def _story(deal: Deal, ledger: Ledger, database: Database, town: Town) -> str:
    lines = [f"The story of deal {deal.id} ({deal.email})", "  webhooks:"]
    for hook in ledger.hooks:
        for fact in hook.facts:
            if fact.deal == deal.id:
                what = fact.stage or fact.campaign
                lines.append(f"    {hook.acknowledged:.2f} {fact.kind} {what}: {hook.answers}, events {hook.ids}")
    lines.append("  journal:")
    lines += [f"    {' | '.join(map(str, row))}" for row in _journal(deal, database)]
    lines.append("  calls:")
    calls = [
        (call.at, name, call)
        for name, vendor in town.vendors.items()
        for call in list(vendor.calls)
        if call.method != "GET" and _speaks_of(deal, call.body)
    ]
    for at, name, call in sorted(calls, key=lambda item: item[0])[-CALLS_TOLD:]:
        lines.append(f"    {at:.2f} {name} {call.method} {call.path} -> {call.status} {_part(deal, call.body)}")
    return "\n".join(lines)


def _journal(deal: Deal, database: Database) -> list[tuple[object, ...]]:
    keys = f"('lead:{deal.id}', 'email:{deal.email}')"
    try:
        return database.rows(
            "SELECT jobs.id, jobs.event_id, events.kind, jobs.lane, jobs.state, jobs.attempts, jobs.steps, "  # noqa: S608
            "jobs.reason, jobs.owner, jobs.created_at, jobs.due_at, jobs.settled_at FROM jobs "
            f"JOIN events ON events.id = jobs.event_id WHERE jobs.order_key IN {keys} ORDER BY jobs.id"
        )
    except OSError as error:
        return [(f"cannot be read: {error}",)]


def _speaks_of(deal: Deal, body: object) -> bool:
    text = json.dumps(body)
    return str(deal.id) in text or deal.email in text or f'"id": {deal.contact_id}' in text


def _part(deal: Deal, body: object) -> str:
    """Return what a call says of the deal: its own items of a batch."""
    items = body.get("activities", body) if isinstance(body, dict) else body
    mine = [item for item in items if _speaks_of(deal, item)] if isinstance(items, list) else items
    return json.dumps(mine, ensure_ascii=False)[:WORDS_TOLD]
