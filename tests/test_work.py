"""`flask work` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nursery
from support import FORM, ROOT, Service, add_deals, arrived, eventually, pass_time, rows, stage_hook

from sandbox.town import Town

WORK = (sys.executable, "-m", "flask", "work")


@contextmanager
def worker(env: dict[str, str], log: Path) -> Iterator[nursery.Process]:
    """Run `flask work`; FLASK_APP comes from .flaskenv."""
    with log.open("wb") as output:
        told = {"PATH": os.environ["PATH"], **env}
        process = nursery.Process(WORK, cwd=ROOT, env=told, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_a_worker_carries_out_what_a_stopped_web_process_left(
    start_service: Callable[..., Service], town: Town, env: dict[str, str], tmp_path: Path
) -> None:
    for vendor in town.vendors.values():
        vendor.faults.add(drop=True)
    service = start_service(REPLY_BUDGET_SECONDS="0")
    deals = add_deals(town, 3)
    for deal in deals:
        assert service.post("kommo", stage_hook(deal), FORM).json()["status"] == "accepted"
    service.stop()
    for vendor in town.vendors.values():
        vendor.faults.clear()
    pass_time(env)
    log = tmp_path / "work.log"

    with worker(env, log) as process:
        eventually(lambda: rows(env, "SELECT count(*) FROM jobs WHERE state = 'done'") == [(9,)])
        process.terminate()
        assert process.wait(60) == 0

    found = arrived(town)
    assert sorted(event["email"] for event in found["encharge_events"]) == sorted(deals.values())
    assert sorted(activity["email"] for activity in found["ortto_activities"]) == sorted(deals.values())
    assert "Carrying out jobs." in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_worker_beside_the_web_process_does_nothing_twice(
    service: Service, town: Town, env: dict[str, str], tmp_path: Path
) -> None:
    town.kommo.switch(rate=10)  # on a busy machine, the calls of two seconds bunch up on their way
    deals = add_deals(town, 10)
    with worker(env, tmp_path / "work.log"):
        eventually(lambda: "Carrying out jobs." in (tmp_path / "work.log").read_text())
        for deal in deals:
            assert service.post("kommo", stage_hook(deal), FORM).ok
        eventually(lambda: rows(env, "SELECT count(*) FROM jobs WHERE state = 'done'") == [(30,)])

    found = arrived(town)
    assert sorted(event["email"] for event in found["encharge_events"]) == sorted(deals.values())
    assert sorted(activity["email"] for activity in found["ortto_activities"]) == sorted(deals.values())
    assert town.kommo.count(status=429) == 0


def test_the_command_has_help(env: dict[str, str]) -> None:
    done = subprocess.run(
        [*WORK, "--help"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "Carry out waiting jobs until stopped (SIGTERM, Ctrl-C)." in done.stdout
