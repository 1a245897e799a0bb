"""The load: deals that move and people who click, told until the telling is acknowledged; and the ledger."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests

from bench.chaos.processes import ROOT, Process
from sandbox.kommo.records import Pipeline, Stage
from sandbox.town import Town

SECRET = "chaos-secret-0123456789"
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"

PIPELINE = 7_300_010
START = 63_000_000  # the stage that deals are made in: not in the mapping
STAGES = 45  # a deal enters each once, so that every event is known by its stage; Ortto drops the 51st of a day
MAPPING = "mapping.yaml"
ANSWER_SECONDS = 5.0
SENDERS = 16
BULK = 5  # deals in one webhook at most
REPEATS = 0.12  # of all webhooks: what was acknowledged before is sent again
RECENT = 400  # acknowledged webhooks of which one may be sent again

ACTIVITIES = (
    # kind, weight
    ("encharge click", 4),
    ("encharge proposal open", 2),
    ("ortto click", 3),
    ("ortto open", 3),
    ("encharge unsubscribe", 1),
    ("encharge resubscribe", 1),
    ("ortto unsubscribe", 1),
    ("ortto resubscribe", 1),
)
SAME_WORDS = "The same words again"  # some clicks differ in nothing but their id


@dataclass
class Deal:
    """A deal, its one contact, and how far its two stories have come."""

    id: int
    contact_id: int
    email: str
    named: bool  # whether its email activities name it, or only the address
    stage: int = 0  # in which it is, 1 to STAGES
    at: int = 0  # when it was moved last, Unix seconds


@dataclass(frozen=True)
class Fact:
    """One thing that happened: a deal entered a stage, or its contact did something with an email."""

    deal: int
    kind: str  # `stage`, or one of ACTIVITIES
    stage: int = 0
    at: int = 0
    campaign: str = ""


@dataclass
class Hook:
    """A webhook, and what became of it. `acknowledged`: when it was answered 2xx, 0 = never."""

    number: int
    route: str
    content_type: str
    body: bytes
    facts: tuple[Fact, ...]
    attempts: int = 0
    answers: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    acknowledged: float = 0.0


class Ledger:
    """What was acknowledged, kept outside of the service: in memory, and line by line in a file."""

    def __init__(self, file: Path) -> None:
        self.hooks: list[Hook] = []  # acknowledged, in that order
        self.given_up: list[Hook] = []
        self.refused: list[str] = []  # answers that no webhook of ours deserves: 4xx and 500
        self.repeats = 0
        self.repeats_taken_as_new: list[str] = []
        self._file = file.open("w")
        self._lock = threading.Lock()

    def keep(self, hook: Hook) -> None:
        """Write an acknowledged webhook down."""
        line = json.dumps({**asdict(hook), "body": hook.body.decode()})
        with self._lock:
            self.hooks.append(hook)
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def facts(self) -> list[Fact]:
        """Return what was acknowledged; of one story in the order in which it was."""
        return [fact for hook in self.hooks for fact in hook.facts]

    def uncertain(self) -> list[Fact]:
        """Return what was sent and never acknowledged: it may have an effect, and need not."""
        return [fact for hook in self.given_up for fact in hook.facts]


def add_stages(town: Town) -> None:
    """Add a pipeline with as many stages as a deal's story has."""
    names = {START: "Start"} | {START + number: stage_label(number) for number in range(1, STAGES + 1)}
    stages = {key: Stage(key, name, 10 + key - START, "#c1c1c1") for key, name in names.items()}
    town.kommo.account.pipelines[PIPELINE] = Pipeline(PIPELINE, "Chaos", 3, is_main=False, stages=stages)


def write_mapping(folder: Path) -> None:
    """Write the shipped mapping with the stages of the chaos pipeline."""
    shipped = (ROOT / "config" / "mapping.yaml").read_text()
    rows = "".join(
        f"  - {{stage: {stage_name(number)}, pipeline: {PIPELINE}, status: {START + number}, "
        f"label: {stage_label(number)}}}\n"
        for number in range(1, STAGES + 1)
    )
    # Each open and click is to have a note of its own: the audit counts them.
    shipped = re.sub(r"^one_signal: .*$", "one_signal: 0s", shipped, flags=re.M)
    changed, count = re.subn(r"^stages:\n.*?(?=^# --)", f"stages:\n{rows}\n", shipped, flags=re.M | re.S)
    if count != 1:
        raise RuntimeError("config/mapping.yaml has no section `stages:` before a line `# --` any more")
    (folder / MAPPING).write_text(changed)


