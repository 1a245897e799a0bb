"""The mapping file: YAML → checked rows, or sentences that name the line. Pure but for reading the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from app.events import PLATFORMS
from app.mapping.rows import (
    ActionRow,
    FieldRow,
    MappingRows,
    NoteRow,
    Row,
    RuleRow,
    StageEventsRow,
    StageRow,
    TagRow,
    TaskRow,
    ValueRow,
    WhenRow,
    WorkingHoursRow,
    suggestion,
)
from app.mapping.texts import shortened

LARGEST_FILE = 1024 * 1024  # bytes
DEEPEST = 20  # levels
MOST_FAULTS = 100  # nobody mends more at once
LONGEST_FAULT = 500  # characters of a sentence: a value may be as long as the file

Place = tuple[str | int, ...]
Fault = tuple[Place, str]

# What stands at a path of the file, its second part (an index, or an action's name) left out.
ROWS: dict[Place, type[Row]] = {
    (): MappingRows,
    ("working_hours",): WorkingHoursRow,
    ("stages",): StageRow,
    ("stage_events",): StageEventsRow,
    ("fields",): FieldRow,
    ("rules",): RuleRow,
    ("rules", "when"): WhenRow,
    ("actions",): ActionRow,
    ("actions", "task"): TaskRow,
    ("actions", "note"): NoteRow,
    ("actions", "field"): ValueRow,
    ("actions", "tag"): TagRow,
    ("actions", "untag"): TagRow,
}


class MappingError(Exception):
    """A mapping file with which the service must not start. `faults`: one sentence each, with file and line."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


# -- reading --


def read(path: Path, variables: Collection[str]) -> MappingRows:
    """Read and check a mapping file; `variables` are the names that may stand after a `$`.

    Raises MappingError with every fault (the first 100) of the first kind found: unreadable, not YAML, wrong rows,
    rows that contradict one another.
    """
    return check(path, contents(path), variables)


def check(path: Path, text: str, variables: Collection[str]) -> MappingRows:
    """Check the text of a mapping file as `read` does; the faults name `path`."""
    tree = _Tree(compose(path, text))
    if tree.faults:
        raise _error(path, tree, tree.faults[:MOST_FAULTS])
    try:
        rows = MappingRows.model_validate(tree.data)
    except ValidationError as error:
        raise _error(path, tree, list(islice(_reworded(error), MOST_FAULTS))) from None
    if faults := list(islice(_contradictions(rows, variables, tree), MOST_FAULTS)):
        raise _error(path, tree, faults)
    return rows


