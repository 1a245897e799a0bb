"""The demo: a deal moves and the email side hears it; a contact acts and sales hears it. `make demo`."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests

from sandbox.__main__ import SECRET, connect
from sandbox.town import Town

EMAIL = "nora.quist@harbourlight.example"
PATIENCE_SECONDS = 20.0
OPS_TOKEN = "demo-ops-token-0123456789"

BOLD, GREEN, RED, CYAN, DIM = "1", "32", "31", "36", "2"


def say(text: str, *codes: str) -> None:
    """Print a line, in colour where the terminal has it."""
    coloured = (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")) and not os.environ.get("NO_COLOR")
    print(f"\033[{';'.join(codes)}m{text}\033[0m" if codes and coloured else text, flush=True)


class Demo:
    """Tells the story and counts what did not arrive."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.missing = 0
        self.times: list[float] = []

    def tell(self, what: str, act: Callable[[], object], arrivals: dict[str, Callable[[], Any]]) -> None:
        """Do something, then watch each thing arrive and print how long it took."""
        say(f"\n{what}", BOLD)
        began = time.monotonic()
        act()
        waiting = dict(arrivals)
        while waiting and time.monotonic() - began < PATIENCE_SECONDS:
            for text in [text for text, arrived in waiting.items() if arrived()]:
                del waiting[text]
                self.times.append(time.monotonic() - began)
                say(f"  ✓ {text}  {self.times[-1] * 1000:.0f} ms", GREEN)
            time.sleep(0.002)
        for text in waiting:
            self.missing += 1
            say(f"  ✗ {text}: did not arrive within {PATIENCE_SECONDS:.0f} s", RED)

    # -- what is where --

    def person(self) -> dict[str, Any]:
        """Return Encharge's person."""
        return next((person for person in self.town.encharge.state()["people"] if person["email"] == EMAIL), {})

    def event(self, name: str) -> Callable[[], Any]:
        """Say whether Encharge has recorded an event."""
        return lambda: any(
            event["email"] == EMAIL and event["name"] == name for event in self.town.encharge.state()["events"]
        )

    def contact(self) -> dict[str, Any]:
        """Return Ortto's person, as fields."""
        people = (person["fields"] for person in self.town.ortto.state()["people"])
        return next((fields for fields in people if fields.get("str::email") == EMAIL), {})

    def activity(self, stage: str) -> Callable[[], Any]:
        """Say whether Ortto has an activity of a stage."""
        return lambda: any(
            activity["email"] == EMAIL and activity["attributes"].get("str:cm:stage") == stage
            for activity in self.town.ortto.state()["activities"]
        )

    def moves(self, deal: int, status: int, label: str, stage: str) -> None:
        """Move the deal and watch both platforms hear it."""
        self.tell(
            f"Sales moves the deal to “{label}” in Kommo",
            lambda: self.town.kommo.move(deal, status),
            {
                f"Encharge: the person's stage is {stage}": lambda: (
                    self.person().get("kommo_current_stage") == stage
                ),
                f"Encharge: event deal_moved_to_{stage}": self.event(f"deal_moved_to_{stage}"),
                f"Ortto: the person's stage is {label}": lambda: self.contact().get("str:cm:kommo-stage") == label,
                f"Ortto: activity crm-stage-changed, {label}": self.activity(label),
            },
        )

    def tasks(self, deal: int, count: int) -> Callable[[], Any]:
        """Say whether a deal has so many tasks in Kommo."""
        return lambda: sum(task["entity_id"] == deal for task in self.town.kommo.state()["tasks"].values()) == count

    def notes(self, deal: int, count: int) -> Callable[[], Any]:
        """Say whether a deal has so many notes in Kommo."""
        return lambda: sum(note["entity_id"] == deal for note in self.town.kommo.state()["notes"]["leads"]) == count

    def note(self, deal: int) -> str:
        """Return the text of a deal's first note in Kommo."""
        notes = self.town.kommo.state()["notes"]["leads"]
        return next((str(note["params"]["text"]) for note in notes if note["entity_id"] == deal), "")


