"""The stages of Kommo, written into the text of a mapping file; all that somebody else wrote there stays. Pure.

The text is edited at the places where YAML's parser saw the entries. A library that loads and writes YAML anew
would keep most comments, and change quotes, indentation and line endings that are none of our business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from anyascii import anyascii

from app.events import LOST, WON
from app.mapping.file import MappingError, compose, plain

GONE = "# no longer in Kommo"
LONGEST_NAME = 60  # characters of a stage's name; it becomes a part of an event's
LONGEST_LABEL = 255
EVERYWHERE = {WON: "won", LOST: "lost"}
EXAMPLE_PIPELINE = 7_100_010  # of the file as it is shipped
INDENT = 2

Edit = tuple[int, int, str]  # the text between two places of the old one becomes this


@dataclass(frozen=True)
class LiveStage:
    """A stage that Kommo has. `pipeline_id` None: in every pipeline. `listed`: whether it is one to add."""

    pipeline_id: int | None
    pipeline: str
    status_id: int
    name: str
    listed: bool = True


@dataclass
class Merged:
    """The new text, and what was done to the list."""

    text: str
    added: list[LiveStage] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)  # names of entries whose stage Kommo has not any more
    examples: list[str] = field(default_factory=list)  # names of the shipped entries, which were taken out
    commented_out: list[LiveStage] = field(default_factory=list)


def fresh(template: str) -> str:
    """Return the shipped file without its stages."""
    return re.sub(r"^stages:\n.*?(?=^# -- )", "stages:\n\n", template, count=1, flags=re.MULTILINE | re.DOTALL)


def merge(path: Path, text: str, live: Sequence[LiveStage]) -> Merged:
    """Add the stages that are not in the list yet, and mark those that Kommo has not any more.

    An entry that is commented out stays so. Raises MappingError if the text is not YAML, or if its list is written
    in a way that cannot be added to.
    """
    found = _List(path, text)
    merged = Merged(text)
    if found.rows and _are_examples(found.rows, live):
        merged.examples = [row.stage for row in found.rows]
        found = _List(path, found.without_rows())
    for stage in _lacking(live, found.rows):
        silenced = re.search(rf"#.*\bstatus:[ \t]*{stage.status_id}\b", found.text)
        (merged.commented_out if silenced else merged.added).append(stage)
    merged.added.sort(key=lambda stage: stage.pipeline_id is None)  # won and lost stand last
    edits = found.insertions(_named(merged.added, {row.stage for row in found.rows}))
    there = {(stage.pipeline_id, stage.status_id) for stage in live}
    for row in found.rows:
        is_there = _is_there(row, there)
        if not is_there:
            merged.gone.append(row.stage)
        edits += found.marking(row, gone=not is_there)
    merged.text = _applied(found.text, edits)
    _check(path, found.text, merged.text)
    return merged


def _are_examples(rows: Sequence[Row], live: Sequence[LiveStage]) -> bool:
    """Say whether nobody has touched the list as it is shipped, and it is not this account's."""
    pipelines = {row.pipeline for row in rows} - {None}
    return pipelines == {EXAMPLE_PIPELINE} and EXAMPLE_PIPELINE not in {stage.pipeline_id for stage in live}


def _lacking(live: Sequence[LiveStage], rows: Sequence[Row]) -> Iterator[LiveStage]:
    """Return the stages that no entry is for. Won and lost need one entry for all pipelines together."""
    known = {(row.pipeline, row.status) for row in rows}
    for stage in live:
        key = (stage.pipeline_id, stage.status_id)
        if not stage.listed or key in known or (None, stage.status_id) in known:
            continue
        if stage.status_id in EVERYWHERE and all(stage.status_id != status for _, status in known):
            stage = replace(stage, pipeline_id=None)
        known.add((stage.pipeline_id, stage.status_id))
        yield stage