def contents(path: Path) -> str:
    """Return a mapping file's text as it stands, line endings included. Raises MappingError if it is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise MappingError((f"{path} cannot be read ({error.strerror}): see MAPPING_FILE.",)) from error
    if len(content) > LARGEST_FILE:
        raise MappingError((f"{path} is larger than 1 MiB: that is no mapping file.",))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MappingError((f"{path} line {line}: not UTF-8 text; save the file as UTF-8.",)) from error


def plain(path: Path, text: str) -> dict[str, Any]:
    """Return what a text of YAML says. Raises MappingError if it is not YAML."""
    data: dict[str, Any] = _Tree(compose(path, text)).data
    return data


def compose(path: Path, text: str) -> yaml.MappingNode:
    """Parse the file into YAML's node tree, which knows its lines."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except _ForbiddenError as error:
        raise MappingError((f"{path} {error}",)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = _yaml_words(error.problem or error.context or "cannot be parsed")
        raise MappingError((_sentence(path, mark.line + 1 if mark else 1, what),)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MappingError(
            (f"{path} line {line}: a control character; delete it and type the line anew.",)
        ) from error
    if not isinstance(node, yaml.MappingNode):
        raise MappingError((f"{path} line 1: the file must begin with `version: 1` and hold keys such as stages.",))
    return node


class _ForbiddenError(Exception):
    """Something that no mapping file needs, with its line."""


class _Loader(yaml.SafeLoader):
    """Refuses what no mapping file needs: aliases grow without bound, tags make objects, depth eats the stack."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def get_event(self) -> yaml.Event:
        """Return the next part of the text. Raises _ForbiddenError."""
        event: yaml.Event = super().get_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1 if event.start_mark else 1
        if getattr(event, "anchor", None):
            raise _ForbiddenError(
                f"line {line}: & and * (anchors and aliases) are not allowed; write it out, or quote the text."
            )
        if getattr(event, "tag", None):
            raise _ForbiddenError(f"line {line}: ! (a YAML tag) is not allowed; delete it, or quote the text.")
        self._depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if self._depth > DEEPEST:
            raise _ForbiddenError(f"line {line}: nested more than {DEEPEST} levels deep.")
        return event

    def fetch_more_tokens(self) -> None:
        """Read on. Raises _ForbiddenError for the numbers that make PyYAML fail with Python's own words."""
        try:
            super().fetch_more_tokens()
        except (OverflowError, ValueError) as error:  # "\Uffffffff", and a version of 5000 digits
            raise _ForbiddenError(
                f"line {self.line + 1}: a number that is too large for YAML; write the character or text itself."
            ) from error


def _yaml_words(problem: str) -> str:
    if r"'\t'" in problem:
        return "a tab; indent with spaces"
    return f"not valid YAML ({problem}); look at the indentation, colons and quotes here and just above"


class _Tree:
    """The file as plain data, with the line of every key and item."""

    def __init__(self, root: yaml.MappingNode) -> None:
        self.faults: list[Fault] = []
        self._lines: dict[Place, int] = {}
        self.data = self._value(root, ())

    def line(self, path: Place) -> int:
        """Return the line of a path, or of the nearest thing around it."""
        while path not in self._lines and path:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _value(self, node: yaml.Node, path: Place) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Place) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append((path, "has a key that is not plain text"))
                continue
            # The text as it stands: YAML would make True of the key `on`.
            key = key_node.value
            inner = (*path, key)
            line = key_node.start_mark.line + 1
            if key in data:
                self.faults.append((inner, f"is there twice (lines {self._lines[inner]} and {line}); delete one"))
                continue
            self._lines[inner] = line
            data[key] = self._value(value_node, inner)
        # `fields:` with nothing but comments below it is an empty section.
        return data if path else {key: value for key, value in data.items() if value is not None}

    def _scalar(self, node: yaml.Node, path: Place) -> Any:
        """Read quoted text as text, and of the rest only what people mean: no octal, no dates, no 1:30."""
        kind = node.tag.rpartition(":")[2]
        if kind == "null":
            if len(path) > 1:
                self.faults.append((path, "has no value; fill it in or delete the line"))
            return None
        if kind == "bool":
            return node.value.lower() in ("true", "yes", "on")
        if kind == "int" and re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", node.value):
            return int(node.value)
        return node.value


# -- what is wrong, in words --

_WRONG_TYPE = {
    "string_type": "must be text: put it in quotes",
    "int_type": "must be a whole number without quotes",
    "string_unicode": "has half a character in it: delete it",
    "bool_type": "must be true or false, without quotes",
    "list_type": "must be a list: each item on a line of its own, after a dash",
    "dict_type": "must hold keys with values below it",
    "model_type": "must hold keys with values below it",
    "missing": "is missing",
}


def _error(path: Path, tree: _Tree, faults: list[Fault]) -> MappingError:
    lines = sorted((tree.line(place), f"{_place(place)} {what}") for place, what in faults)
    return MappingError(tuple(_sentence(path, line, what) for line, what in lines))


def _sentence(path: Path, line: int, what: str) -> str:
    """Say what is wrong in a line, on one line that can be read and printed whatever stands in the file."""
    words = "".join(char if char.isprintable() else "�" for char in shortened(what, LONGEST_FAULT))
    return f"{path} line {line}: {words}{_stop(words)}"


def _stop(sentence: str) -> str:
    return "" if sentence.endswith("?") else "."


def _place(path: Place) -> str:
    """Spell a path as people write it: `stages[0].label`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".") or "the file"


def _reworded(error: ValidationError) -> Iterator[Fault]:
    for fault in error.errors(include_url=False):
        path, kind = fault["loc"], fault["type"]
        if path[-1:] == ("[key]",):  # what pydantic adds where the key itself is wrong
            path = path[:-1]
        if kind == "extra_forbidden":
            yield path, _unknown_key(path)
        elif kind == "value_error":
            yield path, str(fault["ctx"]["error"])
        else:
            yield path, _WRONG_TYPE.get(kind, fault["msg"])


def _unknown_key(path: Place) -> str:
    row = ROWS[(*path[:1], *path[2:-1])] if len(path) > 1 else ROWS[()]
    fields = sorted(row.model_fields.items(), key=lambda item: item[0] in PLATFORMS)  # the columns stand behind
    known = tuple(field.alias or name for name, field in fields)
    return f"is not a key we know{suggestion(str(path[-1]), known)}"


def _contradictions(rows: MappingRows, variables: Collection[str], tree: _Tree) -> Iterator[Fault]:
    """Find rows that are right by themselves and wrong together."""
    yield from _twice(
        tree,
        [
            (("stages", index), (row.pipeline, row.status), _stage_words(row))
            for index, row in enumerate(rows.stages)
        ],
    )
    for platform in PLATFORMS:
        targets = [(("fields", index, platform), row.target(platform)) for index, row in enumerate(rows.fields)]
        yield from _twice(tree, [(place, name, repr(name)) for place, name in targets if name])
    stages = dict.fromkeys(sorted(row.stage for row in rows.stages))
    for index, rule in enumerate(rows.rules):
        for position, name in enumerate(rule.do):
            if name not in rows.actions:
                place = ("rules", index, "do", position)
                yield place, f"names no action: {name!r}{suggestion(name, rows.actions)}"
        yield from _unknown_stages(rule.when, index, stages)
    for name, action in rows.actions.items():
        yield from _action_faults(name, action, variables)


def _unknown_stages(when: WhenRow, index: int, known: Collection[str]) -> Iterator[Fault]:
    for position, name in enumerate(when.stage or []):
        if isinstance(name, str) and name not in known:
            place = ("rules", index, "when", "stage", position)
            yield place, f"names no stage: {name!r}{suggestion(name, known)}"


def _stage_words(row: StageRow) -> str:
    where = f"pipeline {row.pipeline}" if row.pipeline else "every pipeline"
    return f"status {row.status} of {where}"


def _twice(tree: _Tree, entries: list[tuple[Place, object, str]]) -> Iterator[Fault]:
    first: dict[object, Place] = {}
    for place, key, words in entries:
        if key in first:
            lines = f"lines {tree.line(first[key])} and {tree.line(place)}"
            yield place, f"repeats {words} ({lines}); delete one"
        else:
            first[key] = place


def _action_faults(name: str, action: ActionRow, variables: Collection[str]) -> Iterator[Fault]:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        yield ("actions", name), "must have a name of letters, digits, _ and - (64 at most)"
    if action.field and isinstance(action.field.id, str) and action.field.id[1:] not in variables:
        variable = action.field.id[1:]
        near = difflib.get_close_matches(variable.upper(), variables, n=1)
        known = (
            f"did you mean ${near[0]}?" if near else f"known are {', '.join(f'${known}' for known in variables)}"
        )
        yield ("actions", name, "field", "id"), f"names no variable we know: ${variable}; {known}"
