"""The business rules: an event and what Kommo knows of it → what is owed to whom. Pure once loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from app.events import (
    LOST,
    PLATFORMS,
    WON,
    Context,
    EmailActivity,
    Event,
    Kind,
    Lane,
    Lead,
    Owed,
    Seen,
    Source,
    StageChange,
    StageNews,
)
from app.mapping.activity_rules import ActivityRules
from app.mapping.columns import COLUMNS, CRM_STAGE_CHANGED
from app.mapping.file import MappingError, check, read
from app.mapping.person_fields import kommo_value
from app.mapping.rows import FieldRow, MappingRows, StageRow
from app.mapping.texts import flat, person_names

__all__ = ["CRM_STAGE_CHANGED", "FieldRow", "MappingError", "Rules", "Stage", "load", "person_names"]

UNSEEN = Seen()


@dataclass(frozen=True)
class Stage:
    """A stage of Kommo; `events`: what each platform to which it goes calls it."""

    name: str
    label: str
    events: Mapping[Source, str]
    status_id: int
    pipeline_id: int | None  # None: in every pipeline


def load(path: Path, variables: Mapping[str, int | None]) -> Rules:
    """Read the mapping file; `variables` are the deal's custom fields that it may name with a `$`, None if unset.

    Raises MappingError with every fault, each with its line.
    """
    return Rules(read(path, variables), variables)


def parse(path: Path, text: str, variables: Mapping[str, int | None]) -> Rules:
    """Return the rules in the text of a mapping file, as `load` does; `path` is named in the faults."""
    return Rules(check(path, text, variables), variables)


class Rules:
    """What the mapping file says."""

    def __init__(self, rows: MappingRows, variables: Mapping[str, int | None]) -> None:
        self.stages = tuple(_stage(row) for row in rows.stages)
        self.fields = tuple(rows.fields)
        self.latest_only = frozenset(filter(rows.stage_events.latest_only, PLATFORMS))
        self._by_pair = {(stage.pipeline_id, stage.status_id): stage for stage in self.stages}
        self._by_status = {stage.status_id: stage for stage in self.stages}
        self.activities = ActivityRules(rows, variables, self._names)
        on_persons = {field.source for field in self.fields}
        keys = {source.partition(".")[2] for source in on_persons | self.activities.values_used}
        self.fields_used = frozenset(keys - {"price", "name"})
        self.needs_companies = _name_companies(on_persons)
        self.activities_need_companies = _name_companies(self.activities.values_used)

    def stage(self, pipeline_id: int | None, status_id: int) -> Stage | None:
        """Find a stage by its pipeline and status, then by its status alone.

        A webhook without a pipeline still finds its stage, since a status belongs to one pipeline; all but won and
        lost, which every pipeline has.
        """
        found = self._by_pair.get((pipeline_id, status_id)) or self._by_pair.get((None, status_id))
        if found or pipeline_id is not None or status_id in (WON, LOST):
            return found
        return self._by_status.get(status_id)

    def refusal(self, event: Event) -> str | None:
        """Say why an event needs nothing at all, or None if it does; decided before any network."""
        if event.kind == Kind.OTHER:
            name = event.data.name if isinstance(event.data, EmailActivity) else ""
            return f"'{flat(name)}' is not an event we act on"
        if isinstance(event.data, StageChange):
            return self._stage_refusal(event.data)
        return self.activities.refusal(event, event.data)

    def plan(
        self, event: Event, context: Context, lanes_on: Collection[Lane], seen: Seen = UNSEEN
    ) -> tuple[Owed, ...] | str:
        """Return what an event makes us owe, or why it is nothing; `seen`: what the person did before."""
        if isinstance(event.data, StageChange):
            return self._plan_stage(event.data, context, lanes_on)
        return self.activities.plan(event, event.data, context, seen)

    def current(self, lead: Lead, news: StageNews, lane: Lane) -> StageNews:
        """Return the news with the deal's stage of now for the person.

        A stage that is not in the mapping has no words for people: there the earlier ones stay.
        """
        stage = self.stage(lead.pipeline_id, lead.status_id)
        return replace(news, person_stage=_words(stage, Source(lane))) if stage else news

    def _names(self, pipeline_id: int, status_id: int) -> tuple[str, str]:
        """Return the name and the label of a stage, both "" if it is not mapped."""
        stage = self.stage(pipeline_id, status_id)
        return (stage.name, stage.label) if stage else ("", "")

    # -- stage changes --

    def _stage_refusal(self, change: StageChange) -> str | None:
        stage = self.stage(change.pipeline_id, change.status_id)
        if stage and not stage.events:
            return f"stage {stage.name} goes neither to {' nor to '.join(map(str.title, PLATFORMS))}"
        # Won or lost in a pipeline that only Kommo can tell: ask it.
        if stage or (change.pipeline_id is None and change.status_id in self._by_status):
            return None
        return _unmapped(change.pipeline_id, change.status_id)

    def _plan_stage(
        self, change: StageChange, context: Context, lanes_on: Collection[Lane]
    ) -> tuple[Owed, ...] | str:
        lead, contact = context.lead, context.contact
        if lead is None or lead.is_deleted:
            return f"deal {change.lead_id} is gone"
        pipeline_id = change.pipeline_id if change.pipeline_id is not None else lead.pipeline_id
        stage = self.stage(pipeline_id, change.status_id)
        if stage is None:
            return _unmapped(pipeline_id, change.status_id)
        if contact is None:
            return "the deal has no contact"
        if not contact.emails:
            return f"contact {contact.id} has no valid email"
        first_name, last_name = person_names(contact)
        owed = tuple(
            Owed(
                lane,
                f"lead:{lead.id}",
                StageNews(
                    lead_id=lead.id,
                    email=contact.emails[0],
                    first_name=first_name,
                    last_name=last_name,
                    stage=_words(stage, platform),
                    person_stage=_words(self.stage(lead.pipeline_id, lead.status_id) or stage, platform),
                    status_id=change.status_id,
                    pipeline_id=pipeline_id,
                    deal_value=lead.price,
                    event=name,
                    fields=self._person_fields(platform, context),
                    read_at=context.read_at,
                ),
            )
            for platform, name in stage.events.items()
            if (lane := Lane(platform)) in lanes_on
        )
        return owed or f"stage {stage.name} goes to no platform that is switched on"

    def _person_fields(self, platform: Source, context: Context) -> dict[str, object]:
        """Return the mapped fields that have a value, by the destination's names."""
        fields: dict[str, object] = {}
        for row in self.fields:
            name = row.target(platform)
            value = kommo_value(row.source, context)
            if name is None or value is None:
                continue
            value = COLUMNS[platform].value(name, row.source, value)
            if value is not None:
                fields[name] = value
        return fields


def _stage(row: StageRow) -> Stage:
    return Stage(
        name=row.stage,
        label=row.label or row.stage,
        events={platform: name for platform in PLATFORMS if (name := row.event(platform))},
        status_id=row.status,
        pipeline_id=row.pipeline,
    )


def _words(stage: Stage, platform: Source) -> str:
    """Return a stage as a platform knows it: a word for filters, or a label for people."""
    return stage.label if COLUMNS[platform].by_label else stage.name


def _unmapped(pipeline_id: int | None, status_id: int) -> str:
    where = "" if pipeline_id is None else f" of pipeline {pipeline_id}"
    return f"stage {status_id}{where} is not in the mapping"


def _name_companies(values: Iterable[str]) -> bool:
    return any(value.startswith("company.") for value in values)