def _is_there(row: Row, there: Collection[tuple[int | None, int]]) -> bool:
    return any(status == row.status and row.pipeline in (None, pipeline) for pipeline, status in there)


def _check(path: Path, before: str, after: str) -> None:
    """Make sure that every entry, and all else in the file, says what it said."""
    odd = MappingError(
        (f"{path}: its stages are written in a way that cannot be added to; put each on lines of its own.",)
    )
    old = plain(path, before)
    try:
        new = plain(path, after)
    except MappingError as error:
        raise odd from error
    kept, stages = old.pop("stages", []), new.pop("stages", [])
    if old != new or [row for row in stages if row in kept] != kept:
        raise odd


# -- names --


def slug(name: str) -> str:
    """Return a name in the letters that a stage's name may have: `Квалификация` is kvalifikatsiya; '' for none."""
    return re.sub(r"[^a-z0-9]+", "_", anyascii(name).lower()).strip("_")[:LONGEST_NAME].strip("_")


def _named(stages: Sequence[LiveStage], taken: Collection[str]) -> list[tuple[LiveStage, str]]:
    """Return each stage with a name that no other has."""
    names = set(taken)
    named = []
    for stage in stages:
        own = EVERYWHERE.get(stage.status_id) or slug(stage.name)
        choices = [own, f"{slug(stage.pipeline)}_{own}".strip("_")] if own else []
        choices += [f"status_{stage.status_id}", f"status_{stage.status_id}_{stage.pipeline_id}"]
        name = next(choice for choice in choices if choice not in names)
        names.add(name)
        named.append((stage, name))
    return named


