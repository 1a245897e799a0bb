"""The audit: what was acknowledged against what stands at the vendors."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.chaos.load import Deal, Fact, Ledger, stage_label, stage_name
from sandbox.town import Town

UNSUBSCRIBED = "Email Unsubscribed"
CAMPAIGN = re.compile(r"'(.*)'")
OURS = ("Last email activity", "Email status")


@dataclass
class Findings:
    """What is wrong, as sentences by kind; the first deal of each sentence has a story to tell."""

    lost: list[tuple[int, str]] = field(default_factory=list)  # deal, sentence
    out_of_order: list[tuple[int, str]] = field(default_factory=list)
    duplicates: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    wrong_state: list[tuple[int, str]] = field(default_factory=list)
    twice_at_encharge: set[tuple[int, int]] = field(default_factory=set)  # deal, stage
    delivered: int = 0
    expected: int = 0


@dataclass(frozen=True)
class Sides:
    """One deal's facts: those that must have had their effect, and those that may."""

    sure: Sequence[Fact]
    maybe: Sequence[Fact]

    def of(self, *words: str) -> list[Fact]:
        """Return the sure facts whose kind ends in one of the words."""
        return [fact for fact in self.sure if fact.kind.endswith(words)]

    def possible(self, *words: str) -> list[Fact]:
        """Return the sure facts and those that may have happened."""
        return [fact for fact in (*self.sure, *self.maybe) if fact.kind.endswith(words)]


def audit(town: Town, ledger: Ledger, deals: Sequence[Deal]) -> Findings:
    """Compare deal by deal."""
    seen = Seen(town)
    sure, maybe = _by_deal(ledger.facts()), _by_deal(ledger.uncertain())
    findings = Findings()
    for deal in deals:
        sides = Sides(sure[deal.id], maybe[deal.id])
        _check_stages(findings, deal, sides, "Encharge events", seen.encharge[deal.id], stage_name)
        _check_stages(findings, deal, sides, "Ortto activities", seen.ortto[deal.id], stage_label)
        findings.twice_at_encharge |= {
            (deal.id, int(stage[-2:])) for stage, count in Counter(seen.encharge[deal.id]).items() if count > 1
        }
        _check_person(findings, deal, sides, seen)
        _check_notes(findings, deal, sides, seen.notes[deal.id])
        _check_tasks(findings, deal, sides, seen.tasks[deal.id])
        _check_fields(findings, deal, sides, seen.fields[deal.id])
        _check_tags(findings, deal, sides, seen.tags[deal.contact_id])
    return findings


class Seen:
    """What stands at the vendors, by deal, each list in the order of arrival."""

    def __init__(self, town: Town) -> None:
        kommo, encharge, ortto = town.kommo.state(), town.encharge.state(), town.ortto.state()
        self.encharge: dict[int, list[str]] = defaultdict(list)
        for event in encharge["events"]:
            self.encharge[int(event["properties"]["lead_id"])].append(event["properties"]["stage"])
        self.ortto: dict[int, list[str]] = defaultdict(list)
        for activity in ortto["activities"]:
            attributes = activity["attributes"]
            self.ortto[int(attributes["str:cm:lead-id"])].append(attributes["str:cm:stage"])
        self.repeats_known_to_ortto: int = ortto["counters"]["duplicates"]
        self.encharge_stage = {item["email"]: item.get("kommo_current_stage") for item in encharge["people"]}
        self.ortto_stage = {
            item["fields"]["str::email"]: item["fields"].get("str:cm:kommo-stage") for item in ortto["people"]
        }
        self.notes: dict[int, list[str]] = defaultdict(list)
        for note in sorted(kommo["notes"]["leads"], key=lambda note: note["id"]):
            self.notes[note["entity_id"]].append(_campaign(note["params"]["text"]))
        self.tasks: dict[int, list[str]] = defaultdict(list)
        for task in kommo["tasks"].values():
            self.tasks[task["entity_id"]].append(task["text"])
        self.fields = defaultdict(dict, {int(key): _fields(lead) for key, lead in kommo["leads"].items()})
        self.tags: dict[int, list[str]] = defaultdict(list)
        for key, contact in kommo["contacts"].items():
            self.tags[int(key)] = [tag["name"] for tag in contact["_embedded"]["tags"]]


def _by_deal(facts: Iterable[Fact]) -> dict[int, list[Fact]]:
    found: dict[int, list[Fact]] = defaultdict(list)
    for fact in facts:
        found[fact.deal].append(fact)
    return found


def _campaign(text: str) -> str:
    match = CAMPAIGN.search(text)
    return match[1] if match else text


def _fields(lead: Mapping[str, Any]) -> dict[str, str]:
    values = lead["custom_fields_values"] or []
    return {item["field_name"]: item["values"][0]["value"] for item in values if item["field_name"] in OURS}


# -- the checks ----------------------------------------------------------------------------------------------------


