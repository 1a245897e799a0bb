"""Points in time as people write and read them."""

from __future__ import annotations

import pytest

from app.moments import as_span, as_time, parse

NOW = 1_767_607_800.0  # 2026-01-05 10:10:00 UTC


@pytest.mark.parametrize(
    ("words", "ago"),
    [("30m", 1800), ("6h", 21_600), ("2d", 172_800), ("2026-01-05", 36_600), ("2026-01-05T11:10+01:00", 0)],
)
def test_moments_are_read(words: str, ago: float) -> None:
    assert parse(words, now=NOW) == NOW - ago


@pytest.mark.parametrize("words", ["soon", "-5m", "6 h", "٣h", "9999999d", "2026-13-01"])
def test_what_is_none_is_named(words: str) -> None:
    with pytest.raises(ValueError, match=f"^'{words}' is neither like 30m"):
        parse(words, now=NOW)


def test_a_time_is_told_in_utc() -> None:
    assert as_time(NOW) == "2026-01-05 10:10:00"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.043, "43 ms"),
        (0.4, "0.4 s"),
        (1, "1 s"),
        (9.96, "10 s"),
        (75, "75 s"),
        (300, "5 min"),
        (3600, "1 h"),
        (5400, "1.5 h"),
        (86_400, "24 h"),
        (200_000, "2 d"),
        (3_000_000, "35 d"),
    ],
)
def test_a_length_of_time_is_told_shortly(seconds: float, words: str) -> None:
    assert as_span(seconds) == words
