"""Bodies: text, JSON, bracket forms, and foreign values."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from app.addresses import clean_email
from app.ids import as_id
from app.webhooks.bodies import (
    BodyError,
    FieldError,
    as_flag,
    as_text,
    as_time,
    as_word,
    by_plain_name,
    decode,
    items,
    journal_key,
    parse_form,
    parse_json,
    parse_object,
    require_id,
    shown,
)

FIXTURES = Path(__file__).parent.parent / "fixtures"


def short(value: object) -> str:
    """Name a test's parameter so that no two look alike."""
    return repr(value)[:40]


@pytest.mark.parametrize(
    ("form", "nested"),
    [
        pytest.param("leads[status][0][id]=1", {"leads": {"status": {"0": {"id": "1"}}}}, id="brackets"),
        pytest.param("leads%5Bstatus%5D%5B0%5D=1", {"leads": {"status": {"0": "1"}}}, id="encoded brackets"),
        pytest.param("a=1&b=&c", {"a": "1", "b": "", "c": ""}, id="blank values are kept"),
        pytest.param("a=1&a=2", {"a": "2"}, id="the last of two counts"),
        pytest.param("a[]=1&a[]=2", {"a": {"0": "1", "1": "2"}}, id="empty brackets count up"),
        pytest.param("a[=1&b]=2&[c]=3", {"a[": "1", "b]": "2", "[c]": "3"}, id="unpaired brackets stay"),
        pytest.param("a=x%2By+z%26%3D%F0%9F%9A%80", {"a": "x+y z&=🚀"}, id="plus, ampersand, emoji"),
        pytest.param("a=Квал", {"a": "Квал"}, id="raw UTF-8"),
        pytest.param("a=50%&b=%E", {"a": "50%", "b": "%E"}, id="a percent sign that encodes nothing"),
    ],
)
def test_a_form_nests_by_its_brackets(form: str, nested: dict[str, Any]) -> None:
    assert parse_form(form) == nested


def test_awkward_fields_of_kommo_nest_like_any_others() -> None:
    text = (FIXTURES / "kommo/hooks/lead_status_awkward_values.form").read_bytes().decode()

    assert parse_form(text) == {
        "leads": {
            "status": {
                "0": {
                    "id": "41500016",
                    "name": "R&D = 50% off + coffee 🚀\nКвалификация",
                    "status_id": "61000102",
                    "old_status_id": "",
                    "pipeline_id": "7100010",
                    "last_modified": "1767607850",
                    "custom_fields": {
                        "0": {"id": "800106", "name": "Size", "values": {"value": "11–50", "enum": "510401"}},
                        "1": {"id": "800103", "values": {"0": "1768176000"}},
                        "2": {
                            "id": "800203",
                            "values": {
                                "0": {"value": "Zoe+work@Example.com"},
                                "1": {"value": "zoe.private@example.org"},
                            },
                            "code": "EMAIL",
                        },
                    },
                }
            }
        },
        "account": {"id": "30900001", "subdomain": "ExampleBakery"},
    }


@pytest.mark.parametrize(
    ("form", "message"),
    [
        pytest.param(
            "a=1&a[b]=2", "'a[b]' is a part of something that was a plain value before.", id="value, parts"
        ),
        pytest.param("a[b]=1&a=2", "'a' is a plain value and had parts before.", id="parts, value"),
        pytest.param("a=%FF", "The body has a percent-encoded value that is not UTF-8.", id="not UTF-8"),
        pytest.param("a=%E2%82", "The body has a percent-encoded value that is not UTF-8.", id="half a character"),
        pytest.param(
            "a" + "[b]" * 12 + "=1",
            "'a[b][b][b][b][b][b][b][b][b][b][b][b]' is nested deeper than 12 levels.",
            id="13 levels",
        ),
        pytest.param(
            "a" + "[b]" * 300_000 + "=1",
            "'a[b][b][b][b][b][b][b][b][b][b][b][b][… is nested deeper than 12 levels.",
            id="300,000 levels",
        ),
        pytest.param("&".join(["a=1"] * 20_001), "The body has more than 20000 fields.", id="too many fields"),
        pytest.param(
            "a[1]=x&a[]=y",
            "'a[]' would take a place that was named before: number all entries, or none.",
            id="a place twice",
        ),
        pytest.param(
            "leads[status][1][id]=5&leads[status][][id]=6",
            "'leads[status][][id]' would take a place that was named before: number all entries, or none.",
            id="two deals at one place",
        ),
    ],
)
def test_a_form_that_cannot_be_is_refused(form: str, message: str) -> None:
    with pytest.raises(BodyError) as caught:
        parse_form(form)
    assert str(caught.value) == message


