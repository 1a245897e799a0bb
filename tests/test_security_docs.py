"""What docs/security.md says is true, where a test can tell."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from support import ROOT

from app import server, strangers
from app.clients import http
from app.journal.store import MEMORY_SECONDS
from app.journal.tables import metadata
from app.mapping import file as mapping_file
from app.ops import headers
from app.settings import ORTTO_HOSTS, SHORTEST_SECRET, VARIABLES
from app.webhooks import bodies, routes

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
FLAT = " ".join(PAGE.split())
SECRETS = {name for name in VARIABLES if name.endswith(("_TOKEN", "_KEY", "_SECRET"))} | {
    "DATABASE_URL",
    "ALERT_WEBHOOK_URL",
}


def rows(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table below a heading, by their first cell."""
    _, _, rest = PAGE.partition(f"\n## {heading}\n")
    section = rest.partition("\n## ")[0]
    lines = [line.strip("|") for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    return {first.strip("`"): others for first, *others in cells[2:]}


def test_every_column_that_is_stored_is_named() -> None:
    told = {table: re.findall(r"`(\w+)`", cells[0]) for table, cells in rows("What is stored").items()}
    stored = {name: [column.name for column in table.columns] for name, table in metadata.tables.items()}
    assert told == stored


def test_every_secret_is_told_with_how_to_replace_it() -> None:
    told = rows("What a stolen secret gives, and how to replace it")
    assert set(told) == SECRETS
    assert [name for name, cells in told.items() if not all(cells)] == []


def test_every_door_is_told(app: Flask) -> None:
    told = " ".join(cell for cells in rows("Who can send what").values() for cell in cells)
    rules = [rule.rule for rule in app.url_map.iter_rules() if not rule.endpoint.endswith("static")]
    doors = {rule.removesuffix("/<secret>").replace("<int:event_id>", "4711") for rule in rules}
    assert [door for door in sorted(doors) if f"{door}`" not in told] == []


@pytest.mark.parametrize(
    "words",
    [
        f"{SHORTEST_SECRET} characters".replace("16", "Sixteen"),
        f"waits half a second for its answer, in {'two' if strangers.PLACES == 2 else '?'} places",
        f"{'Ten' if strangers.LINES == 10 else '?'} have a log line each",
        f"then one warning tells of {strangers.LOUD}, 1,000, …",
        f"A webhook of {routes.LARGEST_BODY >> 20} MiB",
        f"a form of {bodies.MAX_FIELDS:,} fields and {bodies.MAX_DEPTH} levels, lists of {bodies.MAX_ITEMS:,}",
        f"at most {http.LARGEST_ANSWER >> 20} MiB are unpacked, and it may take {http.ANSWER_SECONDS:g} seconds",
        f"{mapping_file.DEEPEST} levels, {mapping_file.LARGEST_FILE >> 20} MiB, PyYAML's safe loader",
        f"{server.REQUEST_SECONDS:g} s in all, then it is cut off",
        f"{server.FIRST_BYTE_SECONDS:g} s, then none",
        f"{server.REST_SECONDS:g} s more, then it is closed",
        f"{server.CLOSE_SECONDS:g} s, and never the thread that accepts",
        f"{MEMORY_SECONDS / 86400:g} days beyond that",
        f"Ortto's regions are {'three' if len(set(ORTTO_HOSTS.values())) == 3 else '?'}",
    ],
)
def test_a_number_that_it_tells_is_the_one_in_the_code(words: str) -> None:
    assert words in FLAT
    assert strangers.WAIT_SECONDS == 0.5


def test_every_header_is_named() -> None:
    for name in headers.HEADERS:
        assert name in FLAT or (name.startswith("Cross-Origin-") and "`Cross-Origin-…-Policy`" in FLAT), name


def test_it_says_that_the_page_hides_what_it_hides() -> None:
    hidden = ("`secret`", "`token`", "`password`", "`api_key`", "`Bearer …`", "`Basic …`", "`PRV-…`")
    assert [word for word in hidden if word not in FLAT] == []