def stage_name(number: int) -> str:
    """Return a stage as Encharge hears it."""
    return f"stage_{number:02d}"


def stage_label(number: int) -> str:
    """Return a stage as Ortto hears it."""
    return f"Stage {number:02d}"


def environment(town: Town, database: str, folder: Path) -> dict[str, str]:
    """Return the settings of a service for the town with such stages, its mapping in the folder."""
    return {
        **town.environment(),
        **{f"{vendor}_WEBHOOK_SECRET": SECRET for vendor in ("KOMMO", "ENCHARGE", "ORTTO")},
        "KOMMO_CF_EMAIL_ACTIVITY": "800110",
        "KOMMO_CF_EMAIL_STATUS": "800111",
        "DATABASE_URL": database,
        "MAPPING_FILE": str(folder / MAPPING),
    }


def add_deals(town: Town, count: int, *, known: int = 0) -> list[Deal]:
    """Add deals with a contact each to those that are known."""
    deals = []
    for number in range(known, known + count):
        email = f"person{number:03d}@chaos.example"
        contact = town.kommo.add_contact(f"Person Number{number:03d}", [email])
        deal = town.kommo.add_deal(
            f"Deal {number:03d}", START, pipeline_id=PIPELINE, price=100, contact_ids=[contact]
        )
        deals.append(Deal(deal, contact, email, named=number % 3 != 0))
    return deals