def test_a_form_nests_as_deep_as_twelve_levels() -> None:
    nested: Any = parse_form("a" + "[b]" * 11 + "=1")
    for name in "abbbbbbbbbbb":
        nested = nested[name]
    assert nested == "1"


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(urlencode({f"leads[status][{n}][id]": str(n) for n in range(20_000)}), id="20,000 deals"),
        pytest.param("&".join(f"a[]={n}" for n in range(20_000)), id="20,000 empty brackets"),
        pytest.param("a=" + "%41" * 349_000, id="one long value"),
        pytest.param("[" * 1_000_000, id="only brackets"),
        pytest.param("a" + "[x" * 500_000, id="unpaired brackets"),
        pytest.param("a[" + "x" * 1_000_000 + "]=1", id="one long key"),
    ],
)
def test_a_mebibyte_is_parsed_in_well_under_a_second(form: str) -> None:
    begun = time.perf_counter()
    parse_form(form)
    assert time.perf_counter() - begun < 10


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"", "The body is empty.", id="nothing"),
        pytest.param(b" \r\n", "The body is empty.", id="only spaces"),
        pytest.param(
            "é".encode("latin-1"), "The body is not UTF-8 (see its byte 0): send it as UTF-8.", id="Latin-1"
        ),
        pytest.param(b"\xff\xfe{\x00", "The body is not UTF-8 (see its byte 0): send it as UTF-8.", id="UTF-16"),
    ],
)
def test_a_body_that_is_no_text_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(BodyError) as caught:
        decode(body)
    assert str(caught.value) == message


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert decode(b"\xef\xbb\xbf{}") == "{}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"a": ', "The body is not JSON: Expecting value (line 1, column 7).", id="cut off"),
        pytest.param("a=1", "The body is not JSON: Expecting value (line 1, column 1).", id="a form"),
        pytest.param("[" * 500_000, "The body is nested too deep.", id="lists"),
        pytest.param('{"a":' * 200_000, "The body is nested too deep.", id="objects"),
        pytest.param("9" * 5000, "The body holds a number of more than 4300 digits.", id="a huge number"),
        pytest.param("[]", "The body must be a JSON object and is a list.", id="a list"),
        pytest.param("null", "The body must be a JSON object and is null.", id="null"),
        pytest.param("1.5", "The body must be a JSON object and is 1.5.", id="a number"),
        pytest.param('"{}"', "The body must be a JSON object and is '{}'.", id="text"),
    ],
)
def test_json_that_is_no_object_is_refused(text: str, message: str) -> None:
    with pytest.raises(BodyError) as caught:
        parse_object(text)
    assert str(caught.value) == message


def test_json_may_hold_numbers_that_are_none() -> None:
    assert repr(parse_json('{"a": NaN, "b": Infinity}')) == "{'a': nan, 'b': inf}"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (41500011, 41500011),
        ("41500011", 41500011),
        (" 7 ", 7),
        ("007", 7),
        (7.0, 7),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
        (2**63, None),
        ("9" * 5000, None),
        (0, None),
        (-1, None),
        ("-1", None),
        ("1_000", None),
        ("٣", None),
        ("7.0", None),
        (7.5, None),
        (float("nan"), None),
        (float("inf"), None),
        (1e308, None),
        (True, None),
        (None, None),
        ("", None),
        ([7], None),
        ({"id": 7}, None),
    ],
    ids=short,
)
def test_an_id_is_a_positive_whole_number_of_at_most_64_bits(value: object, number: int | None) -> None:
    assert as_id(value) == number


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(None, "leads.status[0].id is missing", id="null"),
        pytest.param("", "leads.status[0].id is missing", id="empty"),
        pytest.param("abc", "leads.status[0].id is not an id: 'abc'", id="a word"),
        pytest.param(True, "leads.status[0].id is not an id: true", id="a boolean"),
        pytest.param([1], "leads.status[0].id is not an id: a list", id="a list"),
        pytest.param("x " * 49, f"leads.status[0].id is not an id: '{'x ' * 19}…", id="shortened to 40 characters"),
        pytest.param("x" * 99, "leads.status[0].id is not an id: a text of 99 characters", id="may be a token"),
        pytest.param("a%40b.example", "leads.status[0].id is not an id: an email address", id="an encoded address"),
    ],
)
def test_a_missing_id_is_named_by_its_path(value: object, message: str) -> None:
    with pytest.raises(FieldError) as caught:
        require_id({"id": value}, "id", "leads.status[0]")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        (" Hello ", "Hello"),
        (7351, "7351"),
        ("a\0b", "ab"),
        ("a\x1b[2Jb\x9b\x7f\x08", "a[2Jb"),  # what a terminal would obey
        ("a\nb\tc", "a\nb\tc"),
        ("half \ud83d", "half ?"),
        ("{{ person.userId }}", ""),
        ("Hello {{person.firstName}}", "Hello"),
        ("Hi {{ name }}, your offer", "Hi, your offer"),
        ("{{name}}, your offer", "your offer"),
        ("Offer - {{ month | upcase }} - {{year}}", "Offer"),
        ("{% if person.vip %}VIP {% endif %}offer", "VIP offer"),
        ("Offer {{person.first", "Offer"),
        ("{{ {{a}} }}", "}}"),
        ("{{{a}}{ b", "{ b"),
        ("{{a}}{{{b}}{{c", ""),
        ("a {b} {c", "a {b} {c"),
        ("null", ""),
        ("None", ""),
        ("undefined", ""),
        ("None of your business", "None of your business"),
        (True, ""),
        (1.5, ""),
        (None, ""),
        ({"v": 1}, ""),
    ],
    ids=short,
)
def test_text_is_clean_whatever_came(value: object, clean: str) -> None:
    assert as_text(value) == clean


