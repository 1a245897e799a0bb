"""A service process, what arrived at the vendors, and waiting for something to become true."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import nursery
import psutil
import requests
from databases import run_sql

from sandbox.courier import Target
from sandbox.town import Town
from sandbox.vendor import Vendor

ROOT = Path(__file__).parent.parent
SECRET = "test-secret-0123456789"
GENEROUS_SECONDS = 60.0
GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.conf.py", "wsgi:app")
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"

QUALIFIED, PROPOSAL_SENT, NEGOTIATION = 61_000_102, 61_000_103, 61_000_104  # as in config/mapping.yaml
PIPELINE = 7_100_010

# What Encharge adds to a person by itself.
# What Encharge adds, and the key of the last event, which is another one each time.
NOT_COMPARED = {"kommo_last_event", "id", "leadScore", "createdAt", "updatedAt", "lastActivity", "name", "tags"}
OUR_FIELDS = ("Last email activity", "Email status")


def environment(town: Town, folder: Path) -> dict[str, str]:
    """Return the settings of a service that talks to the town."""
    return {
        **town.environment(),
        "KOMMO_WEBHOOK_SECRET": SECRET,
        "ENCHARGE_WEBHOOK_SECRET": SECRET,
        "ORTTO_WEBHOOK_SECRET": SECRET,
        "KOMMO_CF_EMAIL_ACTIVITY": "800110",
        "KOMMO_CF_EMAIL_STATUS": "800111",
        "DATABASE_URL": f"sqlite:///{folder / 'journal.db'}",
        "MAPPING_FILE": str(ROOT / "config" / "mapping.yaml"),
        "LOG_LEVEL": "INFO",
        "RECONCILE_MINUTES": "0",  # its calls would be counted among those that the tests are about
    }


def eventually(true: Callable[[], Any], seconds: float = GENEROUS_SECONDS) -> Any:
    """Wait until something is true and return it; fail if it does not become so."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds} s")
        time.sleep(pause)
        pause = min(1.5 * pause, 0.25)  # to look is work too, and often for those whom it waits for


def arrived(town: Town) -> dict[str, Any]:
    """Return what the service wrote at the vendors; what it did not write at all is left out."""
    kommo, encharge, ortto = town.kommo.state(), town.encharge.state(), town.ortto.state()
    tags = {int(key): [tag["name"] for tag in item["_embedded"]["tags"]] for key, item in kommo["contacts"].items()}
    found = {
        "encharge_people": [
            {key: value for key, value in person.items() if key not in NOT_COMPARED}
            for person in encharge["people"]
        ],
        "encharge_events": [_some(event, "name", "email", "properties") for event in encharge["events"]],
        "ortto_people": [
            {key: value for key, value in person["fields"].items() if key != "bol::p"} for person in ortto["people"]
        ],
        "ortto_activities": [
            _some(activity, "activity_id", "email", "attributes", "created_at") for activity in ortto["activities"]
        ],
        "tasks": [
            {
                **_some(task, "entity_id", "responsible_user_id", "task_type_id", "text"),
                "due_in": task["complete_till"] - time.time(),
            }
            for task in kommo["tasks"].values()
        ],
        "notes": [
            {"entity_id": note["entity_id"], "text": note["params"]["text"]} for note in kommo["notes"]["leads"]
        ],
        "fields": {int(key): values for key, lead in kommo["leads"].items() if (values := _our_fields(lead))},
        "tags": {
            key: names for key, names in tags.items() if names not in ([], ["vip"])
        },  # one has `vip` as seeded
    }
    return {name: what for name, what in found.items() if what}


def _some(item: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: item[name] for name in names}


def _our_fields(lead: Mapping[str, Any]) -> dict[str, Any]:
    values = lead["custom_fields_values"] or []
    return {item["field_name"]: item["values"][0]["value"] for item in values if item["field_name"] in OUR_FIELDS}


def stage_hook(*lead_ids: int, status: int = QUALIFIED, at: int | None = None) -> bytes:
    """Return the form with which Kommo tells of deals that entered a stage; `at` None: now."""
    fields: dict[str, object] = {"account[subdomain]": "examplebakery", "account[id]": 30_900_001}
    for index, lead_id in enumerate(lead_ids):
        values = {
            "id": lead_id,
            "status_id": status,
            "pipeline_id": PIPELINE,
            "updated_at": int(time.time()) if at is None else at,
        }
        fields |= {f"leads[status][{index}][{name}]": value for name, value in values.items()}
    return urlencode(fields).encode()


def add_deals(town: Town, count: int, status: int = QUALIFIED) -> dict[int, str]:
    """Add deals, each with a contact of its own; return the emails by deal."""
    emails = [f"person{number}@burst.example" for number in range(count)]
    contacts = [town.kommo.add_contact(f"Person {email}", [email]) for email in emails]
    return {
        town.kommo.add_deal(f"Deal of {email}", status, price=100, contact_ids=[contact]): email
        for contact, email in zip(contacts, emails, strict=True)
    }


