"""The way back into Kommo on a clock of its own, and the words in which tests/test_rules_table.py speaks of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from databases import journal_at
from flask import Flask
from parts import kommo_client
from support import FORM, GENEROUS_SECONDS, JSON, QUALIFIED, ROOT, SECRET

from app import make_routes, settings
from app.clients.kommo import Change
from app.dispatcher import Dispatcher
from app.events import Lane
from app.flows.email_activity import EmailActivityFlow
from app.flows.resolve import ResolveFlow
from app.mapping import Rules
from app.webhooks.routes import Receiver, make_blueprint
from sandbox.town import Town

SHIPPED = (ROOT / "config" / "mapping.yaml").read_text(encoding="utf-8")
FIXTURES = Path(__file__).parent / "fixtures"
BEGIN = datetime(2026, 3, 3, 10, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60, 3_600, 86_400

# Who lives in the sandbox: an address, the contact, its deal.
MARTA, MARTA_CONTACT, MARTA_DEAL = "marta.keller@northbay-logistics.example", 52_300_031, 40_518_833
ZOE, ZOE_CONTACT, ZOE_DEAL, ZOE_WON = "zoe@example.com", 52_300_021, 41_500_011, 41_500_012
ADA, ADA_FORM, ADA_TASTING = "ada@example.com", 41_500_014, 41_500_015
INES, OMAR = 9_200_001, 9_200_002  # Ines owns every deal that is not said to be Omar's
SALES, WHOLESALE, WHOLESALE_STAGE = 7_100_010, 7_100_020, 61_000_202
ACTIVITY, STATUS, PLAN, NEWSLETTER = 800_110, 800_111, 800_101, 800_104
WON, LOST = 142, 143
FIRST_TASK, FIRST_NOTE = 6_900_100, 8_800_100  # the ids of what is made first in the sandbox


# -- the house that a row lives in -------------------------------------------------------------------------------


@dataclass
class House:
    """The service in this process, beside the sandbox's Kommo, on a clock that moves only when told."""

    town: Town
    client: Any
    now: float = BEGIN
    posted: int = 0

    def clock(self) -> float:
        return self.now

    def calls(self) -> list[tuple[str, str, Any]]:
        return [(call.method, call.path.removeprefix("/api/v4"), call.body) for call in self.town.kommo.calls]


Step = Callable[[House], Any]


@dataclass(frozen=True)
class Hook:
    """A webhook; what it says of itself differs from row to row only by its number."""

    source: str
    body: bytes | dict[str, Any]
    content_type: str = JSON
    query: str = ""

    def __call__(self, house: House) -> Any:
        house.posted += 1
        to = f"/webhooks/{self.source}{self.query}"
        if isinstance(self.body, bytes):
            return house.client.post(to, data=self.body, content_type=self.content_type)
        return house.client.post(to, json=_numbered(self.body, house.posted))


def _numbered(body: dict[str, Any], number: int) -> dict[str, Any]:
    if "activity" in body:
        return {**body, "activity": {"id": f"activity-{number}", **body["activity"]}}
    return {"event_id": f"event-{number}", **body}


def encharge(event: str, email: str | None = MARTA, campaign: str = "Pricing 2026", **more: Any) -> Hook:
    """Return the body of a flow step of Encharge."""
    said = {"event": event, "email": email, "broadcastName": campaign, **more}
    return Hook("encharge", {key: value for key, value in said.items() if value is not None})


def ortto(activity: str, email: str = MARTA, subject: str = "Your offer", **more: Any) -> Hook:
    """Return the body of an activity of Ortto; `more`: attributes, as bol__m for bol::m."""
    attributes = {"str::s": subject, **{key.replace("__", "::"): value for key, value in more.items()}}
    return Hook("ortto", {"activity": {"field_id": activity, "attr": attributes}, "contact": {"email": email}})


def captured(name: str) -> Hook:
    """Return a captured webhook, by its file."""
    source, file = name.split("/")
    body = (FIXTURES / source / "hooks" / file).read_bytes()
    return Hook(source, body, FORM if file.endswith(".form") else JSON)


def at(hook: Hook, clock: str) -> Hook:
    """Return an Encharge webhook that says when it happened: a time of that Tuesday."""
    assert isinstance(hook.body, dict)
    return Hook(hook.source, {**hook.body, "occurred_at": f"2026-03-03T{clock}Z"})


# -- how Kommo stands, and time ----------------------------------------------------------------------------------


def later(seconds: float) -> Step:
    def wait(house: House) -> None:
        house.now += seconds

    return wait