class Load:
    """Senders that tell the stories of deals at a steady pace, each story strictly in its order.

    A deal has two stories: its moves, and what its contact does with emails. The next thing of a story happens when
    the last one was acknowledged: what arrives at us out of order is the vendors' doing and not measured here.
    """

    def __init__(
        self, town: Town, replicas: Sequence[Process], ledger: Ledger, deals: Sequence[Deal], seed: int
    ) -> None:
        self.rate = 0.0  # webhooks a second; 0 = none
        self.answer_seconds = ANSWER_SECONDS  # how long an answer is waited for
        self._town = town
        self._replicas = replicas
        self._ledger = ledger
        self._deals = {deal.id: deal for deal in deals}
        self._random = random.Random(f"load {seed}")
        self._moving = [deal.id for deal in deals]
        self._mailing = [deal.id for deal in deals]
        self._lock = threading.Lock()
        self._count = 0
        self._next_at = time.monotonic()
        self._stopping = threading.Event()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._send_on, daemon=True) for _ in range(SENDERS)]

    def add(self, deals: Sequence[Deal]) -> None:
        """Let more deals have their stories."""
        with self._lock:
            self._deals |= {deal.id: deal for deal in deals}
            self._moving += [deal.id for deal in deals]
            self._mailing += [deal.id for deal in deals]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """Begin nothing new, and give what is under way so many seconds to be acknowledged."""
        self._stopping.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._closing.set()
        for thread in self._threads:
            thread.join(2 * self.answer_seconds)

    # -- what happens --

    def _send_on(self) -> None:
        while not self._stopping.is_set():
            if not self._is_time():
                time.sleep(0.02)
                continue
            with self._lock:
                known = self._ledger.hooks[-RECENT:]
                again = self._random.choice(known) if known and self._random.random() < REPEATS else None
                line, hook = ([], None) if again else self._happen()
            if again:
                self._send_again(again)
            if hook:
                self._send(hook)
                with self._lock:
                    line += [fact.deal for fact in hook.facts]

    def _is_time(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if not self.rate or now < self._next_at:
                return False
            self._next_at = max(self._next_at + 1 / self.rate, now - 0.5)
            return True

    def _happen(self) -> tuple[list[int], Hook | None]:
        """Let the next thing of a story happen; return the line to which its deals go back, and its webhook."""
        self._count += 1
        if self._random.random() < 0.5:
            count = self._random.choice((1, 1, 1, 2, BULK))
            chosen = [self._take(self._moving) for _ in range(min(count, len(self._moving)))]
            facts = [self._move(self._deals[deal]) for deal in chosen if self._deals[deal].stage < STAGES]
            return self._moving, _stage_hook(self._count, facts) if facts else None
        if not self._mailing:
            return self._mailing, None
        deal = self._deals[self._take(self._mailing)]
        kinds, weights = zip(*ACTIVITIES, strict=True)
        kind = self._random.choices(kinds, weights)[0]
        campaign = SAME_WORDS if self._random.random() < 0.15 else f"Campaign {self._count}"
        if kind == "encharge proposal open":
            campaign = f"Proposal {campaign}"
        fact = Fact(deal.id, kind, at=int(time.time()), campaign=campaign)
        make = _encharge_hook if kind.startswith("encharge") else _ortto_hook
        return self._mailing, make(self._count, fact, deal)

    def _take(self, line: list[int]) -> int:
        return line.pop(self._random.randrange(len(line)))

    def _move(self, deal: Deal) -> Fact:
        deal.stage += 1
        deal.at = max(deal.at + 1, int(time.time()))
        self._town.kommo.move(deal.id, START + deal.stage)
        return Fact(deal.id, "stage", stage=deal.stage, at=deal.at)

    # -- sending --

    def _send(self, hook: Hook) -> None:
        """Send a webhook, as often as it takes, to whichever replica."""
        while not self._closing.is_set():
            status, answer = self._post(hook)
            hook.attempts += 1
            hook.answers.append(str(status))
            if 200 <= status < 300:
                hook.ids = [entry["id"] for entry in answer["events"] if entry["id"]]
                hook.acknowledged = time.time()
                self._ledger.keep(hook)
                return
            if 400 <= status < 500 or status == 500:
                self._ledger.refused.append(f"webhook {hook.number} to {hook.route} got {status}: {answer}")
            time.sleep(0.3)
        self._ledger.given_up.append(hook)

    def _send_again(self, hook: Hook) -> None:
        """Send what was acknowledged before; it must be known, whichever replica hears it."""
        status, answer = self._post(hook)
        if not 200 <= status < 300:
            return
        self._ledger.repeats += 1
        if answer["status"] not in ("duplicate", "ignored"):
            self._ledger.repeats_taken_as_new.append(f"webhook {hook.number}: {answer}")

    def _post(self, hook: Hook) -> tuple[int, Any]:
        with self._lock:
            replica = self._random.choice(self._replicas)
        return self._ask(replica, hook)

    def _ask(self, replica: Process, hook: Hook) -> tuple[int, Any]:
        """Send a webhook to a replica once; return status and answer, 0 if there is none."""
        headers = {"Content-Type": hook.content_type, "X-Webhook-Secret": SECRET}
        try:
            url = f"{replica.url}/webhooks/{hook.route}"
            answer = requests.post(url, data=hook.body, headers=headers, timeout=self.answer_seconds)
            return answer.status_code, answer.json()
        except (requests.RequestException, ValueError):
            return 0, None


def _stage_hook(number: int, facts: list[Fact]) -> Hook:
    fields: dict[str, object] = {"account[subdomain]": "examplebakery", "account[id]": 30_900_001}
    for index, fact in enumerate(facts):
        values = {
            "id": fact.deal,
            "status_id": START + fact.stage,
            "pipeline_id": PIPELINE,
            "old_status_id": START + fact.stage - 1,
            "updated_at": fact.at,
        }
        fields |= {f"leads[status][{index}][{name}]": value for name, value in values.items()}
    return Hook(number, "kommo", FORM, urlencode(fields).encode(), tuple(facts))


ENCHARGE_NAMES = {
    "encharge click": "email_link_clicked",
    "encharge proposal open": "email_opened",
    "encharge unsubscribe": "user_unsubscribed",
    "encharge resubscribe": "user_resubscribed",
}
ORTTO_NAMES = {
    "ortto click": "act::c",
    "ortto open": "act::o",
    "ortto unsubscribe": "act::u-all",
    "ortto resubscribe": "act::s-all",
}


def _encharge_hook(number: int, fact: Fact, deal: Deal) -> Hook:
    body = {
        "event": ENCHARGE_NAMES[fact.kind],
        "email": deal.email,
        "broadcastName": fact.campaign,
        "event_id": f"chaos-{number}",
        **({"kommo_lead_id": str(deal.id)} if deal.named else {}),
    }
    return Hook(number, "encharge", JSON, json.dumps(body).encode(), (fact,))


def _ortto_hook(number: int, fact: Fact, deal: Deal) -> Hook:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(fact.at))
    body = {
        "activity": {
            "id": f"{number:024x}",
            "field_id": ORTTO_NAMES[fact.kind],
            "created": created,
            "attr": {"str::s": fact.campaign},
        },
        "contact": {"email": deal.email, **({"kommo-lead-id": str(deal.id)} if deal.named else {})},
        "webhook_id": "69a1c0de5f2b8e0012ab34cd",
    }
    return Hook(number, "ortto", JSON, json.dumps(body).encode(), (fact,))
