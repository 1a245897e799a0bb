"""What must exist in the vendors' accounts for our writes to be taken, and how it stands there. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.clients import encharge, ortto
from app.clients.fields import ACTIVITY, Field
from app.events import Source
from app.mapping import CRM_STAGE_CHANGED, Rules

KOMMO, ENCHARGE, ORTTO = Source.KOMMO, Source.ENCHARGE, Source.ORTTO
TEXTS = ("text", "textarea")  # Kommo's types that take any text
CHOICES = ("select", "radiobutton")  # those that take the words of their options
DEAL_FIELDS = {"KOMMO_CF_EMAIL_ACTIVITY": "Last email activity", "KOMMO_CF_EMAIL_STATUS": "Email status"}
ENCHARGE_FIELDS = {
    encharge.LEAD_ID: "Kommo lead ID",
    encharge.STAGE: "Kommo current stage",
    encharge.LAST_EVENT: "Kommo last event",
}
ORTTO_FIELDS = {ortto.LEAD_ID: "Kommo lead ID", ortto.STAGE: "Kommo stage"}
MONEY = ("currency", "decimal")  # Ortto's types whose values travel in thousandths
ATTRIBUTES = {ortto.MOVED_LEAD_ID: (), ortto.MOVED_TO: (), ortto.DEAL_VALUE: MONEY}
# The type to make a field of Ortto with, by how its id begins. Places (`geo`) cannot be made.
ORTTO_TYPES = {
    "str": "text",
    "txt": "large_text",
    "int": "integer",
    "bol": "bool",
    "dtz": "date",
    "tme": "time",
    "phn": "phone",
    "sst": "multi_select",
    "obj": "object",
}


@dataclass(frozen=True)
class Need:
    """A field, an activity, or an attribute `of` an activity, that our code or the mapping file writes to.

    `id`: by which it is written; of Kommo's it is known only from the settings, '' until then. `types`: those that
    will do; none: any that has this id. `values`: all that it can get; none: any text. `kind`: the type to make it
    with; '': it cannot be made for the user. `variable`: the setting that holds the id.
    """

    vendor: str
    id: str
    name: str
    types: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    kind: str = ""
    variable: str = ""
    of: str = ""

    def __str__(self) -> str:
        if self.vendor == KOMMO:
            return f"deal field '{self.name}'" if self.name else f"deal field {self.id}"
        if self.of:
            return f"attribute {self.id} of {self.of}"
        return f"{'activity' if self.kind == ACTIVITY else 'person field'} {self.id}"


class Standing(StrEnum):
    """How a need stands in the account."""

    FOUND = "found"
    UNNAMED = "unnamed"  # it is there, and the setting that must hold its id does not
    MISSING = "missing"
    WRONG = "wrong"  # a person must act


@dataclass(frozen=True)
class Finding:
    """How a need stands; `field`: what there is; `words`: what is wrong and what to do, '' if nothing is."""

    need: Need
    standing: Standing
    field: Field | None = None
    words: str = ""


# -- what must be there --


def kommo_needs(rules: Rules | None, ids: Mapping[str, int | None]) -> list[Need]:
    """Return the deal's fields; `ids`: by the variable that holds them. Without rules: ours alone."""
    written = rules.activities.deal_fields if rules else ()
    values = {field.variable: field.values for field in written}
    own = [
        Need(KOMMO, str(ids[variable] or ""), name, TEXTS, values.get(variable, ()), "text", variable)
        for variable, name in DEAL_FIELDS.items()
    ]
    named = [Need(KOMMO, str(field.id), "", TEXTS, field.values) for field in written if not field.variable]
    return own + named


def encharge_needs(rules: Rules | None) -> list[Need]:
    """Return the person's fields at Encharge. Without rules: ours alone."""
    own = [Need(ENCHARGE, name, title, ("string", "any"), kind="string") for name, title in ENCHARGE_FIELDS.items()]
    mapped = [
        Need(ENCHARGE, name, _title(name), kind="number" if row.source == "lead.price" else "string")
        for row in (rules.fields if rules else ())
        if (name := row.target(Source.ENCHARGE))
    ]
    return own + mapped


def ortto_needs(rules: Rules | None) -> list[Need]:
    """Return the person's fields and the activities at Ortto. Without rules: ours alone."""
    own = [Need(ORTTO, field_id, name, kind="text") for field_id, name in ORTTO_FIELDS.items()]
    mapped = [
        _mapped(name, row.source) for row in (rules.fields if rules else ()) if (name := row.target(Source.ORTTO))
    ]
    told = [stage.events.get(Source.ORTTO) for stage in rules.stages] if rules else [CRM_STAGE_CHANGED]
    activities = filter(None, told)
    return [*own, *mapped, *(need for one in dict.fromkeys(activities) for need in _activity(one))]


def _mapped(field_id: str, source: str) -> Need:
    prefix, space, slug = field_id.split(":")
    types: tuple[str, ...] = ()
    kind = ORTTO_TYPES.get(prefix, "") if space else ""  # Ortto's own cannot be made
    if prefix == "int":
        types = MONEY if source == "lead.price" else ("integer",)
        kind = kind and types[0]
    return Need(ORTTO, field_id, _title(slug), types, kind=kind)