def words(name: str) -> str:
    """Return a name of Kommo's as one line."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())


def _scalar(text: str) -> str:
    """Return text as YAML, in quotes where it could be read as something else."""
    bare = re.fullmatch(r"[^\W\d_][\w -]*", text) and yaml.safe_load(text) == text
    return text if bare else json.dumps(text, ensure_ascii=False)


# -- the list in the text --


@dataclass(frozen=True)
class Row:
    """An entry of the list, and where it stands in the text; `scalars`: its keys and values, each with its end."""

    stage: str
    pipeline: int | None
    status: int
    start: int
    scalars: tuple[tuple[int, int], ...]


class _List:
    """The list of stages in a text."""

    def __init__(self, path: Path, text: str) -> None:
        self.text = text
        self._newline = "\r\n" if "\r\n" in text else "\n"
        root = compose(path, text)
        if root.flow_style:
            raise MappingError((f"{path} line 1: it is written in braces; put each key on a line of its own.",))
        self._node: yaml.Node | None = next((value for key, value in root.value if key.value == "stages"), None)
        items = self._node.value if isinstance(self._node, yaml.SequenceNode) else []
        self.rows = [_row(item) for item in items]
        self._dash = self._node.start_mark.column if items and self._node else INDENT  # the column of all dashes
        self._in_brackets = bool(isinstance(self._node, yaml.SequenceNode) and self._node.flow_style)

    def without_rows(self) -> str:
        """Return the text without the entries, if they stand on lines of their own."""
        if self._in_brackets:
            return self.text
        begin = self.text.rfind("\n", 0, self.rows[0].start) + 1
        return self.text[:begin] + self.text[self._below(self.rows[-1]) :]

    def insertions(self, new: Sequence[tuple[LiveStage, str]]) -> list[Edit]:
        """Return what puts entries into the list: behind the last one of their pipeline, else at its end."""
        if not new:
            return []
        if not self.rows:
            return self._into_nothing(self._block(new, INDENT))
        if self._in_brackets and self._node:
            place = self._node.start_mark.index + 1
            inside = "".join(f"{self._newline}  {{{', '.join(_pairs(*one))}}}," for one in new)
            return [(place, place, f"{inside}{self._newline}  ")]
        behind: dict[int, list[tuple[LiveStage, str]]] = {}
        for stage, name in new:
            alike = [row for row in self.rows if stage.pipeline_id and row.pipeline == stage.pipeline_id]
            behind.setdefault(self._below([*self.rows, *alike][-1]), []).append((stage, name))
        return [
            (place, place, self._fresh_line(place) + self._newline + self._block(some, self._dash))
            for place, some in behind.items()
        ]

    def marking(self, row: Row, *, gone: bool) -> list[Edit]:
        """Return what says in a comment that Kommo has not this stage any more, or takes that back."""
        end = self._line_end(row.start)
        line = self.text[row.start : end]
        # Inside of brackets a line may hold several entries, and inside of a text it is no place for a comment.
        if self._in_brackets or any(first < end < last for first, last in row.scalars):
            return []
        if gone and GONE not in line:
            return [(end, end, f"  {GONE}")]
        if not gone and line.endswith(GONE):
            return [(row.start + len(line.removesuffix(GONE).rstrip()), end, "")]
        return []

    def _into_nothing(self, block: str) -> list[Edit]:
        if self._node is None:
            end = len(self.text)
            return [(end, end, f"{self._fresh_line(end)}{self._newline}stages:{self._newline}{block}")]
        start, end = self._node.start_mark.index, self._node.end_mark.index
        place = self._line_below(end)
        empty = [(start, end, "")] if end > start else []  # `[]`, `~`
        return [*empty, (place, place, self._fresh_line(place) + block)]

    def _block(self, new: Sequence[tuple[LiveStage, str]], indent: int) -> str:
        lines: list[str] = []
        for stage, name in new:
            first, *rest = _pairs(stage, name, comments=True)
            lines += ["", f"{' ' * indent}- {first}", *(f"{' ' * indent}  {pair}" for pair in rest)]
        return "".join(line + self._newline for line in lines[1:])

    def _below(self, row: Row) -> int:
        """Return where the line behind an entry begins; comments that are indented as its keys belong to it."""
        place = self._line_below(row.scalars[-1][1] - 1)
        while True:
            comment = re.compile(r"( *)#[^\r\n]*(\r?\n|$)").match(self.text, place)
            if not comment or len(comment[1]) <= self._dash:
                return place
            place = comment.end()

    def _line_end(self, place: int) -> int:
        found = re.compile(r"\r?\n|$").search(self.text, place)
        return found.start() if found else len(self.text)

    def _line_below(self, place: int) -> int:
        found = re.compile(r"\n|$").search(self.text, place)
        return found.end() if found else len(self.text)

    def _fresh_line(self, place: int) -> str:
        """Return what is needed so that a line begins at a place."""
        return "" if place == 0 or self.text[place - 1] == "\n" else self._newline


def _row(node: yaml.MappingNode) -> Row:
    values: dict[str, Any] = {key.value: value.value for key, value in node.value}
    pipeline = values.get("pipeline")
    return Row(
        stage=values["stage"],
        pipeline=int(pipeline) if pipeline else None,
        status=int(values["status"]),
        start=node.start_mark.index,
        scalars=tuple(
            (one.start_mark.index, one.end_mark.index) for pair in node.value for one in pair if one.value != ""
        ),
    )


def _pairs(stage: LiveStage, name: str, *, comments: bool = False) -> list[str]:
    """Return the lines of an entry, with Kommo's names behind its ids."""
    label = words(stage.name)[:LONGEST_LABEL]

    def named(pair: str, what: str) -> str:
        return f"{pair}  # {words(what)}" if comments and words(what) else pair

    return [
        f"stage: {_scalar(name)}",
        *([named(f"pipeline: {stage.pipeline_id}", stage.pipeline)] if stage.pipeline_id else []),
        named(f"status: {stage.status_id}", stage.name),
        *([f"label: {_scalar(label)}"] if label else []),
    ]


def _applied(text: str, edits: Sequence[Edit]) -> str:
    """Return a text with edits made, the last one first, so that the places of the others stay."""
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text