def story(demo: Demo) -> None:
    """Tell the whole story."""
    kommo, encharge, ortto = demo.town.kommo, demo.town.encharge, demo.town.ortto
    person = kommo.add_contact("Nora Quist", [EMAIL], fields={"POSITION": "Head of Operations"})
    deal = kommo.add_deal("Harbour Light: 40 seats", 61000101, price=4800, contact_ids=[person])
    for status, label, stage in (
        (61000102, "Qualification", "qualified"),
        (61000103, "Proposal sent", "proposal_sent"),
        (61000104, "Negotiation", "negotiation"),
    ):
        demo.moves(deal, status, label, stage)

    def field(name: str) -> str:
        values = kommo.state()["leads"][str(deal)]["custom_fields_values"] or []
        return next((str(item["values"][0]["value"]) for item in values if item["field_name"] == name), "")

    def tagged() -> bool:
        contact = kommo.state()["contacts"][str(person)]
        return any(tag["name"] == "Email Unsubscribed" for tag in contact["_embedded"]["tags"])

    demo.tell(
        "Nora opens the proposal mail that Encharge sent",
        lambda: encharge.act(EMAIL, "opened", broadcast="Proposal follow-up - May"),
        {
            "Kommo: a task for the deal's owner, due in 2 hours": demo.tasks(deal, 1),
            "Kommo: a note on the deal": demo.notes(deal, 1),
        },
    )
    demo.tell(
        "Nora clicks in it moments later: one signal, and no second task within 24 hours",
        lambda: encharge.act(EMAIL, "clicked", broadcast="Proposal follow-up - May"),
        {
            "Kommo: the click stands in the same note, and there is still one task": lambda: (
                "clicked a link" in demo.note(deal) and demo.notes(deal, 1)() and demo.tasks(deal, 1)()
            ),
        },
    )
    demo.tell(
        "Nora clicks in a mail that Ortto sent",
        lambda: ortto.act(EMAIL, "clicked", subject="Your offer is ready", shape="activity"),
        {
            "Kommo: a second note on the deal": demo.notes(deal, 2),
            "Kommo: the deal's field “Last email activity”": lambda: "offer" in field("Last email activity"),
        },
    )
    demo.tell(
        "Nora unsubscribes in Ortto",
        lambda: ortto.act(EMAIL, "unsubscribed", shape="activity"),
        {
            "Kommo: the contact is tagged “Email Unsubscribed”": tagged,
            "Kommo: the deal's field “Email status” is Unsubscribed": lambda: (
                field("Email status") == "Unsubscribed"
            ),
        },
    )
    demo.tell(
        "Nora subscribes again in Ortto",
        lambda: ortto.act(EMAIL, "resubscribed", shape="activity"),
        {
            "Kommo: the tag is gone": lambda: not tagged(),
            "Kommo: the field is Subscribed": lambda: field("Email status") == "Subscribed",
        },
    )


def free_port() -> int:
    """Return a port that is free, below those that the system gives to whoever asks for any."""
    while True:
        port = random.randint(10_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def service(town: Town, folder: Path) -> Iterator[str]:
    """Run the service under gunicorn, as in production; yield its URL."""
    port = free_port()
    variables = {
        **town.environment(),
        "KOMMO_WEBHOOK_SECRET": SECRET,
        "ENCHARGE_WEBHOOK_SECRET": SECRET,
        "ORTTO_WEBHOOK_SECRET": SECRET,
        "KOMMO_CF_EMAIL_ACTIVITY": "800110",
        "KOMMO_CF_EMAIL_STATUS": "800111",
        "DATABASE_URL": f"sqlite:///{folder / 'journal.db'}",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "OPS_TOKEN": OPS_TOKEN,
    }
    log = folder / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.conf.py", "wsgi:app"],
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(40)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the service; exit with its log if it does not come up."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/readyz", timeout=2).ok:
                return
        time.sleep(0.05)
    sys.exit(f"The service did not start:\n{log.read_text(errors='replace')}")


def keep_running(town: Town, url: str, log: Path) -> None:
    """Leave everything running and say what can be done with it."""
    say("\nEverything keeps running. Ctrl-C stops it.", BOLD)
    say(f"  The service:  {url}/readyz      its log: {log}")
    say(f"  The page:     {url}/ops         any user name; the password is {OPS_TOKEN}")
    say(f"  The sandbox:  {town.url}/       state, calls, deliveries, levers")
    say("\nMove another deal and look what came of it:", BOLD)
    say(f"  curl -d '{{\"status_id\": 61000103}}' {town.url}/kommo/deals/41500011/move", CYAN)
    say(f"  curl {town.url}/deliveries", CYAN)
    say("\nOr send a webhook yourself:", BOLD)
    body = '{"event": "email_opened", "email": "ann.keller@example.test", "broadcastName": "Our pricing"}'
    say(f"  curl -H 'X-Webhook-Secret: {SECRET}' -d '{body}' {url}/webhooks/encharge", CYAN)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def main() -> None:
    """Run the demo; exit 0 only if everything arrived."""
    say("Kommo Relay, against a sandbox of Kommo, Encharge and Ortto on this machine", BOLD, CYAN)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kommo-relay-demo-") as name, Town() as town:
        folder = Path(name)
        with service(town, folder) as url:
            connect(town, url, SECRET)
            demo = Demo(town)
            story(demo)
            demo.town.courier.wait(PATIENCE_SECONDS)
            times = sorted(demo.times)
            middle = times[len(times) // 2] * 1000 if times else 0
            say(
                f"\n{len(times)} things arrived, {demo.missing} did not; the middle one took {middle:.0f} ms, "
                f"all {time.monotonic() - began:.1f} s.",
                BOLD,
                RED if demo.missing else GREEN,
            )
            if os.environ.get("KEEP"):
                keep_running(town, url, folder / "service.log")
    sys.exit(1 if demo.missing else 0)


if __name__ == "__main__":
    main()