def test_text_is_cut_at_its_limit() -> None:
    assert as_text("x" * 1000) == "x" * 500


@pytest.mark.parametrize("value", ["{{a}}", "a-{{b}}-c", "{{a}}-{{b}}", "a{{", "{% if a %}b"])
def test_a_word_with_an_unresolved_part_is_none(value: str) -> None:
    assert as_word(value) == ""


def test_a_word_is_clean_text_otherwise() -> None:
    assert [as_word(value) for value in (" a b\0 ", 7, "null", True, {})] == ["a b", "7", "", "", ""]


def test_keys_that_mean_the_same_are_one() -> None:
    said = {"Broadcast name": "", "broadcast_name": None, "broadcastName": "a", "BROADCAST-NAME": "b"}
    assert by_plain_name(said) == {"broadcastname": "a"}
    assert by_plain_name({"str:cm:kommo-lead-id": 1, "str::email": 2}) == {"kommoleadid": 1, "email": 2}


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        (True, True),
        ("TRUE", True),
        (1, True),
        ("1", True),
        (False, False),
        ("false", False),
        (0, False),
        (None, None),
        ("", None),
        ("maybe", None),
        (2, None),
        ([], None),
        ("{{x}}", None),
    ],
    ids=short,
)
def test_a_flag_may_be_a_boolean_a_number_or_a_word(value: object, truth: bool | None) -> None:
    assert as_flag(value) is truth


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1767607800, 1767607800.0),
        ("1767607800", 1767607800.0),
        (1779260624009, 1779260624.009),
        ("1779260624009", 1779260624.009),
        ("2026-03-04T10:42:10Z", 1772620930.0),
        ("2026-03-04T10:42:10", 1772620930.0),
        ("2026-03-04T12:42:10+02:00", 1772620930.0),
        ("2026-03-04T10:42:10.257267791Z", 1772620930.257267),
        (0, None),
        (-5, None),
        (10**18, None),
        (10**400, None),
        (float("nan"), None),
        ("0001-01-01T00:00:00+14:00", None),
        ("yesterday", None),
        ("", None),
        (True, None),
        (None, None),
        ({}, None),
    ],
    ids=short,
)
def test_a_time_may_be_seconds_milliseconds_or_iso(value: object, seconds: float | None) -> None:
    assert as_time(value) == seconds


def test_entries_come_from_a_list_or_by_index_with_their_paths() -> None:
    assert items(["a"], "x") == [("x[0]", "a")]
    assert items({"3": "a"}, "x") == [("x[3]", "a")]
    assert items("a", "x") == [("x", "a")]


def test_too_many_entries_are_refused() -> None:
    with pytest.raises(BodyError, match=r"^x has more than 10000 entries\.$"):
        items([1] * 10_001, "x")


def test_a_long_key_becomes_a_digest_and_stays_its_own() -> None:
    assert journal_key("ortto", "event", 7) == "ortto:event:7"
    long, other = journal_key("ortto", "x" * 500), journal_key("ortto", "x" * 501)
    assert (len(long), long[:6], long == other) == (70, "ortto:", False)


def test_a_value_in_a_message_has_no_line_breaks() -> None:
    assert shown("a\nb\ud83d") == r"'a\nb\ud83d'"


@pytest.mark.parametrize(
    ("words", "email"),
    [
        (" Zoe@Example.COM\n", "zoe@example.com"),
        ("zoe+work@example.com", "zoe+work@example.com"),
        ("o'hara@localhost", "o'hara@localhost"),
        ("Анна@Пример.рф", "анна@пример.рф"),
        ("a" * 64 + "@example.com", "a" * 64 + "@example.com"),
        ("", None),
        ("zoe", None),
        ("@example.com", None),
        ("zoe@", None),
        ("zoe@@example.com", None),
        ("zoe@example@com", None),
        ("zoe example@example.com", None),
        ("zoe@example.com, bob@example.com", None),
        ("Zoe <zoe@example.com>", None),
        ("mailto:zoe@example.com", None),
        ("zoe\x00@example.com", None),
        ("zoe\u200b@example.com", None),
        ("zoe\ud83d@example.com", None),
        ("zoe@.example.com", None),
        ("zoe@example..com", None),
        ("zoe@example.com.", None),
        ("a" * 65 + "@example.com", None),
        ("zoe@" + "x" * 251, None),
    ],
    ids=short,
)
def test_an_address_is_trimmed_lower_cased_and_checked(words: str, email: str | None) -> None:
    assert clean_email(words) == email
