"""Alerts: what is told, once, and when it is over; by real services to a real receiver; what goes wrong there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from databases import run_sql
from parts import VENDORS, Clock, Desk, stage_event
from support import FORM, QUALIFIED, SECRET, Service, eventually, free_port, stage_hook

from app import alerts
from app.access import LongLived, Standing
from app.alerts import Alerts
from app.clients.alerts import AlertClient
from app.events import Lane, Outcome, State
from app.journal import Journal, Settlement
from app.logs import Veil
from sandbox.kommo.oauth import json_web_token
from sandbox.town import Town

LEAD = 41_500_011
LOOK_SECONDS = 0.5
QUICK = {"app.alerts.LOOK_SECONDS": LOOK_SECONDS, "app.alerts.GATHER_SECONDS": 1.0}
"""For services that are waited for. The times themselves are held by the tests with a clock of their own."""
LINK = "https://relay.example.com/ops"
LOCKED = "Ortto: POST /activities/create answered 401: Unauthorized"
LOCKED_TOLD = (
    f"Kommo Relay: Ortto is paused: {LOCKED}. What is owed waits. A key, a plan or its rights need you. {LINK}"
)
LOCKED_OVER = f"Kommo Relay: Over: Ortto takes calls again. {LINK}"


@dataclass
class Chat:
    """A receiver of alerts on loopback. `statuses`: its next answers; `hang`: answers nothing until it is set."""

    port: int = 0
    texts: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    hang: threading.Event | None = None
    drip: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/T0/B0/a-secret-path?key=of-the-alerts"


class Handler(BaseHTTPRequestHandler):
    """Takes what Slack takes."""

    chat: Chat

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.chat.calls.append((self.path, self.headers["Content-Type"], json.loads(body)))
        if self.chat.hang:
            self.chat.hang.wait(60)
            return
        status = self.chat.statuses.pop(0) if self.chat.statuses else 200
        if status < 300:
            self.chat.texts.append(json.loads(body)["text"])
        self.send_response(status)
        self.send_header("Location", f"http://127.0.0.1:{self.chat.port}/elsewhere")
        self.end_headers()
        self.wfile.write(b"<html>ok</html>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def chat() -> Iterator[Chat]:
    made = Chat()
    handler = type("HandlerOfOne", (Handler,), {"chat": made})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield made
        if made.hang:
            made.hang.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    made = Journal(database_url)
    yield made
    made.close()


@dataclass
class Watch:
    """Looks by hand, with a clock that can be put forward."""

    alerts: Alerts
    journal: Journal
    clock: Clock

    def look(self, after: float = 0.0) -> None:
        self.clock.put_forward(after)
        self.alerts.look(threading.Event())

    def go_on(self, seconds: int) -> None:
        """Look every ten seconds, as a process does that runs."""
        for _ in range(seconds // 10):
            self.look(after=10)

    def pause(self, vendor: str, seconds: float, reason: str = LOCKED) -> None:
        self.journal.pause(vendor, self.clock() + seconds, reason)

    def die(self, *lead_ids: int) -> list[int]:
        """Have a job of each deal given up; return the ids of their events."""
        desk = Desk(self.journal, self.clock)
        desk.record(*(stage_event(lead_id, QUALIFIED) for lead_id in lead_ids))
        given_up = [Settlement(job, Outcome(State.DEAD, "refused")) for job in desk.claim(Lane.RESOLVE)]
        self.journal.settle(given_up, now=self.clock())
        return [settlement.job.event.id for settlement in given_up]


Make = Callable[..., Watch]


@pytest.fixture
def make(journal: Journal, chat: Chat) -> Make:
    """Build a process that looks; two of them share the journal, and time if they are given a clock."""

    def build(clock: Clock | None = None, **options: Any) -> Watch:
        clock = clock or Clock()
        told = {"overdue": 900.0, "watches_hook": True, "link": LINK, "clean": Veil((SECRET,), emails="none").words}
        made = Alerts(journal, AlertClient(chat.url), VENDORS, clock=clock, **{**told, **options})
        return Watch(made, journal, clock)

    return build


@pytest.fixture
def watch(make: Make) -> Watch:
    return make()


# -- what is told ------------------------------------------------------------------------------------------------


def test_a_vendor_that_does_not_let_us_in_is_told_once_and_once_when_it_is_over(watch: Watch, chat: Chat) -> None:
    watch.look()
    watch.pause("ortto", 300)
    for _ in range(3):
        watch.look(after=5)
    assert chat.texts == [LOCKED_TOLD]

    watch.look(after=290)  # it is asked, and refuses again
    watch.pause("ortto", 300)
    watch.go_on(340)
    assert chat.texts == [LOCKED_TOLD]

    watch.go_on(100)
    assert chat.texts == [LOCKED_TOLD, LOCKED_OVER]
    (path, content_type, body), _ = chat.calls
    assert (path, content_type) == ("/services/T0/B0/a-secret-path?key=of-the-alerts", "application/json")
    assert body == {"text": LOCKED_TOLD}


def test_a_vendor_that_merely_fails_is_told_when_it_fails_for_long(watch: Watch, chat: Chat) -> None:
    reason = "Encharge: POST /people answered 503: Service Unavailable"
    for _ in range(11):
        watch.pause("encharge", 30, reason)
        watch.look(after=20)
        watch.look(after=30)  # it is asked again
    assert chat.texts == []
    for _ in range(3):
        watch.pause("encharge", 30, reason)
        watch.look(after=20)
        watch.look(after=30)
    assert chat.texts == [f"Kommo Relay: Encharge is paused: {reason}. What is owed waits. {LINK}"]


def test_a_short_outage_is_not_told_nor_that_it_is_over(watch: Watch, chat: Chat) -> None:
    watch.pause("kommo", 30, "Kommo: no answer in time to GET /leads")
    watch.go_on(400)
    assert chat.texts == []


def test_deaths_are_gathered_into_one_message(watch: Watch, chat: Chat) -> None:
    watch.look()
    events = watch.die(*range(1, 41))
    watch.look(after=1)
    events += watch.die(*range(101, 111))
    watch.look(after=10)
    assert chat.texts == []
    watch.look(after=10)
    watch.look(after=10)
    remedy = f"see `flask events --state dead`; once it is mended, `flask replay`. {LINK}"
    first = f"Kommo Relay: 50 deliveries were given up (event 1, 2, 3, 4, 5, …): {remedy}"
    assert chat.texts == [first]

    (event,) = watch.die(201)
    watch.look(after=100)
    watch.look(after=100)
    assert chat.texts == [first], "too soon after the last message"
    watch.look(after=500)
    assert chat.texts == [first, f"Kommo Relay: A delivery was given up (event {event}): {remedy}"]

    watch.look(after=3600)
    assert len(chat.texts) == 2
    watch.journal.take_up_again([*events, event], now=watch.clock())
    watch.look(after=5)
    watch.look(after=5)
    assert chat.texts[2:] == [f"Kommo Relay: Over: no dead job is left. {LINK}"]


def test_what_died_before_anybody_wanted_to_hear_is_not_told(make: Make, chat: Chat) -> None:
    watch = make()
    watch.die(1, 2)
    for _ in range(3):
        watch.look(after=60)
    watch.die(3)
    watch.look(after=1)
    watch.look(after=30)
    assert [text.split("(")[0] for text in chat.texts] == ["Kommo Relay: A delivery was given up "]


def test_a_death_that_is_seen_late_is_told(watch: Watch, chat: Chat) -> None:
    """Another machine's clock is behind: it says to have given the job up before our last look."""
    watch.look(after=100)
    behind = Watch(watch.alerts, watch.journal, Clock())
    behind.die(1)
    watch.look(after=1)
    watch.look(after=30)
    watch.look(after=3600)
    assert len(chat.texts) == 1


