"""`flask explain`: what would happen now, and what did."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import click

from app.addresses import clean_email
from app.cli.backfill import StageName
from app.cli.options import as_time
from app.clients.errors import ApiError
from app.clients.rehearsal import WireCall
from app.events import (
    PLATFORMS,
    Action,
    Contact,
    Context,
    EmailActivity,
    Kind,
    Response,
    Source,
    StageChange,
    StageNews,
    State,
    Webhook,
)
from app.explain import Deed, Explainer, Outlook, Past
from app.journal import JobStory, Search
from app.mapping import Stage
from app.mapping.rows import EMAIL_KINDS, EMAIL_SOURCES

LABEL = 11  # characters of a line's label
WOULD = {
    "done": "would be delivered",
    "skipped": "would be skipped",
    "ignored": "would be ignored",
    "failed": "cannot be delivered now",
    "pending": "would wait",
}
OF_LEADS = ("stage", "status", "pipeline")
OF_EMAILS = ("event", "source", "campaign", "subject", "link", "deal")


def make_command(stages: Callable[[], Sequence[Stage]], make: Callable[[], Explainer]) -> click.Command:
    """Build the command; `stages`: those of the mapping file."""

    @click.command("explain")
    @click.option("--lead", type=click.IntRange(1), help="A Kommo deal: pretend that it enters its stage now.")
    @click.option("--stage", type=StageName(stages), help="With --lead: pretend this stage of the mapping file.")
    @click.option("--status", type=click.IntRange(1), help="With --lead: pretend the stage with this Kommo id.")
    @click.option("--pipeline", type=click.IntRange(1), help="With --status: in the pipeline with this Kommo id.")
    @click.option("--email", help="A person's address: pretend that they do something with an email now.")
    @click.option("--event", type=click.Choice(EMAIL_KINDS), help="With --email: what they do. Default: each.")
    @click.option("--source", type=click.Choice(EMAIL_SOURCES), help="With --email: who tells it. Default: each.")
    @click.option("--campaign", default="", help="With --email: the broadcast's name; at Ortto the subject.")
    @click.option("--subject", default="", help="With --email: the email's subject.")
    @click.option("--link", default="", help="With --email: the link that they click.")
    @click.option("--deal", type=click.IntRange(1), help="With --email: the deal that the webhook names.")
    @click.option(
        "--limit", type=click.IntRange(0), default=10, show_default=True, help="At most so many past events."
    )
    @click.option("--json", "as_json", is_flag=True, help="All as one JSON object; bodies to the last byte.")
    def explain(lead: int | None, email: str | None, limit: int, as_json: bool, **options: Any) -> None:
        """Say what would happen to a deal or a person now, call by call, and what did happen.

        Nothing is written: what would be is shown and not sent, and the journal stays as it is. What the vendors
        know is read for real; at Kommo that counts within its limit.

        \b
        flask explain --lead 41500011
        flask explain --lead 41500011 --stage won
        flask explain --email ann@example.com
        flask explain --email ann@example.com --event email_clicked --source encharge --campaign "Pricing May"
        """
        _check(lead, email, options)
        explainer = make()
        told: dict[str, Any] = {}
        if lead is not None:
            told["lead"] = lead
            outlooks, trouble = _of_lead(explainer, lead, options)
            search = Search(lead_id=lead, limit=limit)
        else:
            address = clean_email(email or "")
            if not address:
                raise click.UsageError(f"--email is no address: {email!r}.")
            told["email"] = address
            outlooks, trouble = _of_email(explainer, address, options)
            search = Search(email=address, limit=limit)
        past = explainer.past(search) if limit else []
        told |= {
            "trouble": trouble,
            "paused": explainer.pauses(),
            "now": [_outlook_json(outlook) for outlook in outlooks],
            "past": [_past_json(item) for item in past],
        }
        if as_json:
            click.echo(json.dumps(told, ensure_ascii=False))
        else:
            for line in _page(told, outlooks, past):
                click.echo(line)

    return explain


def _check(lead: int | None, email: str | None, options: Mapping[str, Any]) -> None:
    if (lead is None) == (email is None):
        raise click.UsageError("Say --lead ID or --email ADDRESS, one of them.")
    strange = [name for name in (OF_EMAILS if email is None else OF_LEADS) if options[name]]
    if strange:
        raise click.UsageError(f"--{strange[0]} does not go with --{'lead' if email is None else 'email'}.")
    if options["stage"] and (options["status"] or options["pipeline"]):
        raise click.UsageError("Say --stage or --status, one of them.")
    if options["pipeline"] and not options["status"]:
        raise click.UsageError("--pipeline goes with --status.")


# -- what is pretended --


def _of_lead(explainer: Explainer, lead_id: int, options: Mapping[str, Any]) -> tuple[list[Outlook], str]:
    """Return what would come of the deal's stage, and why that cannot be said."""
    pipeline_id, status_id = options["pipeline"], options["status"]
    if status_id is None:
        try:
            lead = explainer.lead(lead_id)
        except ApiError as error:
            return [], f"{error}. So it is not known in which stage the deal is, and what would come of it."
        if lead is None:
            return [], f"Kommo has no deal {lead_id}, or it is deleted: nothing would be sent for it."
        pipeline_id, status_id = lead.pipeline_id, lead.status_id
        if name := options["stage"]:
            # The one of the deal's pipeline goes first.
            named = [stage for stage in explainer.stages if stage.name == name]
            near = [stage for stage in named if stage.pipeline_id in (lead.pipeline_id, None)]
            stage = (near or named)[0]
            pipeline_id, status_id = stage.pipeline_id or lead.pipeline_id, stage.status_id
    return [explainer.stage_change(StageChange(lead_id, status_id, pipeline_id))], ""


