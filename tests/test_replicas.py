"""Two replicas, real processes, on one database: together no call too many, nothing twice, and no order lost."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import scripts
from databases import run_sql
from scripts import Script
from support import FORM, JSON, QUALIFIED, Service, add_deals, arrived, eventually, in_the_end, stage_hook

from sandbox.town import Town

LIMIT = 7  # of Kommo's requests a second
FIRST_STATUS = 1000
STAGES = [f"s{number}" for number in range(6)]
ROWS = "\n".join(f"  - {{stage: {stage}, status: {FIRST_STATUS + number}}}" for number, stage in enumerate(STAGES))
MAPPING = f"""
version: 1
stages:
  - {{stage: now, status: {QUALIFIED}, label: Now}}
{ROWS}
rules:
  - when: {{event: email_clicked}}
    do: [task, note]
actions:
  task: {{task: {{text: "Call {{email}}"}}}}
  note: {{note: {{text: "{{campaign}}"}}}}
"""


@pytest.fixture
def replicas(start_service: Callable[..., Service], database_url: str, town: Town, tmp_path: Path) -> list[Service]:
    """Two replicas that share a database; Kommo takes no more of both together than it does of one."""
    town.kommo.switch(rate=LIMIT + 3)
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(MAPPING, encoding="utf-8")
    with ThreadPoolExecutor(2) as pool:
        told = {"DATABASE_URL": database_url, "MAPPING_FILE": str(mapping), "REPLY_BUDGET_SECONDS": "0.5"}
        start = partial(start_service, **told)
        return [future.result() for future in [pool.submit(start) for _ in range(2)]]


def click(email: str, number: int) -> bytes:
    """Return the body of a click that names no deal: Kommo has to be searched for it."""
    body = {"event": "email_link_clicked", "email": email, "event_id": f"{email}-{number}"}
    return json.dumps({**body, "broadcastName": f"Offer {number}"}).encode()


def owed(url: str) -> list[tuple[Any, ...]]:
    return run_sql(url, "SELECT lane, reason FROM jobs WHERE state = 'pending'")


@pytest.mark.alone
def test_together_they_ask_no_more_and_do_no_more_than_one(
    replicas: list[Service], database_url: str, town: Town
) -> None:
    """Moves and clicks of 20 deals, each deal's in its order, each to whichever replica is next."""
    deals = add_deals(town, 20)
    clicking = dict(list(deals.items())[:4])
    at = int(time.time())

    def tell(deal: int) -> set[int]:
        codes = set()
        for number in range(len(STAGES)):
            replica = replicas[(deal + number) % 2]
            hook = stage_hook(deal, status=FIRST_STATUS + number, at=at + number)
            codes.add(replica.post("kommo", hook, FORM).status_code)
            if deal in clicking:
                codes.add(replica.post("encharge", click(deals[deal], number), JSON).status_code)
        return codes

    with ThreadPoolExecutor(10) as pool:
        codes = set().union(*pool.map(tell, deals))
    eventually(lambda: not owed(database_url), 60)

    assert codes == {200}
    _assert_rate(town)
    found = arrived(town)
    stages: dict[str, list[str]] = defaultdict(list)
    for event in found["encharge_events"]:
        stages[event["email"]].append(event["properties"]["stage"])
    labels: dict[str, list[str]] = defaultdict(list)
    for activity in found["ortto_activities"]:
        labels[activity["email"]].append(activity["attributes"]["str:cm:stage"])
    assert stages == labels == dict.fromkeys(deals.values(), STAGES)
    notes: dict[int, list[str]] = defaultdict(list)
    for note in found["notes"]:
        notes[note["entity_id"]].append(note["text"])
    offers = [f"Offer {number}" for number in range(len(STAGES))]
    assert notes == dict.fromkeys(clicking, offers)
    tasks = sorted((task["entity_id"], task["text"]) for task in found["tasks"])
    assert tasks == [(deal, f"Call {email}") for deal, email in sorted(clicking.items())]
    assert town.ortto.state()["counters"]["duplicates"] == 0


def _assert_rate(town: Town) -> None:
    """Kommo saw no more than its limit."""
    moments = sorted(call.at for call in town.kommo.calls)
    assert len(moments) > 3 * LIMIT, "too few calls to say anything"
    # Seen where they arrive: on a busy machine they bunch up on their way. Two limits would let twice as many go.
    assert len(moments) - LIMIT <= LIMIT * (moments[-1] - moments[0])
    closest = min(later - moment for moment, later in zip(moments, moments[LIMIT + 3 :], strict=False))
    assert closest > 0.95
    assert town.kommo.count(status=429) == 0


# -- one of them dies ---------------------------------------------------------------------------------------------


def holder(replicas: list[Service], url: str, lane: str) -> Service:
    """Return the replica that holds a lane's job: its owner names the worker's process."""
    ((owner,),) = eventually(
        lambda: run_sql(
            url, "SELECT owner FROM jobs WHERE lane = :lane AND state = 'pending' AND owner IS NOT NULL", lane=lane
        )
    )
    worker = int(owner.split(":")[1])
    return next(replica for replica in replicas if worker in (process.pid for process in replica.workers()))


def end_leases(url: str) -> None:
    """Let the leases end now: the constant is a minute, and a real process cannot be told another one."""
    run_sql(url, "UPDATE jobs SET lease_until = 0 WHERE state = 'pending'")


def test_what_a_dead_replica_had_in_hand_is_done_by_the_other_and_not_twice(
    replicas: list[Service], database_url: str, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when Kommo has made the task and has not said so yet."""
    deals = list(add_deals(town, 2).items())
    (clicked, clicker), (other, other_email) = deals
    monkeypatch.setattr(scripts, "LONGER_SECONDS", 8.0)  # for us to find and kill it
    slow = iter(["no answer in time, done"])
    monkeypatch.setattr(town.kommo, "faults", Script(own=lambda body: slow if _is_tasks(body) else None))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(post_to_one_that_may_die, replicas[0], click(clicker, 0))
        eventually(lambda: town.kommo.state()["tasks"])
        dead = holder(replicas, database_url, "kommo")
        dead.kill()
    (survivor,) = (replica for replica in replicas if replica is not dead)

    # The dead one's lease still holds: its work, and what comes after it, waits; everything else goes on.
    survivor.post("encharge", click(clicker, 1), JSON)
    hook = stage_hook(other, status=FIRST_STATUS)
    assert in_the_end(survivor, survivor.post("kommo", hook, FORM))["status"] == "delivered"
    time.sleep(1.5)
    assert "notes" not in arrived(town)

    end_leases(database_url)

    eventually(lambda: not owed(database_url))
    found = arrived(town)
    assert [(task["entity_id"], task["text"]) for task in found["tasks"]] == [(clicked, f"Call {clicker}")]
    assert found["notes"] == [{"entity_id": clicked, "text": f"Offer {number}"} for number in range(2)]
    assert [event["email"] for event in found["encharge_events"]] == [other_email]


def _is_tasks(body: Any) -> bool:
    return isinstance(body, list) and "complete_till" in body[0]


def post_to_one_that_may_die(replica: Service, body: bytes) -> None:
    with suppress(requests.RequestException):
        replica.post("encharge", body, JSON)
