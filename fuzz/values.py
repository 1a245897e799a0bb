"""Single foreign values, JSON or text: what the readers make of one can be stored and compared, or is nothing."""

from __future__ import annotations

import json
from typing import Any

from app.addresses import FORBIDDEN, MAX_LENGTH, MAX_LOCAL_LENGTH, clean_email
from app.ids import LARGEST_ID, as_id
from app.webhooks.bodies import (
    MAX_KEY,
    NOTHING,
    YEAR_2100,
    as_flag,
    as_text,
    as_time,
    as_word,
    by_plain_name,
    journal_key,
    plain_name,
    shown,
)
from fuzz.oracles import cheap, sentence, storable


def check(data: bytes) -> None:
    """Take an input for a value, in each way; fail if what comes of it is not what is promised."""
    text = data.decode("utf-8", "surrogateescape")
    cheap(lambda: _check_address(text), len(data))
    cheap(lambda: _check_value(text), len(data))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    cheap(lambda: _check_value(value), len(data))


def _check_address(text: str) -> None:
    email = clean_email(text)
    if email is None:
        return
    assert clean_email(email) == email, f"{email!r} is another one when it is cleaned again"
    assert clean_email(f"  {text.upper()} ") in (email, None, clean_email(text.upper())), "spaces count"
    storable(email, MAX_LENGTH)
    local, _, domain = email.partition("@")
    assert 0 < len(local) <= MAX_LOCAL_LENGTH
    assert domain
    assert email.count("@") == 1
    assert email.isprintable()
    assert not FORBIDDEN & set(email)


def _check_value(value: Any) -> None:
    for limit in (40, 500):
        for text in (as_text(value, limit=limit), as_word(value, limit=limit)):
            storable(text, limit)
            assert text == text.strip(), f"{text!r} has spaces around it"
            assert "{{" not in text, f"a tag that nobody filled in: {text!r}"
            assert text.lower() not in NOTHING or "{" in str(value), f"{text!r} is nothing"
    _check_numbers(value)
    sentence(shown(value), 60)
    assert as_flag(value) in (None, True, False)
    if isinstance(value, str):
        name = plain_name(value)
        assert name.isalnum() or not name
        assert plain_name(name) == name
        storable(journal_key("ortto", as_word(value), as_word(value)), MAX_KEY)
    if isinstance(value, dict):
        assert all(plain_name(name) == name for name in by_plain_name(value))


def _check_numbers(value: Any) -> None:
    number = as_id(value)
    assert number is None or (type(number) is int and 0 < number <= LARGEST_ID), number
    if number is not None:
        assert as_id(str(number)) == number
    at = as_time(value)
    assert at is None or (type(at) is float and 0 < at < YEAR_2100), at