def _of_email(explainer: Explainer, email: str, options: Mapping[str, Any]) -> tuple[list[Outlook], str]:
    kinds = [options["event"]] if options["event"] else EMAIL_KINDS
    told_by = [options["source"]] if options["source"] else explainer.platforms
    activity = EmailActivity(
        email=email,
        lead_id=options["deal"],
        campaign=options["campaign"],
        subject=options["subject"],
        link=options["link"] or None,
    )
    wanted = [(Source(source), Kind(kind)) for source in told_by for kind in kinds]
    return explainer.email_activities(wanted, activity), ""


# -- as JSON --


def _stage_json(stage: Stage) -> dict[str, Any]:
    told: dict[str, Any] = asdict(stage)
    events = told.pop("events")
    return {**told, **{platform.value: events.get(platform) for platform in PLATFORMS}}


def _webhook_json(webhook: Webhook) -> dict[str, str]:
    return {
        "path": f"/webhooks/{webhook.source}",
        "content_type": webhook.content_type,
        "body": webhook.body.decode(),
    }


def _outlook_json(outlook: Outlook) -> dict[str, Any]:
    event = outlook.event
    return {
        "event": {"source": event.source, "kind": event.kind, "data": asdict(event.data)},
        "webhook": _webhook_json(outlook.webhook),
        "state": outlook.state,
        "reason": outlook.reason,
        "stage": outlook.stage and _stage_json(outlook.stage),
        "context": outlook.context and asdict(outlook.context),
        "candidates": [asdict(item) for item in outlook.candidates],
        "unsubscribed_at": list(outlook.unsubscribed_at),
        "rules": [asdict(rule) for rule in outlook.rules],
        "left_out": dict(outlook.left_out),
        "calls": [asdict(call) for call in outlook.calls],
        "deeds": [asdict(deed) for deed in outlook.deeds],
        "notes": list(outlook.notes),
    }


def _past_json(past: Past) -> dict[str, Any]:
    known = past.particulars
    return {
        **asdict(past.story),
        "occurred_at": known.occurred_at,
        "data": asdict(known.data),
        "context": known.context and asdict(known.context),
    }


# -- for people --


def _page(told: Mapping[str, Any], outlooks: Sequence[Outlook], past: Sequence[Past]) -> Iterator[str]:
    yield "WHAT WOULD HAPPEN NOW: reads were made, nothing was written or sent"
    if told["trouble"]:
        yield f"  {told['trouble']}"
    for vendor, words in told["paused"].items():
        yield f"  {vendor} is left alone {words}. What is sent to it waits so long."
    if any(job.state == State.PENDING for item in past for job in item.story.jobs):
        yield "  Jobs of it are still waiting, see below: they go first."
    alone = len(outlooks) == 1
    person: Context | None = None
    for outlook in outlooks:
        yield ""
        yield from _outlook(outlook, known=person, alone=alone)
        person = outlook.context or person
    yield ""
    yield "WHAT DID HAPPEN, oldest first"
    if not past:
        yield "  The journal has no event of it."
    for item in past:
        yield ""
        yield from _past(item)


def _outlook(outlook: Outlook, *, known: Context | None, alone: bool) -> Iterator[str]:
    """Show what would come of a webhook; `known`: what was shown before need not be said again."""
    yield f"{_title(outlook)}: {WOULD[outlook.state]}{f': {outlook.reason}' if outlook.reason else ''}"
    yield _line("webhook", f"POST /webhooks/{outlook.webhook.source} {outlook.webhook.body.decode()}")
    if isinstance(outlook.event.data, StageChange):
        yield _line("stage", _stage(outlook))
    if outlook.context and not (known and replace(known, read_at=outlook.context.read_at) == outlook.context):
        yield from _found(outlook, outlook.context)
    # Of many activities, a rule for another one says nothing new.
    shown = [rule for rule in outlook.rules if alone or not any(map(_is_for_another, rule.unmet))]
    yield from _rules(shown)
    yield from _labelled("left out", [f"{name}: {why}" for name, why in outlook.left_out.items()])
    yield from _labelled("cooldown", outlook.notes)
    yield from _calls(outlook.calls)
    for deed in outlook.deeds:
        yield from _deed(deed)


def _is_for_another(unmet: str) -> bool:
    return unmet.startswith(("event:", "source:"))


