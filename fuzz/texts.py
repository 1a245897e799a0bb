"""A template of the mapping file, and what strangers write into it: it is filled in once, and never again.

An input is the template, and behind `%%` the words of the campaign, the link, the names and the fields.
"""

from __future__ import annotations

import re

from pydantic import ValidationError

from app.events import Action, Kind, Response, Source
from app.mapping import Rules
from app.mapping.rows import MappingRows
from app.mapping.texts import flat
from fuzz.oracles import storable
from fuzz.plans import CANARY, FIELDS, check_event, contexts, email_event

LONGEST_VALUE = 255


def check(data: bytes) -> None:
    """Fill in a template; fail if it raises, or shows an address that it does not ask for."""
    template, _, foreign = data.decode("utf-8", "surrogateescape").partition("%%")
    rules = _rules(template)
    if rules is None:
        return
    for context in contexts(foreign):
        for kind, source in ((Kind.EMAIL_CLICKED, Source.ENCHARGE), (Kind.UNSUBSCRIBED, Source.ORTTO)):
            event = email_event(kind, source, foreign)
            check_event(rules, event, context)
            plan = rules.plan(event, context, ())
            if not isinstance(plan, str):
                for owed in plan:
                    assert isinstance(owed.plan, Response)
                    for action in owed.plan.actions:
                        _check_text(action, template, foreign)


def _check_text(action: Action, template: str, foreign: str) -> None:
    if action.kind == "field":
        storable(action.text, LONGEST_VALUE)
    if "{email}" not in template and "canary" not in (template + foreign).lower():
        assert CANARY not in action.text, f"a value was read as a placeholder: {action.text!r}"
    # Without its placeholders a template comes out as it is, but for spaces at the ends of lines.
    if "{" not in template and action.kind == "note":
        assert re.sub(r"\s+", "", action.text) == re.sub(r"\s+", "", template)
    if template.strip() == "{campaign}" and action.kind == "note" and flat(foreign):
        assert action.text == flat(foreign)


def _rules(template: str) -> Rules | None:
    """Return rules whose texts are the template; None if it is refused."""
    file = {
        "rules": [{"do": ["a", "b", "c"]}],
        "without_active_deal": "contact",
        "actions": {
            "a": {"note": {"text": template}},
            "b": {"task": {"text": template}},
            "c": {"field": {"id": 5, "value": template}},
        },
    }
    try:
        return Rules(MappingRows.model_validate(file), FIELDS)
    except ValidationError as error:
        for fault in error.errors():
            assert fault["type"] == "value_error", fault
        return None