def contact(number: int, email: str, name: str = "Nora Berg", **more: Any) -> Step:
    return lambda house: house.town.kommo.add_contact(name, [email], contact_id=number, **more)


def deal(number: int, of: int | Sequence[int], stage: int = QUALIFIED, **more: Any) -> Step:
    people = [of] if isinstance(of, int) else of
    return lambda house: house.town.kommo.add_deal(
        f"Deal {number}", stage, deal_id=number, contact_ids=people, **more
    )


def moved(number: int, stage: int, pipeline: int | None = None) -> Step:
    return lambda house: house.town.kommo.move(number, stage, pipeline)


def deleted(number: int) -> Step:
    return lambda house: house.town.kommo.delete_deal(number)


def tagged(number: int, *names: str) -> Step:
    return lambda house: kommo_client(house.town).update_contacts([Change(number, add_tags=names)])


def filled(number: int, field_id: int, value: str) -> Step:
    return lambda house: kommo_client(house.town).update_leads([Change(number, {field_id: value})])


def the_task_is_completed(house: House) -> None:
    kommo = house.town.kommo
    answer = requests.patch(
        f"{kommo.url}/api/v4/tasks/{FIRST_TASK}",
        json={"is_completed": True, "result": {"text": "Called"}},
        headers={"Authorization": f"Bearer {kommo.token}"},
        timeout=GENEROUS_SECONDS,
    )
    assert answer.status_code == 200


def the_task_is_deleted(house: House) -> None:
    del house.town.kommo.account.tasks[FIRST_TASK]


# -- what is written ---------------------------------------------------------------------------------------------

Write = tuple[str, str, Any]


def task(number: int, text: str, *, due: str = "03-03 12:00", user: int = INES, kind: int = 1) -> Write:
    """Return the call that makes a task; `due`: in UTC, of 2026."""
    moment = datetime.strptime(f"2026-{due}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    item = {
        "entity_type": "leads",
        "entity_id": number,
        "task_type_id": kind,
        "text": text,
        "complete_till": int(moment.timestamp()),
        "responsible_user_id": user,
        "request_id": "0",
    }
    return "POST", "/tasks", [item]


def note(number: int, text: str, on: str = "leads") -> Write:
    item = {"entity_id": number, "note_type": "common", "params": {"text": text}, "request_id": "0"}
    return "POST", f"/{on}/notes", [item]


def task_longer(*lines: str) -> Write:
    """Return the call that gives the first task these lines."""
    return "PATCH", "/tasks", [{"id": FIRST_TASK, "text": "\n".join(lines)}]


def note_longer(*lines: str, on: str = "leads") -> Write:
    """Return the call that gives the first note these lines."""
    item = {"id": FIRST_NOTE, "note_type": "common", "params": {"text": "\n".join(lines)}}
    return "PATCH", f"/{on}/notes", [item]


def fields(values: dict[int, str], field_id: int = STATUS) -> Write:
    """Return the call that gives deals a value of a field."""
    items = [
        {"id": number, "custom_fields_values": [{"field_id": field_id, "values": [{"value": value}]}]}
        for number, value in values.items()
    ]
    return "PATCH", "/leads", items


def tags(*numbers: int, name: str = "Email Unsubscribed", on: str = "contacts") -> Write:
    return "PATCH", f"/{on}", [{"id": number, "tags_to_add": [{"name": name}]} for number in numbers]


def untags(*numbers: int, name: str = "Email Unsubscribed", on: str = "contacts") -> Write:
    return "PATCH", f"/{on}", [{"id": number, "tags_to_delete": [{"name": name}]} for number in numbers]


# -- the service in it -------------------------------------------------------------------------------------------


def move_in(house: House, rules: Rules, env: dict[str, str]) -> Dispatcher:
    """Put the service's parts together as create_app does, but on the house's clock and without destinations."""
    kommo = kommo_client(house.town)
    flows = {
        Lane.RESOLVE: ("kommo", ResolveFlow(kommo, rules, [Lane.KOMMO], clock=house.clock)),
        Lane.KOMMO: ("kommo", EmailActivityFlow(kommo, house.clock)),
    }
    dispatcher = Dispatcher(
        journal_at(env["DATABASE_URL"]), flows, places=2, retention=365 * DAY, clock=house.clock
    )
    routes = make_routes(settings.load(env))
    app = Flask(__name__)
    receiver = Receiver(routes, rules, dispatcher, budget=GENEROUS_SECONDS, clock=house.clock)
    app.register_blueprint(make_blueprint(receiver, routes))
    house.client = app.test_client()
    house.client.environ_base["HTTP_X_WEBHOOK_SECRET"] = SECRET
    return dispatcher