def _found(outlook: Outlook, context: Context) -> Iterator[str]:
    yield from _context(context)
    yield from _labelled("deals", [f"{item.lead_id} {item.name}: {item.why}" for item in outlook.candidates])
    if isinstance(outlook.event.data, EmailActivity):
        where = " and ".join(source.title() for source in outlook.unsubscribed_at)
        yield _line("consent", f"unsubscribed at {where}" if where else "no platform told of an unsubscription")


def _title(outlook: Outlook) -> str:
    event = outlook.event
    if isinstance(event.data, StageChange):
        return f"deal {event.data.lead_id} enters stage {event.data.status_id}"
    campaign = f" in '{event.data.campaign}'" if event.data.campaign else ""
    return f"{event.kind} at {event.source.title()}{campaign}"


def _stage(outlook: Outlook) -> str:
    change, stage = outlook.event.data, outlook.stage
    assert isinstance(change, StageChange)  # noqa: S101 - asked for before
    where = f"{change.status_id} of pipeline {change.pipeline_id}" if change.pipeline_id else f"{change.status_id}"
    if stage is None:
        return f"{where}: not in the mapping file"
    told = (f"{platform.title()}: {stage.events.get(platform, 'nothing')}" for platform in PLATFORMS)
    return f"{where}: {stage.name} ('{stage.label}'), {', '.join(told)}"


def _context(context: Context | None) -> Iterator[str]:
    if context is None:
        return
    if lead := context.lead:
        where = f"stage {lead.status_id} of pipeline {lead.pipeline_id}"
        yield _line("deal", f"{lead.id} {lead.name}, in {where}, worth {lead.price}")
    else:
        yield _line("deal", "none")
    yield _line("contact", _contact(context.contact))


def _contact(contact: Contact | None) -> str:
    if contact is None:
        return "none"
    return f"{contact.id} {contact.name}, {', '.join(contact.emails) or 'no valid email'}"


def _rules(rules: Sequence[Any]) -> Iterator[str]:
    words = [
        f"{rule.number} matches: {', '.join(rule.do)}"
        if not rule.unmet
        else f"{rule.number} does not match ({_when(rule.when)}): {'; '.join(rule.unmet)}"
        for rule in rules
    ]
    yield from _labelled("rules", words)


def _when(when: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in when.items()) or "always"


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " or ".join(map(_plain, value))
    if isinstance(value, dict):
        return " and ".join(f"{name} {_plain(words)}" for name, words in value.items())
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _deed(deed: Deed) -> Iterator[str]:
    yield f"  {deed.lane}: {WOULD[deed.state]}{f': {deed.reason}' if deed.reason else ''}"
    if isinstance(deed.plan, StageNews):
        yield _line("person", f"{deed.plan.email}, {deed.plan.first_name} {deed.plan.last_name}".rstrip(" ,"))
        yield _line("event", deed.plan.event)
    if isinstance(deed.plan, Response):
        for action in deed.plan.actions:
            yield _line(action.name, f"{action.kind}{_whereto(action)}: {deed.steps.get(action.name, '')}")
            yield from _labelled("", [f"  {line}" for line in action.text.splitlines()])
    yield from _calls(deed.calls)


def _whereto(action: Action) -> str:
    if action.kind == "field":
        return f" {action.field_id}"
    return f" on the {'deal' if action.on == 'lead' else action.on}"


def _calls(calls: Sequence[WireCall]) -> Iterator[str]:
    for call in calls:
        if not call.caught:
            yield _line("read", f"{call.method} {call.url} → {call.status or call.trouble}")
            continue
        yield _line("would send", f"{call.method} {call.url}")
        yield _line("", "; ".join(f"{name}: {value}" for name, value in call.headers.items()))
        if call.body:
            body = json.dumps(json.loads(call.body), ensure_ascii=False, indent=2)
            yield from _labelled("", body.splitlines())


def _past(past: Past) -> Iterator[str]:
    story, known = past.story, past.particulars
    yield f"event {story.id}: {story.kind} from {story.source.title()} of {story.order_key}"
    happened = f", happened {as_time(known.occurred_at)}" if known.occurred_at else ""
    yield _line("received", f"{as_time(story.received_at)} UTC{happened}")
    yield _line("said", ", ".join(f"{name} {value}" for name, value in asdict(known.data).items() if value))
    yield from _context(known.context)
    for job in story.jobs:
        yield _line(job.lane, _job(job))
        yield from _labelled("", [f"{name}: {note}" for name, note in job.steps.items()])
        yield from _labelled("", [f"{as_time(one.at)} {one.outcome}: {one.words}" for one in job.failures])


def _job(job: JobStory) -> str:
    words = job.state.value
    if job.attempts:
        words += f", {job.attempts} failed attempt{'s' if job.attempts > 1 else ''}"
    if job.state == State.PENDING:
        words += f", due {as_time(job.due_at)} UTC"
    return f"{words}: {job.reason}" if job.reason else words


def _line(label: str, words: str) -> str:
    return f"  {label:<{LABEL}}{words}" if len(label) < LABEL else f"  {label} {words}"


def _labelled(label: str, lines: Sequence[str]) -> Iterator[str]:
    for number, words in enumerate(lines):
        yield _line(label if number == 0 else "", words)