def at_once(calls: Iterable[Callable[[], Any]], connections: int) -> list[Any]:
    """Make the calls from so many threads at once; return their results in order."""
    with ThreadPoolExecutor(connections) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def journal_file(env: Mapping[str, str]) -> Path:
    """Return where the journal lies."""
    return Path(env["DATABASE_URL"].removeprefix("sqlite:///"))


def rows(env: Mapping[str, str], query: str) -> list[tuple[Any, ...]]:
    """Run one SQL statement on the journal, from outside; return its rows."""
    return run_sql(env["DATABASE_URL"], query)


def in_the_end(service: Service, answer: requests.Response) -> dict[str, Any]:
    """Return what a webhook's answer would be once its work is done.

    A busy machine may need longer for it than an answer waits.
    """
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    for entry in said["events"]:
        if entry["status"] == "accepted":
            ended = dict(eventually(lambda entry=entry: _unless_pending(service, entry["id"])))
            words = {"dead": "dead", "skipped": "skipped", "done": "delivered"}
            entry["status"] = next(word for state, word in words.items() if state in ended)
            entry["reason"] = "; ".join(filter(None, ended.values()))
    statuses = {"accepted" if entry["status"] == "dead" else entry["status"] for entry in said["events"]}
    said["status"] = next((word for word in ("accepted", "delivered", "duplicate") if word in statuses), "ignored")
    return said


def _unless_pending(service: Service, event_id: int) -> list[tuple[Any, ...]]:
    query = "SELECT state, reason FROM jobs WHERE event_id = :id"
    jobs = run_sql(service.variables["DATABASE_URL"], query, id=event_id)
    return [] if "pending" in dict(jobs) else jobs


def pass_time(env: Mapping[str, str]) -> None:
    """Let every pause, wait and lease of the journal be over, as if hours had passed."""
    rows(env, "UPDATE jobs SET due_at = 0, lease_until = 0 WHERE state = 'pending'")
    rows(env, "UPDATE lanes SET paused_until = 0")


def wait_until_nobody_is_inside(vendor: Vendor) -> None:
    """Wait until a vendor has answered all that it was asked, also by a service that is dead by now."""
    server: Any = vendor._server
    with socket.create_connection(
        (urlsplit(vendor.url).hostname, urlsplit(vendor.url).port), GENEROUS_SECONDS
    ) as last:
        # What lay in front of its door before this nonsense has been let in when this is refused.
        last.sendall(b"?\r\n\r\n")
        assert last.recv(20).startswith(b"HTTP/1.1 400")
    eventually(lambda: not server.busy)


def free_port() -> int:
    """Return a free port of loopback, to be listened on later.

    It is below those that the system gives to whoever asks for any: nobody gets it in between.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Service:
    """The service as a process of its own under gunicorn, on a free port of loopback."""

    def __init__(
        self,
        variables: dict[str, str],
        log: Path,
        constants: Mapping[str, float] | None = None,
    ) -> None:
        """`constants`: what has another value in it, by its full name, such as app.alerts.LOOK_SECONDS."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.variables = variables
        self._log = log
        self._output = log.open("wb")
        self.process = nursery.Process(
            GUNICORN,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(port), **variables},
            stdout=self._output,
            stderr=self._output,
            constants=constants,
        )
        self._session = requests.Session()

    def wait_until_ready(self) -> None:
        """Wait until it answers, or fail with its log."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log()}")
            try:
                return self._session.get(f"{self.url}/readyz", timeout=5).ok
            except (requests.ConnectionError, requests.Timeout):
                return False

        eventually(ready)

    def post(self, route: str, body: bytes, content_type: str, **headers: str) -> requests.Response:
        """Post a webhook with the secret, on a connection of its own."""
        return requests.post(
            f"{self.url}/webhooks/{route}",
            data=body,
            headers={"Content-Type": content_type, "X-Webhook-Secret": SECRET, **headers},
            timeout=GENEROUS_SECONDS,
        )

    def connect(self, town: Town) -> None:
        """Have the town's vendors send their webhooks here."""
        town.kommo.hook(f"{self.url}/webhooks/kommo/{SECRET}")
        town.encharge.target = Target(f"{self.url}/webhooks/encharge?secret={SECRET}")
        town.ortto.target = Target(f"{self.url}/webhooks/ortto", {"X-Webhook-Secret": SECRET})

    def log(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """End it as a power cut would: master and workers at once."""
        self._let_go()
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGSTOP)  # it would start another worker for a dead one
        workers = self.workers()
        for process in (self.process, *workers):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        eventually(lambda: not any(runs(worker) for worker in workers))

    def workers(self) -> list[psutil.Process]:
        """Return the processes that the master has started."""
        return psutil.Process(self.process.pid).children()

    close = kill

    def stop(self) -> None:
        """Ask it to stop and wait for it."""
        self._let_go()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    def _let_go(self) -> None:
        self._session.close()
        self._output.close()


def runs(process: psutil.Process) -> bool:
    """Say whether a process is there and not dead."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
