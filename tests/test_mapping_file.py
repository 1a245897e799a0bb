"""The mapping file: the shipped one is right, and every mistake is named with its line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from app.mapping import MappingError, Stage, load
from app.mapping.file import LARGEST_FILE

SHIPPED = Path(__file__).parent.parent / "config" / "mapping.yaml"
VARIABLES = {"KOMMO_CF_EMAIL_ACTIVITY": 800301, "KOMMO_CF_EMAIL_STATUS": 800302}


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Give what is wrong with a text, the file's name left out."""
    monkeypatch.chdir(tmp_path)

    def find(content: str | bytes) -> list[str]:
        path = Path("mapping.yaml")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(MappingError) as refusal:
            load(path, VARIABLES)
        assert str(refusal.value) == "\n".join(refusal.value.faults)
        assert all(fault.startswith("mapping.yaml ") for fault in refusal.value.faults)
        return [fault.removeprefix("mapping.yaml ") for fault in refusal.value.faults]

    return find


def stage(rest: str) -> str:
    return f"version: 1\nstages:\n  - stage: qualified\n    status: 5\n    {rest}\n"


def field(rest: str) -> str:
    return f"version: 1\nfields:\n  - {rest}\n"


def rule(rest: str) -> str:
    return f"version: 1\nrules:\n  - {rest}\nactions:\n  note: {{note: {{text: Hello}}}}\n"


def hours(rest: str) -> str:
    return f"version: 1\nworking_hours: {{{rest}}}\n"


def action(rest: str) -> str:
    return f"version: 1\nactions:\n  ping:\n    {rest}\n"


ORTTO_GRAMMAR = (
    "line 3: fields[0].ortto must be a field's id at Ortto like str:cm:job-title or phn::phone, not {!r} "
    "(types: str txt int bol dtz tme phn geo sst obj)."
)
ACTIVITY = (
    "line 5: stages[0].ortto must be an activity's id like act:cm:crm-stage-changed, or false for not to Ortto."
)
EVENT_NAME = "line 5: stages[0].encharge must be an event's name without commas, or false for not to Encharge."
FROM = (
    "line 3: fields[0].from cannot be {!r}: write lead.price, company.name, or lead., contact. or company. "
    "with a field's code or id."
)
ONE_KIND = "line 3: actions.ping must be exactly one of task, note, field, tag, untag."
DUE = "line 4: actions.ping.task.due_in must be a time of at most a year like 30m, 2h or 1d, not {!r}."
TOO_SOON = (
    "line 4: actions.ping.task.due_in must be at least a minute: "
    "a task that is due when it is made is overdue when it is seen."
)
PLACEHOLDERS = (
    "email, name, first_name, last_name, campaign, subject, link, event, did, platform, source, time, lead, "
    "lead_id, price, stage"
)
KOMMO_SOURCE = (
    "line 3: rules[0].when.field.{0} cannot be {0!r}: write lead.price, company.name, "
    "or lead., contact. or company. with a field's code or id."
)
ZONE = "line 2: time_zone must be a time zone like Europe/Berlin, not {!r}"
DAYS = "line 2: working_hours.days must be days like mon-fri, or a list like [mon, wed]."
CLOCK = "line 2: working_hours.{} must be a time of the day like 09:30, not {!r}."
FLAG = "line 3: rules[0].when.first must be true or false, without quotes."
ASSIGNEE = "line 4: actions.ping.task.assign_to "
KINDS = "email_opened, email_clicked, unsubscribed, resubscribed, bounced, journey_completed"
ALIAS = "line 4: & and * (anchors and aliases) are not allowed; write it out, or quote the text."
INVALID = "not valid YAML ({}); look at the indentation, colons and quotes here and just above."

