"""Whatever comes in, a reader returns a Reading or raises BodyError, and what it returns can be stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.events import Source
from app.webhooks.bodies import parse_form
from fuzz.webhooks import read_as

FIXTURES = Path(__file__).parent.parent / "fixtures"
BODIES = [path.read_bytes() for source in Source for path in sorted((FIXTURES / source / "hooks").iterdir())]
OBJECTS = [json.loads(body) if body[:1] in b"{[" else parse_form(body.decode()) for body in BODIES]
JSON, FORM = "application/json", "application/x-www-form-urlencoded"

# The same bodies in every run, so that a build does not fail by chance.
repeatable = settings(deadline=None, derandomize=True, database=None, max_examples=600)


def assert_readable_by_all(content_type: str, body: bytes, event: str | None = None) -> None:
    """Have a body read by each reader: people mix up URLs, too."""
    for source in Source:
        assert_readable(source, content_type, body, event)


def assert_readable(source: Source, content_type: str, body: bytes, event: str | None = None) -> None:
    """Read a body; all that is promised of a reading or a refusal must hold, and it must go through JSON."""
    outcome = read_as(source, content_type, event, body)
    if isinstance(outcome, str):
        return
    words = json.dumps(asdict(outcome), ensure_ascii=False, allow_nan=False)
    assert "\0" not in words
    assert r"\u0000" not in words


# -- values that nobody should send --

tags = st.sampled_from(["{{x}}", "{{ person.email }}", "{{", "}}", "{{{", "a {{b}} c {{d", "{% if x %}", "{%"])
anything = st.characters(codec=None, exclude_categories=())  # NUL and lone surrogates too
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63), 10**400, 1e308, float("nan"), float("inf")]),
    st.floats(),
    st.text(anything, max_size=20),
    tags,
    st.lists(st.one_of(tags, st.text(anything, max_size=3)), max_size=5).map("".join),
    st.sampled_from(["a@b", "a@b.c", "api", "sms", "true", "2026-03-04T10:42:10Z", "0001-01-01T00:00:00+14:00"]),
    st.sampled_from(
        ["email_opened", "act::o", "act::u-a", "act::test_webhook", "added-tag-clicked", "updatedUser"]
    ),
    st.sampled_from(["x" * 5000, "9" * 5000, "\0" * 600, "\ud800", "{{" * 300]),
)


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Return each object or list inside a value with each of its keys or indexes."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from nodes(value[key])


# Keys that the vendors send, and keys that nobody does.
keys = st.one_of(
    st.sampled_from(sorted({key for said in OBJECTS for node, key in nodes(said) if isinstance(node, dict)})),
    st.text(anything, max_size=5),
)


objects = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=6),
        inner.map(lambda value: {"v": value}),
    ),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """Return a body of a vendor with some of its values deleted, swapped, wrapped, or with tags in them."""
    said = deepcopy(draw(st.sampled_from(OBJECTS)))
    for _ in range(draw(st.integers(1, 4))):
        places = list(nodes(said))
        if not places:
            break
        node, key = draw(st.sampled_from(places))
        value = node[key]
        match draw(st.sampled_from(["delete", "replace", "list", "wrap", "tag", "text", "rename"])):
            case "delete":
                del node[key]
            case "replace":
                node[key] = draw(objects)
            case "list":
                node[key] = [value, [value]]
            case "wrap":
                node[key] = {"v": {"v": value}}
            case "tag":
                text = str(value)
                at = draw(st.integers(0, len(text)))
                node[key] = text[:at] + draw(tags) + text[at:]
            case "text":
                node[key] = json.dumps(value)
            case "rename" if isinstance(node, dict):
                node[draw(st.one_of(keys, st.just(key.swapcase())))] = node.pop(key)
    return said


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """Return a body of a vendor with pieces cut out, doubled or overwritten."""
    body = draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        end = min(len(body), at + draw(st.integers(0, 40)))
        piece = draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"%FF", b"%00", b"[", b"]=", b"{{", b"\\ud800"]))
        )
        body = body[:at] + draw(st.sampled_from([b"", body[at:end] * 2, piece])) + body[end:]
    return body


events = st.one_of(st.none(), st.sampled_from(["", "opened", "{{event}}", "act::b", "x\0\ud800"]))


@repeatable
@given(body=objects, event=events)
def test_no_json_breaks_a_reader(body: Any, event: str | None) -> None:
    assert_readable_by_all(JSON, json.dumps(body).encode(), event)


@repeatable
@given(body=mutated(), event=events)
def test_no_mutation_of_a_body_breaks_a_reader(body: Any, event: str | None) -> None:
    assert_readable_by_all(JSON, json.dumps(body).encode(), event)


@repeatable
@given(body=torn(), event=events, content_type=st.sampled_from(["", JSON, FORM, "text/plain"]))
def test_no_torn_body_breaks_a_reader(body: bytes, event: str | None, content_type: str) -> None:
    assert_readable_by_all(content_type, body, event)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00" * 1000, id="zeros"),
        pytest.param(b"\xff" * 1_048_576, id="1 MiB that is not UTF-8"),
        pytest.param(b"a" * 1_048_576, id="1 MiB of one letter"),
        pytest.param(b"&" * 1_048_576, id="1 MiB of separators"),
        pytest.param(b"%E" * 524_288, id="1 MiB of cut-off percents"),
        pytest.param("&".join(f"leads[status][{n}][x]=1" for n in range(10_000)).encode(), id="10,000 keys"),
        pytest.param(b"[" * 1_048_576, id="1 MiB of lists"),
        pytest.param(b'{"a":' * 209_715, id="1 MiB of objects"),
        pytest.param(b'{"leads":{"status":' + b"[" * 900 + b"1" + b"]" * 900 + b"}}", id="just not too deep"),
        pytest.param(b'{"event":"x","email":' + b'{"v":' * 900 + b"1" + b"}" * 901, id="wrapped just not too deep"),
        pytest.param(b"[" + b"9" * 1_000_000 + b"]", id="a number of a million digits"),
        pytest.param(b'{"event":"x","subject":"' + b"{{" * 500_000 + b'"}', id="1 MiB of open tags"),
        pytest.param(b'{"event":"x","link":"' + b"{%" * 500_000 + b'"}', id="1 MiB of open statements"),
        pytest.param(
            json.dumps({"event": "x"} | dict.fromkeys(map(str, range(60_000)), 1)).encode(), id="60,000 keys"
        ),
    ],
)
def test_no_monster_breaks_a_reader(body: bytes) -> None:
    for content_type in (JSON, FORM):
        assert_readable_by_all(content_type, body)
