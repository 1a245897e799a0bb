"""The demo tells its whole story, and everything in it arrives."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support import ROOT

STAGES = {"Qualification": "qualified", "Proposal sent": "proposal_sent", "Negotiation": "negotiation"}
ARRIVALS = [
    line
    for label, stage in STAGES.items()
    for line in (
        f"Encharge: the person's stage is {stage}",
        f"Encharge: event deal_moved_to_{stage}",
        f"Ortto: the person's stage is {label}",
        f"Ortto: activity crm-stage-changed, {label}",
    )
] + [
    "Kommo: a task for the deal's owner, due in 2 hours",
    "Kommo: a note on the deal",
    "Kommo: the click stands in the same note, and there is still one task",
    "Kommo: a second note on the deal",
    "Kommo: the deal's field “Last email activity”",
    "Kommo: the contact is tagged “Email Unsubscribed”",
    "Kommo: the deal's field “Email status” is Unsubscribed",
    "Kommo: the tag is gone",
    "Kommo: the field is Subscribed",
]


@pytest.mark.alone
def test_the_demo_shows_every_arrival() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.demo"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    seen = [line.removeprefix("  ✓ ").rpartition("  ")[0] for line in done.stdout.splitlines() if "✓" in line]
    assert sorted(seen) == sorted(ARRIVALS)
    assert f"{len(ARRIVALS)} things arrived, 0 did not" in done.stdout