def _activity(activity_id: str) -> list[Need]:
    name = activity_id.rpartition(":")[2]
    attributes = [Need(ORTTO, one, _slug(one), types, of=activity_id) for one, types in ATTRIBUTES.items()]
    return [Need(ORTTO, activity_id, name, (ACTIVITY,), kind=ACTIVITY), *attributes]


def attribute_types() -> dict[str, str]:
    """Return the attributes with which an activity is made: name → type."""
    return {_slug(one): types[0] if types else "text" for one, types in ATTRIBUTES.items()}


def _slug(field_id: str) -> str:
    return field_id.rpartition(":")[2]


def _title(name: str) -> str:
    """Return a name as people write it: `job-title` and `jobTitle` are Job title."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-_]+", " ", name).strip()
    return words[:1].upper() + words[1:].lower()


# -- how it stands --


def findings(needs: Sequence[Need], fields: Iterable[Field]) -> list[Finding]:
    """Compare what is needed with what an account has. What is part of something missing is not told of."""
    known = list(fields)
    found = [_finding(need, known) for need in needs]
    there = {finding.need.id for finding in found if finding.field is not None}
    return [finding for finding in found if not finding.need.of or finding.need.of in there]


def differences(needs: Sequence[Need], made: Sequence[Field]) -> list[str]:
    """Return how what was made differs from what our code writes, and what to do; empty: it does not."""
    return [
        _by_another_id(finding.need, made[0])
        if finding.standing == Standing.MISSING and not finding.need.of and made
        else finding.words
        for finding in findings(needs, made)
        if finding.words
    ]


def _finding(need: Need, known: Sequence[Field]) -> Finding:
    field = next((one for one in known if (one.of, one.id) == (need.of, need.id)), None)
    if field:
        wrong = _wrong_type(need, field)
        return Finding(need, Standing.WRONG if wrong else Standing.FOUND, field, wrong)
    twins = [one for one in known if _is_twin(need, one)]
    if not twins:
        return Finding(need, Standing.MISSING, None, _missing(need))
    if need.vendor != KOMMO:
        return Finding(need, Standing.WRONG, twins[0], _by_another_id(need, twins[0]))
    twin = next((one for one in twins if not _wrong_type(need, one)), None)
    if twin:
        return Finding(need, Standing.UNNAMED, twin, _unnamed(need, twin))
    return Finding(need, Standing.WRONG, twins[0], _wrong_type(need, twins[0]))


def _is_twin(need: Need, field: Field) -> bool:
    """Say whether something has our name, and so is what we mean, or stands in the way of it."""
    if field.of != need.of or (field.type == ACTIVITY) != (need.kind == ACTIVITY):
        return False
    if need.id in ENCHARGE_FIELDS:
        return False  # made under exactly our id, whatever else has that title
    if need.vendor == ORTTO and ":cm:" not in field.id:
        return False  # Ortto's own, or a company's
    return field.name.casefold() == need.name.casefold()


def _wrong_type(need: Need, field: Field) -> str:
    """Return what is wrong with a field's type, '' if it will do."""
    if not need.types or field.type in need.types:
        return ""
    if need.vendor == KOMMO and field.type in CHOICES and need.values:
        unknown = [value for value in need.values if value not in field.options]
        if not unknown:
            return ""
        return (
            f"{need} ({field.id}) is a choice without the option {', '.join(unknown)}: Kommo refuses what is none. "
            "Add it there, or take a text field."
        )
    return (
        f"{need} is of type {field.type} and must be {' or '.join(need.types)}: its type cannot be changed. "
        + _otherwise(need)
    )


def _otherwise(need: Need) -> str:
    if need.variable:
        return f"Rename it in Kommo, run `flask setup`, and set {need.variable} to the new field's id."
    if need.of:
        return "Delete the attribute in Ortto and add it to the activity again with that type."
    if need.vendor == KOMMO:
        return "Name another field in the mapping file (actions)."
    if need.id in {*ENCHARGE_FIELDS, *ORTTO_FIELDS} or need.kind == ACTIVITY:
        return f"Rename or delete it in {need.vendor.title()}, and run `flask setup`."
    return "Name another field in the mapping file (fields), or delete it there and run `flask setup`."


def _by_another_id(need: Need, field: Field) -> str:
    """Return what to do about something that has our name and not our id."""
    words = f"{need.vendor.title()} knows '{field.name}' as {field.id}, and we write {need.id}."
    if need.of or need.id in {*ENCHARGE_FIELDS, *ORTTO_FIELDS} or need.id == CRM_STAGE_CHANGED:
        words += f" Delete it, or give it another name, in {need.vendor.title()}, and make it anew: `flask setup`."
    else:
        words += f" Write {field.id} into the mapping file."
    return words


def _unnamed(need: Need, field: Field) -> str:
    if not need.id:
        return f"{need.variable} is not set, so it is not written: put {field.id} there."
    return f"{need.variable} is {need.id}, which is no deal field in Kommo: put {field.id} there."


def _missing(need: Need) -> str:
    where = f"{need.vendor.title()} has no {need}"
    if need.variable and need.id:
        return f"{where}, and {need.variable} is {need.id}, which is no deal field there: run `flask setup`."
    if need.kind:
        return f"{where}: run `flask setup`."
    if need.of:
        return f"{where}: add it to the activity in Ortto, type {need.types[0] if need.types else 'text'}."
    part = "actions" if need.vendor == KOMMO else "fields"
    return f"{where}: make it there, or correct the mapping file ({part})."
