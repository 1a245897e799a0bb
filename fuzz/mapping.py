"""The text of a mapping file: it is taken, and then nothing makes its rules fail, or refused with line and reason.

An input is the file's text. Behind a line of `%%` may stand what strangers write into its templates.
"""

from __future__ import annotations

import re
from pathlib import Path
from zlib import crc32

from app.mapping import MappingError, Rules, parse
from fuzz.oracles import cheap, sentence
from fuzz.plans import FIELDS, NASTY, check_rules

PATH = Path("mapping.yaml")
FAULT = re.compile(r"mapping\.yaml line ([0-9]+): .+[.?]")
LONGEST_SENTENCE = 600
TIMES = (
    20  # Python's YAML takes so much more for a byte than a webhook does: it is read once, from its owner's hand
)


def check(data: bytes) -> None:
    """Load an input; fail if it is refused without a reason and a line, or taken and not carried out."""
    content, _, foreign = data.partition(b"\n%%\n")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return
    rules = cheap(lambda: _load(text), TIMES * len(content))
    if isinstance(rules, Rules):
        check_rules(rules, foreign.decode("utf-8", "replace") or NASTY[crc32(content) % len(NASTY)])
        return
    assert rules, "refused without a reason"
    for fault in rules:
        sentence(fault.replace("@", ""), LONGEST_SENTENCE)  # an address in the owner's own file is no secret
        found = FAULT.fullmatch(fault)
        assert found, f"no line, or no end: {fault!r}"
        assert int(found[1]) <= len(text.splitlines()) + 1, f"no such line: {fault!r}"


def _load(text: str) -> Rules | tuple[str, ...]:
    try:
        return parse(PATH, text, FIELDS)
    except MappingError as error:
        return error.faults
