"""Variables set in the text of a .env file: their lines change, and no other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.dotenv_file import with_values

ONE = {"A": "1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "A=1\n"),
        ("# all\n\nA=\nB=2\n", "# all\n\nA=1\nB=2\n"),
        ("A=   # later\n", "A=1   # later\n"),
        ("A=old # why\n", "A=1 # why\n"),
        ("A='old # no comment'  # why\n", "A=1  # why\n"),
        ('A="a b"\n', "A=1\n"),
        ("export A = old\n", "export A=1\n"),
        ("A\n", "A=1\n"),
        ("A=old", "A=1"),
        ("B=2", "B=2\nA=1\n"),
        ("A=x\r\nB=2\r\n", "A=1\r\nB=2\r\n"),
        ("B=2\r\n", "B=2\r\nA=1\r\n"),
        ("A=first\nA=counts\n", "A=first\nA=1\n"),
        ("#A=old\nAA=2\n", "#A=old\nAA=2\nA=1\n"),
    ],
)
def test_a_variable_is_set(text: str, expected: str) -> None:
    assert with_values(text, ONE) == expected
    assert with_values(expected, ONE) == expected


def test_a_value_of_two_lines_is_replaced() -> None:
    assert with_values("A='x\ny'\nB=2\n", ONE) == "A=1\nB=2\n"


LINES = st.sampled_from(
    ["", "# c", "A=", "A=x", "export A='x'  # c", "B=${A}", "B='two\nlines'", "  C=3", 'D="#"', "E=a#b"]
)


@settings(deadline=None)
@given(lines=st.lists(LINES, min_size=1, max_size=8), newline=st.sampled_from(["\n", "\r\n"]))
def test_no_other_line_is_touched(lines: list[str], newline: str) -> None:
    text = "".join(line + newline for line in lines)
    after = with_values(text, {"A": "1", "Z": "2"}).split(newline)
    assert after[-2:] == ["Z=2", ""]
    kept = [line for line in text.split(newline) if "A" not in line.replace("${A}", "")]
    rest = iter(after)
    assert all(line in rest for line in kept)