BAD = {
    "another version": ("version: 2\n", "line 1: version must be 1: this is the only version there is."),
    "a version that is no number": (
        "version: yes\n",
        "line 1: version must be 1: this is the only version there is.",
    ),
    "an empty file": ("", "line 1: the file must begin with `version: 1` and hold keys such as stages."),
    "a list": ("- stage\n", "line 1: the file must begin with `version: 1` and hold keys such as stages."),
    "an unknown section": ("version: 1\nstage: []\n", "line 2: stage is not a key we know; did you mean 'stages'?"),
    "a section of the wrong form": (
        "version: 1\nstages:\n  stage: qualified\n",
        "line 2: stages must be a list: each item on a line of its own, after a dash.",
    ),
    "actions as a list": (
        "version: 1\nactions:\n  - note\n",
        "line 2: actions must hold keys with values below it.",
    ),
    "a tab": ("version: 1\nstages:\n\t- stage: a\n", "line 3: a tab; indent with spaces."),
    "a wrong indentation": (
        "version: 1\nstages:\n  - stage: a\n   status: 5\n",
        "line 4: " + INVALID.format("expected <block end>, but found '<block mapping start>'"),
    ),
    "a quote left open": (
        'version: 1\nstages:\n  - stage: "a\n',
        "line 4: " + INVALID.format("found unexpected end of stream"),
    ),
    "a control character": (
        "version: 1\n# \x07\n",
        "line 2: a control character; delete it and type the line anew.",
    ),
    "another encoding": (
        "version: 1\n# größe\n".encode("latin-1"),
        "line 2: not UTF-8 text; save the file as UTF-8.",
    ),
    "two documents": (
        "version: 1\n---\nversion: 1\n",
        "line 2: " + INVALID.format("but found another document"),
    ),
    "an anchor": ("version: 1\nstages:\n  - stage: a\n    label: &a A\n", ALIAS),
    "an alias": ("version: 1\nfields: []\nstages:\n  - label: *a\n", ALIAS),
    "a tag of YAML": (
        "version: 1\nstages: !!python/object:os.system []\n",
        "line 2: ! (a YAML tag) is not allowed; delete it, or quote the text.",
    ),
    "a character that is none": (
        stage(r'label: "\Uffffffff"'),
        "line 5: a number that is too large for YAML; write the character or text itself.",
    ),
    "a version of 5000 digits": (
        f"# a\n%YAML 1.{'1' * 5000}\n---\nversion: 1\n",
        "line 2: a number that is too large for YAML; write the character or text itself.",
    ),
    "a NUL in a label": (
        stage(r'label: "a\0b"'),
        r"line 5: stages[0].label has the control character '\x00': delete it.",
    ),
    "half a character in a template": (
        action(r'note: {text: "Call \ud800"}'),
        r"line 4: actions.ping.note.text has the control character '\ud800': delete it.",
    ),
    "a terminal's escape in an event's name": (
        stage(r'encharge: "\e[31m"'),
        r"line 5: stages[0].encharge has the control character '\x1b': delete it.",
    ),
    "a key with a line break": (
        'version: 1\n"a\\nb": 1\n',
        "line 2: a�b is not a key we know; known are version, time_zone, working_hours, one_signal, "
        "without_active_deal, stages, stage_events, fields, rules, actions.",
    ),
    "a bottomless file": (f"version: 1\nstages: {'[' * 5000}", "line 2: nested more than 20 levels deep."),
    "too large a file": ("#" * (LARGEST_FILE + 1), "is larger than 1 MiB: that is no mapping file."),
    "a key of more than a word": (
        "version: 1\n? [a, b]\n: c\n",
        "line 1: the file has a key that is not plain text.",
    ),
    "a key twice": (
        stage("label: A\n    label: B"),
        "line 5: stages[0].label is there twice (lines 5 and 6); delete one.",
    ),
    "a key without a value": (
        stage("pipeline:"),
        "line 5: stages[0].pipeline has no value; fill it in or delete the line.",
    ),
    "a misspelt key": (stage("labell: A"), "line 5: stages[0].labell is not a key we know; did you mean 'label'?"),
    "an unknown key": (
        stage("colour: red"),
        "line 5: stages[0].colour is not a key we know; known are stage, status, pipeline, label, encharge, ortto.",
    ),
    "a stage without a status": ("version: 1\nstages:\n  - stage: a\n", "line 3: stages[0].status is missing."),
    "a stage without a name": ("version: 1\nstages:\n\n  - status: 1\n", "line 4: stages[0].stage is missing."),
    "a stage that is no row": (
        "version: 1\nstages:\n  - qualified\n",
        "line 3: stages[0] must hold keys with values below it.",
    ),
    "a stage in capitals": (
        "version: 1\nstages:\n  - stage: Proposal sent\n    status: 5\n",
        "line 3: stages[0].stage must be of a-z, 0-9 and _, not 'Proposal sent'.",
    ),
    "a status in quotes": (
        'version: 1\nstages:\n  - stage: a\n    status: "5"\n',
        "line 4: stages[0].status must be a whole number without quotes.",
    ),
    "a status that is no id": (
        "version: 1\nstages:\n  - stage: a\n    status: 0\n",
        "line 4: stages[0].status must be an id, a whole number above 0.",
    ),
    "a label that YAML takes for yes": (
        stage("label: Yes"),
        "line 5: stages[0].label must be text: put it in quotes.",
    ),
    "an empty label": (
        stage('label: " "'),
        "line 5: stages[0].label is empty: fill it in or delete the line.",
    ),
    "a label too long": (stage(f"label: {'x' * 256}"), "line 5: stages[0].label is longer than 255 characters."),
    "encharge: true": (stage("encharge: true"), EVENT_NAME),
    "an event with a comma": (stage('encharge: "a,b"'), EVENT_NAME),
    "ortto: true": (stage("ortto: true"), ACTIVITY),
    "an activity of another grammar": (stage("ortto: crm_stage_qualification"), ACTIVITY),
    "a stage twice": (
        stage("pipeline: 7") + "  - stage: other\n    status: 5\n    pipeline: 7\n",
        "line 6: stages[1] repeats status 5 of pipeline 7 (lines 3 and 6); delete one.",
    ),
    "a stage of every pipeline twice": (
        stage("label: A") + "  - {stage: other, status: 5}\n",
        "line 6: stages[1] repeats status 5 of every pipeline (lines 3 and 6); delete one.",
    ),
    "a field from nowhere": (field("encharge: jobTitle"), "line 3: fields[0].from is missing."),
    "a field of another entity": (
        field("{from: deal.price, encharge: price}"),
        FROM.format("deal.price"),
    ),
    "a field of nothing": (field("{from: contact, encharge: x}"), FROM.format("contact")),
    "a field that contacts have elsewhere": (
        field("{from: contact.name, encharge: x}"),
        "line 3: fields[0].from cannot be 'contact.name': contact takes a field's code or id there.",
    ),
    "a field that goes nowhere": (
        field("from: lead.price"),
        "line 3: fields[0] needs encharge or ortto: the field's name there.",
    ),
    "a field over our own": (
        field("{from: lead.X, encharge: kommo_lead_id}"),
        "line 3: fields[0].encharge cannot be 'kommo_lead_id': the relay or Encharge itself fills that one.",
    ),
    "a field over our own at Ortto": (
        field('{from: lead.X, ortto: "str:cm:kommo-stage"}'),
        "line 3: fields[0].ortto cannot be 'str:cm:kommo-stage': the relay fills that one.",
    ),
    "an Encharge field with a space": (
        field("{from: lead.X, encharge: job title}"),
        "line 3: fields[0].encharge must be a field's API name at Encharge like jobTitle, not 'job title'.",
    ),
    "an Ortto field without a type": (field("{from: lead.X, ortto: job-title}"), ORTTO_GRAMMAR.format("job-title")),
    "an Ortto field of an unknown type": (
        field('{from: lead.X, ortto: "dbl:cm:price"}'),
        ORTTO_GRAMMAR.format("dbl:cm:price"),
    ),
    "a target twice": (
        field("{from: lead.X, encharge: plan}\n  - {from: lead.Y, encharge: plan}"),
        "line 4: fields[1].encharge repeats 'plan' (lines 3 and 4); delete one.",
    ),
    "an unknown action": (
        rule("{when: {event: bounced}, do: [nte]}"),
        "line 3: rules[0].do[0] names no action: 'nte'; did you mean 'note'?",
    ),
    "an action that is nothing like any": (
        rule("do: [xyz]"),
        "line 3: rules[0].do[0] names no action: 'xyz'; known are note.",
    ),
    "an action where there are none": (
        "version: 1\nrules:\n  - do: [note]\n",
        "line 3: rules[0].do[0] names no action: 'note'; known are none.",
    ),
    "an unknown event": (
        rule("{when: {event: opened}, do: [note]}"),
        "line 3: rules[0].when.event[0] cannot be 'opened'; did you mean 'email_opened'?",
    ),
    "an event that is none of the contact's": (
        rule("{when: {event: stage_changed}, do: [note]}"),
        f"line 3: rules[0].when.event[0] cannot be 'stage_changed'; known are {KINDS}.",
    ),
    "an unknown source": (
        rule("{when: {source: [ortto, enchrage]}, do: [note]}"),
        "line 3: rules[0].when.source[1] cannot be 'enchrage'; did you mean 'encharge'?",
    ),
    "an empty word": (
        rule('{when: {campaign: [pricing, ""]}, do: [note]}'),
        "line 3: rules[0].when.campaign[1] is empty: fill it in or delete the line.",
    ),
    "no words": (
        rule("{when: {campaign: []}, do: [note]}"),
        "line 3: rules[0].when.campaign is an empty list: fill it in or delete the line.",
    ),
    "a number for a word": (
        rule("{when: {campaign: 2026}, do: [note]}"),
        "line 3: rules[0].when.campaign[0] must be text: put it in quotes.",
    ),
    "a misspelt condition": (
        rule("{when: {campain: x}, do: [note]}"),
        "line 3: rules[0].when.campain is not a key we know; did you mean 'campaign'?",
    ),
    "a rule that does nothing": (
        rule("{when: {event: bounced}, do: []}"),
        "line 3: rules[0].do is an empty list: fill it in or delete the line.",
    ),
    "a rule without do": (rule("when: {event: bounced}"), "line 3: rules[0].do is missing."),
    "an action of two kinds": (action("{note: {text: A}, tag: {name: B}}"), ONE_KIND),
    "an action of no kind": (action("{}"), ONE_KIND),
    "an action of an unknown kind": (
        action("tsk: {text: A}"),
        "line 4: actions.ping.tsk is not a key we know; did you mean 'task'?",
    ),
    "an action with an odd name": (
        "version: 1\nactions:\n  my note: {note: {text: A}}\n",
        "line 3: actions.my note must have a name of letters, digits, _ and - (64 at most).",
    ),
    "a misspelt key of a task": (
        action("task: {text: A, due: 2h}"),
        "line 4: actions.ping.task.due is not a key we know; did you mean 'due_in'?",
    ),
    "a task without a text": (action("task: {due_in: 2h}"), "line 4: actions.ping.task.text is missing."),
    "an unknown placeholder": (
        action("note: {text: 'Hi {frist_name}'}"),
        "line 4: actions.ping.note.text has an unknown placeholder {frist_name}; did you mean 'first_name'?",
    ),
    "a placeholder that is nothing like any": (
        action("note: {text: '{0}'}"),
        f"line 4: actions.ping.note.text has an unknown placeholder {{0}}; known are {PLACEHOLDERS}.",
    ),
    "a placeholder that reaches inside": (
        action("note: {text: '{email.__class__}'}"),
        f"line 4: actions.ping.note.text has an unknown placeholder {{email.__class__}}; known are {PLACEHOLDERS}.",
    ),
    "a brace left open": (
        action("note: {text: 'Hi {email'}"),
        "line 4: actions.ping.note.text has a brace without its partner: placeholders look like {email}.",
    ),
    "a text too long": (
        action(f"note: {{text: {'x' * 2001}}}"),
        "line 4: actions.ping.note.text is longer than 2000 characters.",
    ),
    "a time in words": (action("task: {text: A, due_in: two hours}"), DUE.format("two hours")),
    "a time of a clock": (action("task: {text: A, due_in: 1:30}"), DUE.format("1:30")),
    "a time too long": (action("task: {text: A, due_in: 366d}"), DUE.format("366d")),
    "a time too short": (action("task: {text: A, due_in: 0}"), TOO_SOON),
    "a negative cooldown": (
        action("task: {text: A, cooldown: -1}"),
        "line 4: actions.ping.task.cooldown must be a time of at most a year like 30m, 2h or 1d, not -1.",
    ),
    "a type in words": (
        action("task: {text: A, type: call}"),
        "line 4: actions.ping.task.type must be a whole number without quotes.",
    ),
    "an unknown assignee": (
        action("task: {text: A, assign_to: Ann}"),
        "line 4: actions.ping.task.assign_to must be owner (of the deal), a Kommo user's id, or one of them for "
        "each pipeline's id, not 'Ann'.",
    ),
    "a field by name": (
        action("field: {id: Status, value: A}"),
        "line 4: actions.ping.field.id must be a deal field's id or a variable like $KOMMO_CF_EMAIL_STATUS, "
        "not 'Status'.",
    ),
    "an unknown variable": (
        action("field: {id: $KOMMO_CF_EMAIL_STATE, value: A}"),
        "line 4: actions.ping.field.id names no variable we know: $KOMMO_CF_EMAIL_STATE; "
        "did you mean $KOMMO_CF_EMAIL_STATUS?",
    ),
    "a variable with a secret": (
        action("field: {id: $OPS, value: A}"),
        "line 4: actions.ping.field.id names no variable we know: $OPS; "
        "known are $KOMMO_CF_EMAIL_ACTIVITY, $KOMMO_CF_EMAIL_STATUS.",
    ),
    "a tag on a company": (
        action("tag: {on: company, name: A}"),
        "line 4: actions.ping.tag.on cannot be 'company'; known are lead, contact.",
    ),
    "a tag without a name": (
        action('untag: {on: lead, name: ""}'),
        "line 4: actions.ping.untag.name is empty: fill it in or delete the line.",
    ),
    "a tag with a placeholder": (
        action("tag: {name: 'Opened {campaign}'}"),
        "line 4: actions.ping.tag.name takes no placeholders: a tag has the same name for everybody.",
    ),
    "a time zone misspelt": (
        "version: 1\ntime_zone: Europe/Berln\n",
        ZONE.format("Europe/Berln") + "; did you mean 'Europe/Berlin'?",
    ),
    "a time zone in small letters": (
        "version: 1\ntime_zone: europe/berlin\n",
        ZONE.format("europe/berlin") + "; did you mean 'Europe/Berlin'?",
    ),
    "a time zone that is nothing like any": ("version: 1\ntime_zone: here\n", ZONE.format("here") + "."),
    "a time zone that is a path": (
        "version: 1\ntime_zone: ../../etc/hosts\n",
        ZONE.format("../../etc/hosts") + ".",
    ),
    "an empty time zone": (
        'version: 1\ntime_zone: ""\n',
        "line 2: time_zone is empty: fill it in or delete the line.",
    ),
    "a day misspelt": (
        hours('days: mon-fry, from: "09:00", to: "18:00"'),
        "line 2: working_hours.days has a day we do not know, 'fry'; did you mean 'fri'?",
    ),
    "a day in full": (
        hours('days: [tue, Monday], from: "09:00", to: "18:00"'),
        "line 2: working_hours.days has a day we do not know, 'monday'; did you mean 'mon'?",
    ),
    "a day by its number": (
        hours('days: [1], from: "09:00", to: "18:00"'),
        "line 2: working_hours.days has a day we do not know, '1'; known are mon, tue, wed, thu, fri, sat, sun.",
    ),
    "no days": (hours('days: [], from: "09:00", to: "18:00"'), DAYS),
    "days as a number": (hours('days: 5, from: "09:00", to: "18:00"'), DAYS),
    "hours that end before they begin": (
        hours('from: "18:00", to: "09:00"'),
        "line 2: working_hours ends before it begins: `from` must be earlier than `to`.",
    ),
    "hours that end as they begin": (
        hours('from: "09:00", to: "09:00"'),
        "line 2: working_hours ends before it begins: `from` must be earlier than `to`.",
    ),
    "hours without an end": (hours('from: "09:00"'), "line 2: working_hours.to is missing."),
    "hours that end after midnight": (hours('from: "09:00", to: "24:30"'), CLOCK.format("to", "24:30")),
    "hours as a number": (hours('from: 9, to: "18:00"'), CLOCK.format("from", 9)),
    "hours in one word": (
        "version: 1\nworking_hours: mon-fri\n",
        "line 2: working_hours must hold keys with values below it.",
    ),
    "a misspelt key of the working hours": (
        hours('form: "09:00", from: "09:00", to: "18:00"'),
        "line 2: working_hours.form is not a key we know; did you mean 'from'?",
    ),
    "one signal without a time": (
        "version: 1\none_signal: soon\n",
        "line 2: one_signal must be a time of at most a year like 30m, 2h or 1d, not 'soon'.",
    ),
    "nobody to tell without a deal": (
        "version: 1\nwithout_active_deal: note\n",
        "line 2: without_active_deal cannot be 'note'; known are skip, contact.",
    ),
    "due twice": (
        action('task: {text: A, due_in: 2h, due_at: "09:00"}'),
        "line 4: actions.ping.task has both due_in and due_at; delete one.",
    ),
    "due at no time": (
        action("task: {text: A, due_at: 9am}"),
        "line 4: actions.ping.task.due_at must be a time of the day like 09:30, not '9am'.",
    ),
    "an assignee for a pipeline's name": (
        action("task: {text: A, assign_to: {sales: owner}}"),
        ASSIGNEE + "has a pipeline that is neither an id nor `other`: 'sales'.",
    ),
    "an assignee's name for a pipeline": (
        action("task: {text: A, assign_to: {7100010: Ann}}"),
        ASSIGNEE + "must name owner or a Kommo user's id for 7100010, not 'Ann'.",
    ),
    "assignees in a list": (
        action("task: {text: A, assign_to: [owner]}"),
        ASSIGNEE + "must be owner (of the deal), a Kommo user's id, or one of them for each pipeline's id, "
        "not ['owner'].",
    ),
    "a cooldown for something else": (
        action("task: {text: A, cooldown_for: contact}"),
        "line 4: actions.ping.task.cooldown_for cannot be 'contact'; known are deal, kind.",
    ),
    "a choice misspelt": (
        action("task: {text: A, within_cooldown: extends}"),
        "line 4: actions.ping.task.within_cooldown cannot be 'extends'; did you mean 'extend'?",
    ),
    "gather is no time": (
        action("note: {text: A, gather: a while}"),
        "line 4: actions.ping.note.gather must be a time of at most a year like 30m, 2h or 1d, not 'a while'.",
    ),
    "a stage misspelt in a rule": (
        "version: 1\nstages: [{stage: proposal_sent, status: 5}]\n"
        "rules:\n  - when:\n      stage: [5, proposal_send]\n    do: note\nactions: {note: {note: {text: A}}}\n",
        "line 5: rules[0].when.stage[1] names no stage: 'proposal_send'; did you mean 'proposal_sent'?",
    ),
    "a stage in a rule where there are none": (
        rule("{when: {stage: won}, do: note}"),
        "line 3: rules[0].when.stage[0] names no stage: 'won'; known are none.",
    ),
    "a stage in a rule by its label": (
        rule("{when: {stage: Proposal sent}, do: note}"),
        "line 3: rules[0].when.stage[0] must be a stage's name from stages, or a Kommo status id, "
        "not 'Proposal sent'.",
    ),
    "a pipeline by its name": (
        rule("{when: {pipeline: Sales}, do: note}"),
        "line 3: rules[0].when.pipeline[0] must be a whole number without quotes.",
    ),
    "a pipeline that is no id": (
        rule("{when: {pipeline: [7100010, 0]}, do: note}"),
        "line 3: rules[0].when.pipeline[1] must be an id, a whole number above 0.",
    ),
    "an empty tag": (
        rule('{when: {tag: ""}, do: note}'),
        "line 3: rules[0].when.tag[0] is empty: fill it in or delete the line.",
    ),
    "no links": (
        rule("{when: {link: []}, do: note}"),
        "line 3: rules[0].when.link is an empty list: fill it in or delete the line.",
    ),
    "first in quotes": (rule('{when: {first: "true"}, do: note}'), FLAG),
    "first as a number": (rule("{when: {first: 1}, do: note}"), FLAG),
    "quiet without a time": (
        rule("{when: {quiet: long}, do: note}"),
        "line 3: rules[0].when.quiet must be a time of at most a year like 30m, 2h or 1d, not 'long'.",
    ),
    "a condition on a field of nothing": (
        rule("{when: {field: {deal.price: x}}, do: note}"),
        KOMMO_SOURCE.format("deal.price"),
    ),
    "a condition on a field that contacts have elsewhere": (
        rule("{when: {field: {contact.name: x}}, do: note}"),
        "line 3: rules[0].when.field.contact.name cannot be 'contact.name': "
        "contact takes a field's code or id there.",
    ),
    "a condition on a field without a word": (
        rule('{when: {field: {contact.POSITION: [CEO, " "]}}, do: note}'),
        "line 3: rules[0].when.field.contact.POSITION[1] is empty: fill it in or delete the line.",
    ),
    "a condition on a field, and no words at all": (
        rule("{when: {field: contact.POSITION}, do: note}"),
        "line 3: rules[0].when.field must hold keys with values below it.",
    ),
    "a placeholder of the contact that is none": (
        action("note: {text: '{contact.name}'}"),
        "line 4: actions.ping.note.text has an unknown placeholder {contact.name}; did you mean 'name'?",
    ),
    "a placeholder of the deal that is none": (
        action("note: {text: '{lead.name}'}"),
        "line 4: actions.ping.note.text has an unknown placeholder {lead.name}; did you mean 'lead'?",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_refused_with_its_line(faults, content: str | bytes, sentence: str) -> None:  # type: ignore[no-untyped-def]
    assert faults(content) == [sentence]


def test_all_mistakes_are_said_at_once_in_the_order_of_the_file(faults) -> None:  # type: ignore[no-untyped-def]
    content = (
        "version: 1\nstages:\n  - stage: A\n    status: x\n\n  - stage: b\n"
        "rules:\n  - when: {evnt: bounced}\n    do: 5\n"
    )
    assert faults(content) == [
        "line 3: stages[0].stage must be of a-z, 0-9 and _, not 'A'.",
        "line 4: stages[0].status must be a whole number without quotes.",
        "line 6: stages[1].status is missing.",
        "line 8: rules[0].when.evnt is not a key we know; did you mean 'event'?",
        "line 9: rules[0].do[0] must be text: put it in quotes.",
    ]


def test_a_sentence_is_not_as_long_as_the_file(faults) -> None:  # type: ignore[no-untyped-def]
    (sentence,) = faults(f"time_zone: {'x' * 100_000}\n")
    assert sentence.startswith("line 1: time_zone must be a time zone like Europe/Berlin, not 'xxx")
    assert sentence.endswith("x….")
    assert len(sentence) < 600


def test_no_more_mistakes_are_said_than_anybody_mends_at_once(faults) -> None:  # type: ignore[no-untyped-def]
    """Nor does a mistyped name cost more with every other name."""
    names = "".join(f"  n{number}: {{note: {{text: x}}}}\n" for number in range(1500))
    rules = "".join(f"  - {{do: name_{number}}}\n" for number in range(1500))
    begun = time.process_time()

    found = faults(f"actions:\n{names}rules:\n{rules}")

    assert time.process_time() - begun < 20
    assert len(found) == 100
    assert found[0] == "line 1503: rules[0].do[0] names no action: 'name_0'."


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    with pytest.raises(MappingError) as refusal:
        load(path, VARIABLES)
    assert refusal.value.faults == (f"{path} cannot be read (No such file or directory): see MAPPING_FILE.",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("version: 1\n", id="nothing but a version"),
        pytest.param("stages: []\n", id="no version"),
        pytest.param("version: 1\nstages:\n  # - stage: a\nfields:\nrules:\nactions:\n", id="all commented out"),
        pytest.param("\ufeffversion: 1\r\nfields: []\r\n", id="as Windows saves it"),
        pytest.param(
            stage("pipeline: 1") + "  - {stage: qualified, status: 6, pipeline: 1}\n", id="one name for two stages"
        ),
        pytest.param(stage("pipeline: 1") + "  - {stage: other, status: 5}\n", id="one pipeline, and all others"),
        pytest.param(action("task: {text: A, due_in: 90s, cooldown: 0, assign_to: 9}"), id="seconds"),
        pytest.param(action("tag: {on: lead, name: off}").replace("off", '"off"'), id="the key `on`"),
        pytest.param(
            rule("{when: {source: encharge, event: bounced, campaign: a}, do: note}"), id="one for a list"
        ),
        pytest.param(rule("do: [note]"), id="a rule for everything"),
    ],
)
def test_these_are_right(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_bytes(content.encode())
    load(path, VARIABLES)


def told(encharge: str | None = None, ortto: str | None = None) -> dict[str, str]:
    """Return what the platforms call a stage's event."""
    return {name: event for name, event in (("encharge", encharge), ("ortto", ortto)) if event}


def test_what_is_left_out_of_a_stage_has_a_default(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(
        "stages:\n"
        "  - {stage: demo, status: 5}\n"
        "  - {stage: demo, status: 6, pipeline: 7, label: Демо, encharge: demo, ortto: 'act:cm:demo'}\n"
        "  - {stage: demo, status: 8, encharge: false, ortto: no}\n",
        encoding="utf-8",
    )
    assert load(path, VARIABLES).stages == (
        Stage("demo", "demo", told("deal_moved_to_demo", "act:cm:crm-stage-changed"), 5, None),
        Stage("demo", "Демо", told("demo", "act:cm:demo"), 6, 7),
        Stage("demo", "demo", told(), 8, None),
    )


def test_the_shipped_file_has_the_stages_and_fields_of_the_example_account() -> None:
    rules = load(SHIPPED, VARIABLES)
    changed = "act:cm:crm-stage-changed"
    assert rules.stages == (
        Stage("qualified", "Qualification", told("deal_moved_to_qualified", changed), 61000102, 7100010),
        Stage("proposal_sent", "Proposal sent", told("deal_moved_to_proposal_sent", changed), 61000103, 7100010),
        Stage("negotiation", "Negotiation", told("deal_moved_to_negotiation", changed), 61000104, 7100010),
        Stage("won", "Won", told("deal_moved_to_won", changed), 142, None),
        Stage("lost", "Lost", told("deal_moved_to_lost", changed), 143, None),
    )
    assert [(field.source, field.encharge, field.ortto) for field in rules.fields] == [
        ("contact.POSITION", "jobTitle", "str:cm:job-title"),
        ("company.COMPANY_SIZE", "companySize", "int:cm:company-size"),
        ("company.INDUSTRY", "industry", "str:cm:industry"),
    ]
    assert (rules.fields_used, rules.needs_companies) == ({"POSITION", "COMPANY_SIZE", "INDUSTRY"}, True)


def test_the_commented_examples_of_the_shipped_file_are_right_too(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    example = text[text.index("  # - stage: qualified") : text.index("# -- Fields")]
    path = tmp_path / "mapping.yaml"
    path.write_text(text.replace(example, example.replace("  # ", "  ")), encoding="utf-8")
    assert load(path, VARIABLES).stages[-1] == Stage(
        "qualified", "Квалификация", told("deal_moved_to_qualified", "act:cm:crm-stage-changed"), 61000202, 7100020
    )