def test_how_kommos_webhook_stands_is_told(watch: Watch, chat: Chat) -> None:
    fault = "Kommo has no webhook that leads here with our secret: add <our address>/webhooks/kommo/<SECRET>."
    watch.look()
    watch.alerts.hook_stands("")
    watch.alerts.hook_stands(fault)
    watch.alerts.hook_stands(fault)
    watch.look(after=5)
    watch.look(after=5)
    escaped = fault.replace("<", "&lt;").replace(">", "&gt;")
    assert chat.texts == [f"Kommo Relay: {escaped} {LINK}".replace("..", ".").replace("&gt;. h", "&gt; h")]
    watch.alerts.hook_stands("")
    watch.look(after=5)
    watch.look(after=5)
    assert chat.texts[1:] == [f"Kommo Relay: Over: Kommo's webhook is well again. {LINK}"]


def test_that_kommo_will_let_us_in_no_more_is_told_thirty_days_seven_days_and_a_day_before(
    make: Make, chat: Chat
) -> None:
    clock, day = Clock(), 86_400
    token = json_web_token({"exp": clock() + 31 * day})
    watch = make(clock, access=lambda: LongLived(token).standing())
    for days in (0, 2, 1, 1, 21, 1, 4.5, 0.5, 2):  # 31, 29, 28, 27, 6, 5, half a day, none
        watch.look(after=round(days * day))
        watch.look(after=5)
    words = [text.partition("no more: the long-lived token ")[2].partition(": ")[0] for text in chat.texts]
    assert [told.rpartition(", ")[2] for told in words[:3]] == ["in 29 days", "in 6 days", "in 12 hours"]
    assert (len(words), words[-1].startswith("expired on 20")) == (4, True)
    assert f"Integrations, Keys and scopes): KOMMO_ACCESS_TOKEN. {LINK}" in chat.texts[0]
    token = json_web_token({"exp": clock() + 900 * day})
    watch.look(after=5)
    watch.look(after=5)
    assert chat.texts[4:] == [f"Kommo Relay: Over: what lets us into Kommo is good again. {LINK}"]


