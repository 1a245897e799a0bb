"""`make bench` runs, delivers what it counts, and counts right. How fast it was is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import requests
from support import ROOT

from bench.speed.report import Table, number, plot
from sandbox.town import Town

pytestmark = pytest.mark.timeout(220)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quick run of one scenario has written."""
    folder: Path = tmp_path_factory.mktemp("results")
    command = (sys.executable, "-m", "bench.speed", "--quick", "--only", "burst", "--results", str(folder))
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        try:
            output, _ = running.communicate(timeout=180)
        finally:
            running.terminate()  # it ends what it has started; killed, it could not
    assert running.returncode == 0, output
    return folder


@pytest.fixture(scope="module")
def rows(results: Path) -> dict[tuple[str, str], Any]:
    tables = json.loads((results / "latest.json").read_text())["tables"]
    assert [remark for table in tables for remark in table["remarks"]] == []  # all were delivered, once
    return {(row["case"], row["figure"]): row["values"] for table in tables for row in table["rows"]}


def test_both_sides_deliver_all_and_their_calls_are_counted(rows: dict[tuple[str, str], Any]) -> None:
    ours, theirs = "60 at once", "28 at once"
    assert rows[theirs, "calls to kommo a webhook"] == {"reference": [2.0]}
    assert rows[theirs, "calls to encharge a webhook"] == {"reference": [2.0]}
    assert rows[theirs, "calls to ortto a webhook"] == {"reference": [1.0]}
    assert 0 < rows[ours, "calls to kommo a webhook"]["Kommo Relay"][0] < 1
    assert rows[ours, "429s of Kommo"] == {"Kommo Relay": [0]}
    assert {len(side) for side in rows["any size", "delivered/s"].values()} == {1}
    assert all(value > 0 for side in rows["any size", "delivered/s"].values() for value in side)


def test_the_promises_the_table_and_the_plot_are_written(results: Path) -> None:
    checks = {check["promise"]: check for check in json.loads((results / "latest.json").read_text())["checks"]}
    assert checks["60 deals, 80 ms, Kommo at 7/s: no 429"] == {
        "promise": "60 deals, 80 ms, Kommo at 7/s: no 429",
        "measured": "0",
        "held": True,
    }
    text = (results / "latest.md").read_text()
    assert "| case | figure | Kommo Relay | reference |" in text
    assert all(promise in text for promise in checks)
    drawn = ElementTree.fromstring((results / "latest.svg").read_text())  # noqa: S314 - our own
    labels = [element.text for element in drawn.iter()]
    assert {"Kommo Relay", "reference"} <= set(labels)


def test_a_table_gives_medians_and_ratios_to_the_baseline() -> None:
    table = Table("Speed", "theirs")
    for value in (100, 300, 200):
        table.add("a case", "a figure", "ours", value)
    table.add("a case", "a figure", "theirs", 50)

    assert table.ratio("a case", "a figure", "ours") == 4
    assert "| a case | a figure | 200 (100–300) **4.00×** | 50.0 |" in table.markdown()


def test_numbers_have_three_digits_that_count() -> None:
    assert [number(value) for value in (0, 12345, 99.44, 3.14159, 0.0224)] == [
        "0",
        "12,345",
        "99.4",
        "3.14",
        "0.0224",
    ]


def test_nothing_measured_is_no_plot() -> None:
    assert plot("Nothing", []) == ""


def test_calls_are_tallied_by_kind_and_take_as_long_as_told(town: Town) -> None:
    town.kommo.latency = 0.05
    for deal in (41_500_011, 1):
        requests.get(
            f"{town.kommo.url}/api/v4/leads/{deal}",
            headers={"Authorization": f"Bearer {town.kommo.token}"},
            timeout=10,
        )
    assert town.kommo.tally() == {"GET /api/v4/leads/* 200": 1, "GET /api/v4/leads/* 204": 1}
    assert all(call.milliseconds >= 50 for call in town.kommo.calls)