def _check_stages(findings: Findings, deal: Deal, sides: Sides, what: str, seen: Sequence[str], name: Any) -> None:
    """Each stage once, and first arrivals in order."""
    counts = Counter(seen)
    for fact in sides.of("stage"):
        findings.expected += 1
        if name(fact.stage) in counts:
            findings.delivered += 1
        else:
            findings.lost.append((deal.id, f"{what}: {name(fact.stage)} of deal {deal.id} is not there"))
    for word, count in counts.items():
        if count > 1:
            findings.duplicates[what] += [(deal.id, f"{what}: {word} of deal {deal.id} is there {count} times")] * (
                count - 1
            )
    first = list(dict.fromkeys(seen))
    if first != sorted(first):
        findings.out_of_order.append((deal.id, f"{what} of deal {deal.id} came as {', '.join(first)}"))


def _check_person(findings: Findings, deal: Deal, sides: Sides, seen: Seen) -> None:
    """The person has the stage in which the deal is now."""
    moves = sides.possible("stage")
    if not moves or moves[-1] not in sides.sure:
        return
    for vendor, stages, name in (
        ("Encharge", seen.encharge_stage, stage_name),
        ("Ortto", seen.ortto_stage, stage_label),
    ):
        findings.expected += 1
        if stages.get(deal.email) == name(deal.stage):
            findings.delivered += 1
        else:
            stage = stages.get(deal.email)
            sentence = f"{vendor}: {deal.email} is in {stage!r}, its deal {deal.id} in {name(deal.stage)!r}"
            findings.wrong_state.append((deal.id, sentence))


def _check_notes(findings: Findings, deal: Deal, sides: Sides, seen: Sequence[str]) -> None:
    """A note for each open and click; those with words of their own in order."""
    sure = Counter(fact.campaign for fact in sides.of("click", "open"))
    possible = Counter(fact.campaign for fact in sides.possible("click", "open"))
    counts = Counter(seen)
    findings.expected += sure.total()
    findings.delivered += (sure & counts).total()
    for campaign in (sure - counts).elements():
        findings.lost.append((deal.id, f"note: '{campaign}' on deal {deal.id} is not there"))
    for campaign in (counts - possible).elements():
        findings.duplicates["notes"].append((deal.id, f"note: '{campaign}' on deal {deal.id} is there too often"))
    unique = [fact.campaign for fact in sides.of("click", "open") if possible[fact.campaign] == 1]
    came = [campaign for campaign in dict.fromkeys(seen) if campaign in set(unique)]
    told = [campaign for campaign in unique if campaign in counts]
    if came != told:
        findings.out_of_order.append((deal.id, f"notes of deal {deal.id} came as {came}, not as {told}"))


def _check_tasks(findings: Findings, deal: Deal, sides: Sides, seen: Sequence[str]) -> None:
    """One task for all the clicks and opens that ask for one: a run is shorter than the cooldown."""
    asked = sides.of("encharge click", "encharge proposal open")
    if asked:
        findings.expected += 1
        if seen:
            findings.delivered += 1
        else:
            findings.lost.append((deal.id, f"task: none on deal {deal.id}"))
    for text in seen[1:]:
        findings.duplicates["tasks"].append((deal.id, f"task: one more on deal {deal.id}: {text}"))


def _check_fields(findings: Findings, deal: Deal, sides: Sides, seen: Mapping[str, str]) -> None:
    """The last activity is the last one, and the status is how the consent stands."""
    wanted: dict[str, str] = {}
    facts = sides.possible("ortto click", "ortto open")
    if facts and facts[-1] in sides.sure:
        kind = "clicked" if facts[-1].kind.endswith("click") else "opened"
        wanted["Last email activity"] = f"email_{kind}: {facts[-1].campaign}"
    unsubscribed = _unsubscribed(sides)
    if unsubscribed is not None:
        wanted["Email status"] = "Unsubscribed" if unsubscribed else "Subscribed"
    for name, value in wanted.items():
        findings.expected += 1
        if seen.get(name) == value:
            findings.delivered += 1
        else:
            sentence = f"field {name} of deal {deal.id}: {seen.get(name)!r}, not {value!r}"
            findings.wrong_state.append((deal.id, sentence))


def _unsubscribed(sides: Sides) -> bool | None:
    """Say whether the person is unsubscribed at any platform; None if that cannot be told, or nothing was said.

    The last word of each platform counts; of two in one second of Ortto's the stricter.
    """
    words: list[bool] = []
    for platform in ("encharge", "ortto"):
        facts = sides.possible(f"{platform} unsubscribe", f"{platform} resubscribe")
        # Encharge's events have no time of their own: they count as they come.
        facts = [fact for fact in facts if fact.at == facts[-1].at] if platform == "ortto" else facts[-1:]
        if any(fact not in sides.sure for fact in facts):
            return None
        words += [any(fact.kind.endswith("unsubscribe") for fact in facts)] if facts else []
    return any(words) if words else None


def _check_tags(findings: Findings, deal: Deal, sides: Sides, seen: Sequence[str]) -> None:
    """The contact is tagged if it is unsubscribed anywhere."""
    wanted = _unsubscribed(sides)
    if wanted is None:
        return
    findings.expected += 1
    if (UNSUBSCRIBED in seen) == wanted:
        findings.delivered += 1
    else:
        findings.wrong_state.append((deal.id, f"tags of deal {deal.id}'s contact: {list(seen)}, wanted: {wanted}"))
    if seen.count(UNSUBSCRIBED) > 1:
        findings.duplicates["tags"].append((deal.id, f"tags of deal {deal.id}'s contact: {list(seen)}"))