def test_that_somebody_must_log_in_to_kommo_is_told_at_once(make: Make, chat: Chat) -> None:
    fault = "the token cannot be renewed (Kommo: POST /oauth2/access_token answered 401: Token has been revoked)"
    watch = make(access=lambda: Standing("the login to Kommo", None, "run `flask kommo login`", fault))
    watch.look()
    watch.look(after=3600)
    assert chat.texts == [f"Kommo Relay: Kommo lets us in no more: {fault}: run `flask kommo login`. {LINK}"]


def test_what_was_wrong_with_the_webhook_is_not_told_when_nobody_looks_any_more(make: Make, chat: Chat) -> None:
    make().alerts.hook_stands("Kommo has switched our webhook off")
    make(watches_hook=False).look()
    assert chat.calls == []


def test_a_job_that_nobody_carries_out_is_told(watch: Watch, chat: Chat) -> None:
    Desk(watch.journal, watch.clock).record(stage_event(1, QUALIFIED))
    watch.look(after=899)
    watch.look(after=5)
    watch.look(after=30)
    assert chat.texts == []
    watch.look(after=30)
    watch.look(after=30)
    told = f"Kommo Relay: A job has been due for more than 15 minutes: is a worker running? {LINK}"
    assert chat.texts == [told]
    Desk(watch.journal, watch.clock).claim(Lane.RESOLVE)
    run = "UPDATE jobs SET state = 'done'"
    watch.journal.settle([], now=0)
    with watch.journal._engine.begin() as connection:
        connection.exec_driver_sql(run)
    watch.go_on(50)
    assert chat.texts == [told]
    watch.go_on(50)
    assert chat.texts == [told, f"Kommo Relay: Over: no job is overdue any more. {LINK}"]


def test_a_job_that_waits_for_a_paused_vendor_is_not_overdue(watch: Watch, chat: Chat) -> None:
    Desk(watch.journal, watch.clock).record(stage_event(1, QUALIFIED))
    watch.pause("kommo", 7200)
    for _ in range(5):
        watch.look(after=900)
    assert len(chat.texts) == 1
    assert "Kommo is paused" in chat.texts[0]


def test_no_secret_no_address_and_no_markup_is_in_a_message(make: Make, chat: Chat) -> None:
    watch = make()
    words = f"Ortto: POST /x answered 403: <!channel> &\nzoe@example.com zoe%40example.com {SECRET} " + "y " * 400
    watch.pause("ortto", 300, words)
    watch.look()
    (text,) = chat.texts
    assert [part for part in (SECRET, "zoe", "example.com ", "<", "\n") if part in text] == []
    assert "answered 403: &lt;!channel&gt; &amp; (an email address) (an email address) *** y y" in text
    assert len(text) < 550


# -- who tells it ------------------------------------------------------------------------------------------------


def test_a_restart_tells_nothing_again(make: Make, chat: Chat) -> None:
    before = make()
    before.pause("ortto", 300)
    before.die(1)
    before.look()
    before.die(2)
    before.look(after=30)
    before.look(after=30)
    told = list(chat.texts)
    after = make(before.clock)
    after.journal.end_turn(alerts.TURN)
    for _ in range(5):
        after.look(after=5)
    assert chat.texts == told
    assert len(told) == 2


def test_while_nobody_looked_nothing_is_over(make: Make, chat: Chat) -> None:
    before = make()
    before.pause("ortto", 300)
    before.look()
    after = make(before.clock)
    after.journal.end_turn(alerts.TURN)
    after.look(after=3600)
    after.pause("ortto", 300)
    after.look(after=10)
    assert chat.texts == [LOCKED_TOLD]


# -- a receiver that does not do its part ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 307, 404, 500])
def test_what_is_not_taken_is_told_later_and_once(watch: Watch, chat: Chat, status: int) -> None:
    chat.statuses = [status]
    watch.pause("ortto", 600)
    watch.look()
    watch.look(after=1)
    assert len(chat.calls) == 1, "not again at once"
    watch.alerts._not_before = 0.0  # ten seconds later
    watch.look(after=5)
    watch.look(after=5)
    assert chat.texts == [LOCKED_TOLD]
    assert [path for path, _, _ in chat.calls if path == "/elsewhere"] == []


def test_it_is_tried_again_ever_later(watch: Watch, chat: Chat) -> None:
    chat.statuses = [500] * 20
    watch.pause("ortto", 86400)
    waits = []
    for _ in range(9):
        watch.alerts._not_before = 0.0
        watch.look(after=1)
        waits.append(round(watch.alerts._not_before - time.monotonic(), -1))
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_a_receiver_that_hangs_is_waited_for_no_longer_than_told(
    watch: Watch, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes late, after we had stopped to wait, is not told again."""
    monkeypatch.setattr(alerts, "SEND_SECONDS", 0.3)
    chat.hang = threading.Event()
    watch.pause("ortto", 600)
    began = time.monotonic()
    watch.look()
    watch.look(after=5)
    assert time.monotonic() - began < 5
    assert len(chat.calls) == 1
    chat.hang.set()
    eventually(lambda: not (watch.alerts._sender and watch.alerts._sender.is_alive()))


# -- the whole service -------------------------------------------------------------------------------------------


def test_of_two_replicas_one_tells_and_the_other_goes_on_when_it_dies(
    start_service: Callable[..., Service], database_url: str, town: Town, chat: Chat
) -> None:
    told = {"DATABASE_URL": database_url, "ALERT_WEBHOOK_URL": chat.url, "PUBLIC_URL": "https://relay.example.com"}
    replicas = [start_service(QUICK, **told) for _ in range(2)]
    town.ortto.faults.add(status=401)
    for number, replica in enumerate(replicas):
        replica.post("kommo", stage_hook(LEAD, status=QUALIFIED + number), FORM)

    eventually(lambda: chat.texts)
    time.sleep(2.5 * LOOK_SECONDS)
    assert [text[:32] for text in chat.texts] == ["Kommo Relay: Ortto is paused: Or"]
    assert chat.texts[0].endswith(f"need you. {LINK}")

    ((owner,),) = run_sql(database_url, "SELECT holder FROM cooldowns WHERE key = 'turn:alerts'")
    teller = next(
        replica for replica in replicas if int(owner.split(":")[1]) in [one.pid for one in replica.workers()]
    )
    teller.kill()
    (other,) = (replica for replica in replicas if replica is not teller)
    run_sql(database_url, "UPDATE cooldowns SET until = 0 WHERE key = 'turn:alerts'")  # as if a minute had passed
    for vendor in (town.encharge, town.encharge.ingest):
        vendor.faults.add(status=403)
    other.post("kommo", stage_hook(LEAD, status=QUALIFIED + 2), FORM)

    eventually(lambda: len(chat.texts) == 2)
    assert chat.texts[1].startswith("Kommo Relay: Encharge is paused: ")
    time.sleep(1.5 * LOOK_SECONDS)
    assert len(chat.texts) == 2


def test_a_missing_webhook_and_a_given_up_delivery_are_told(
    start_service: Callable[..., Service], town: Town, chat: Chat
) -> None:
    service = start_service(QUICK, ALERT_WEBHOOK_URL=chat.url, RECONCILE_MINUTES="1")
    town.ortto.faults.add(status=422)
    eventually(lambda: chat.texts)  # the first look is over: what dies from now on is told
    service.post("kommo", stage_hook(LEAD), FORM)
    eventually(lambda: len(chat.texts) == 2)
    assert chat.texts[0].startswith("Kommo Relay: Kommo has no webhook that leads here with our secret: ")
    assert chat.texts[1].startswith("Kommo Relay: A delivery was given up (event 1): ")
    assert [text for text in chat.texts if SECRET in text or "relay.example.com" in text] == []


@pytest.mark.parametrize("receiver", ["hangs", "refuses", "is not there"])
def test_a_receiver_that_does_not_take_alerts_delays_nothing(
    start_service: Callable[..., Service], town: Town, chat: Chat, receiver: str
) -> None:
    chat.hang = threading.Event() if receiver == "hangs" else None
    chat.statuses = [500] * 100
    url = chat.url if receiver != "is not there" else f"http://127.0.0.1:{free_port()}/services/a-secret-path"
    service = start_service(ALERT_WEBHOOK_URL=url)
    town.ortto.faults.add(status=401)
    service.post("kommo", stage_hook(LEAD), FORM)
    eventually(lambda: chat.calls or "alert was not taken" in service.log())

    began = time.monotonic()
    answer = service.post("kommo", stage_hook(LEAD, status=QUALIFIED + 1), FORM)
    assert answer.json()["status"] == "accepted"
    assert time.monotonic() - began < 2
    service.stop()

    # Gunicorn itself takes some two seconds; a look, or the patience with the receiver, would take longer.
    assert time.monotonic() - began < 7
    assert service.process.returncode == 0
    assert "a-secret-path" not in service.log()
    assert "Traceback" not in service.log()
    assert chat.texts == []
