"""The services of compose.postgres.yaml as processes: two web, one worker, PostgreSQL, nginx as it is shipped.

`python -m bench.arrangement` kills each of them in turn under a steady load, and says what became of the webhooks.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

import psutil
import requests

from bench.chaos.processes import GUNICORN, ROOT, Postgresql, free_port
from sandbox.town import Town

SECRET = "arrangement-secret-0123456789"
DOCKER_SECONDS = 1.0  # until what died is started again
START_SECONDS = 40.0
QUIET_SECONDS = 2.0  # between a recovery and the next kill
KOMMO_SECONDS = 2.0  # then Kommo gives up on an answer
PATIENCE_SECONDS = 30.0  # ours: we want to hear what is answered in the end
LEASE_SECONDS = 60.0
QUALIFIED, PIPELINE = 61_000_102, 7_100_010  # as in config/mapping.yaml
HOST = "localhost"


class Member(Protocol):
    """One service of the arrangement."""

    name: str

    def start(self) -> None:
        """Start it, and return once it can be used."""

    def kill(self) -> None:
        """End it as a power cut would, with all its processes."""


class Program:
    """A member that is a program, the leader of a process group; `ready` looks at what it has written."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        ready: Callable[[str], bool],
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._environment = {"PATH": os.environ["PATH"], **environment}
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready(self.log.read_bytes()[begin:].decode(errors="replace")):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} is not ready:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill its group."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask its leader to stop, as `docker stop` does."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        if number == signal.SIGKILL:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)
        self._process.wait(START_SECONDS)


class Database:
    """PostgreSQL as a member."""

    name = "db"

    def __init__(self, folder: Path) -> None:
        self._server = Postgresql(folder)
        self.url = self._server.url
        self.rows("ALTER SYSTEM SET recovery_init_sync_method = 'syncfs'")  # as in compose.postgres.yaml

    def start(self) -> None:
        """Start it; it recovers first, if it was killed."""
        self._server.start_server()

    def kill(self) -> None:
        """Kill the server and its processes at once: one that outlives it would keep the next from starting."""
        leader = psutil.Process(int(next(iter(self._file.read_text().splitlines()))))
        members = [leader, *leader.children(recursive=True)]
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(members, START_SECONDS)

    @property
    def _file(self) -> Path:
        return Path(self._server._server.pgdata) / "postmaster.pid"

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Run one statement from outside."""
        return self._server.rows(query)

    def close(self) -> None:
        """Stop it."""
        self._server.close()


# -- nginx ---------------------------------------------------------------------------------------------------------


def make_certificate(folder: Path) -> None:
    """Make a certificate for localhost that is its own authority."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"),
            *("-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")),
        ],
        check=True,
        capture_output=True,
    )


def nginx_conf(folder: Path, *, plain: int, secure: int, upstreams: Sequence[int]) -> Path:
    """Return the shipped configuration with other places, ports, upstreams and name; nothing else is changed."""
    text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    listed = re.findall(r"^ +server web-\d:8000 .*;\n", text, re.MULTILINE)
    others = "".join(listed[0].replace("web-1:8000", f"127.0.0.1:{port}") for port in upstreams)
    for old, new in {
        "".join(listed): others,
        "/run/nginx/": f"{folder}/",
        "/etc/nginx/certs/": f"{folder}/",
        "/var/www/acme": f"{folder}/acme",
        "/dev/stdout": f"{folder}/access.log",
        "relay.example.com": HOST,
        "listen 80 ": f"listen 127.0.0.1:{plain} ",
        "listen 443 ": f"listen 127.0.0.1:{secure} ",
    }.items():
        if old not in text:
            raise RuntimeError(f"deploy/nginx.conf has no {old!r} any more")
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    return folder / "nginx.conf"


class Nginx(Program):
    """nginx with the shipped configuration, on free ports of loopback."""

    def __init__(self, folder: Path, upstreams: Sequence[int]) -> None:
        folder.mkdir()
        make_certificate(folder)
        self.folder = folder
        self.plain, self.secure = free_port(), free_port()
        self.url = f"https://{HOST}:{self.secure}"
        self.certificate = str(folder / "fullchain.pem")
        conf = nginx_conf(folder, plain=self.plain, secure=self.secure, upstreams=upstreams)
        # Its workers would be nobody, who may not enter our folders.
        user = "user root;" if os.geteuid() == 0 else ""
        command = ("nginx", "-c", str(conf), "-e", "stderr", "-g", f"daemon off; {user}")
        super().__init__("nginx", command, {}, folder, self._listens)

    def _listens(self, log: str) -> bool:
        with contextlib.suppress(requests.RequestException):
            return bool(requests.get(f"{self.url}/nowhere", verify=self.certificate, timeout=5).status_code)
        return False


# -- all together --------------------------------------------------------------------------------------------------


def answers(url: str) -> Callable[[str], bool]:
    """Return a look whether a replica answers."""

    def look(log: str) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{url}/readyz", timeout=5).ok
        return False

    return look


class Arrangement:
    """All members, by the names of compose.postgres.yaml, and the sandbox's vendors."""

    def __init__(self, folder: Path, town: Town) -> None:
        self.database = Database(folder)
        environment = {
            **town.environment(),
            **{f"{vendor}_WEBHOOK_SECRET": SECRET for vendor in ("KOMMO", "ENCHARGE", "ORTTO")},
            "DATABASE_URL": self.database.url,
            "RECONCILE_MINUTES": "0",  # it would find what was lost
            "TRUSTED_PROXIES": "1",
            "HOST": "127.0.0.1",
        }
        ports = [free_port(), free_port()]
        self.webs = [
            Program(
                f"web-{number}",
                (sys.executable, "-m", *GUNICORN),
                {**environment, "PORT": str(port)},
                folder,
                answers(f"http://127.0.0.1:{port}"),
            )
            for number, port in enumerate(ports, 1)
        ]
        flask = (sys.executable, "-m", "flask", "--app", "app:create_command_line", "work")
        self.worker = Program("worker", flask, environment, folder, lambda log: "Carrying out jobs" in log)
        self.nginx = Nginx(folder / "nginx", ports)
        self.members: list[Member] = [self.database, *self.webs, self.worker, self.nginx]

    def start(self) -> None:
        """Start all; the database is up already."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda member: member.start(), self.members[1:]))

    def close(self) -> None:
        """End all."""
        for member in reversed(self.members[1:]):
            member.kill()
        self.database.close()


@dataclass
class Answer:
    """What became of one webhook. `code`: 0 = none. `during`: which member was down meanwhile, or ''."""

    deal: int
    code: int
    seconds: float
    during: str


@dataclass
class Load:
    """Senders at a steady pace; each webhook is sent once, as Kommo does within its 2 seconds."""

    url: str
    certificate: str
    deals: Iterator[int]
    rate: float
    down: str = ""
    answers: list[Answer] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Send as long as the block runs."""
        pacer = threading.Thread(target=self._run)
        pacer.start()
        try:
            yield
        finally:
            self._over.set()
            pacer.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(128) as pool:
            while not self._over.wait(1 / self.rate):
                pool.submit(self._send, next(self.deals))

    def _send(self, deal: int) -> None:
        before, began, code = self.down, time.monotonic(), 0
        fields = {"id": deal, "status_id": QUALIFIED, "pipeline_id": PIPELINE, "updated_at": int(time.time())}
        body = urlencode({f"leads[status][0][{name}]": value for name, value in fields.items()})
        with contextlib.suppress(requests.RequestException):
            code = requests.post(
                f"{self.url}/webhooks/kommo/{SECRET}",
                data=body,
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                verify=self.certificate,
                timeout=PATIENCE_SECONDS,
            ).status_code
        after = self.down
        # Without nginx there is no answer, whatever was down when the webhook was sent.
        during = after if after == "nginx" else before or after
        self.answers.append(Answer(deal, code, time.monotonic() - began, during))


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    answers: list[Answer]
    lost: list[int]  # deals whose webhook was answered 2xx, and of which nobody heard
    twice: list[int]  # deals of which Encharge or Ortto heard twice

    def faults(self) -> list[str]:
        """Return why the promise does not hold; none if it does."""
        bad = [
            f"{one.deal}: {one.code or 'no answer'} while {one.during or 'nothing'} was down" for one in self.bad()
        ]
        return [*bad, *(f"{deal} was lost" for deal in self.lost), *(f"{deal} came twice" for deal in self.twice)]

    def bad(self) -> list[Answer]:
        """Return the answers that were none, or not 2xx, but for those while nginx itself was down."""
        return [one for one in self.answers if not 200 <= one.code < 300 and one.during != "nginx"]

    def table(self) -> str:
        """Return the figures by what was down."""
        lines = [
            "| down | webhooks | 2xx | not 2xx | no answer | slowest, s | within 2 s |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for during in dict.fromkeys(["", *(one.during for one in self.answers)]):
            those = [one for one in self.answers if one.during == during]
            kinds = Counter("none" if not one.code else "2xx" if one.code < 300 else "other" for one in those)
            soon = sum(one.seconds < KOMMO_SECONDS for one in those if one.code)
            slowest = max((one.seconds for one in those), default=0.0)
            lines.append(
                f"| {during or 'nothing'} | {len(those)} | {kinds['2xx']} | {kinds['other']} | {kinds['none']} | "
                f"{slowest:.2f} | {soon} |"
            )
        return "\n".join(lines)


def run(
    folder: Path,
    *,
    rate: float,
    rounds: int = 1,
    lease: bool = True,
    restarts: int = 0,
    quiet: float = QUIET_SECONDS,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Kill each member in turn under load, and audit.

    `lease`: wait for real leases to end, else they are ended. `restarts`: how many replicas are stopped and started
    after that. `quiet`: seconds before each of these.
    """
    logging.getLogger("sandbox").addHandler(logging.NullHandler())  # callers that die are what this is about
    logging.getLogger("sandbox").propagate = False
    with contextlib.ExitStack() as stack:
        town = stack.enter_context(Town())
        arrangement = Arrangement(folder, town)
        stack.callback(arrangement.close)
        arrangement.start()
        load = Load(arrangement.nginx.url, arrangement.nginx.certificate, new_deals(town), rate)
        with load.running():
            for _ in range(rounds):
                for member in arrangement.members:
                    time.sleep(quiet)
                    load.down = member.name
                    began = time.monotonic()
                    member.kill()
                    time.sleep(DOCKER_SECONDS)
                    member.start()
                    say(f"{member.name}: killed, and back after {time.monotonic() - began:.1f} s")
                    load.down = ""
            for web in arrangement.webs[:restarts]:
                time.sleep(quiet)
                load.down = f"{web.name} (stopped)"
                web.stop()
                web.start()
                load.down = ""
            time.sleep(quiet)
        settle(arrangement, LEASE_SECONDS if lease else 0.0)
        return audit(town, load.answers)


def new_deals(town: Town) -> Iterator[int]:
    """Yield deals, each with a contact of its own."""
    number = 0
    while True:
        number += 1
        contact = town.kommo.add_contact(f"Person {number}", [f"person{number}@arrangement.example"])
        yield town.kommo.add_deal(f"Deal {number}", QUALIFIED, price=100, contact_ids=[contact])


def settle(arrangement: Arrangement, lease: float) -> None:
    """Wait until nothing is owed."""
    deadline = time.monotonic() + lease + START_SECONDS
    while time.monotonic() < deadline:
        if not lease:
            arrangement.database.rows("UPDATE jobs SET lease_until = 0, due_at = 0 WHERE state = 'pending'")
        time.sleep(1)
        if not arrangement.database.rows("SELECT 1 FROM jobs WHERE state = 'pending' LIMIT 1"):
            return
    raise RuntimeError("there are jobs that nobody carries out")


def audit(town: Town, answers: list[Answer]) -> Outcome:
    """Compare what was answered with what the vendors heard."""
    encharge = Counter(int(event["properties"]["lead_id"]) for event in town.encharge.state()["events"])
    ortto = Counter(int(one["attributes"]["str:cm:lead-id"]) for one in town.ortto.state()["activities"])
    taken = [one.deal for one in answers if 200 <= one.code < 300]
    lost = [deal for deal in taken if not (encharge[deal] and ortto[deal])]
    twice = sorted({deal for heard in (encharge, ortto) for deal, count in heard.items() if count > 1})
    return Outcome(answers, lost, twice)


def main() -> None:
    """Run, print the table, and exit with 1 if the promise did not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.arrangement", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each member is killed (3)")
    parser.add_argument("--rate", type=float, default=10.0, help="webhooks a second (10)")
    told = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # through every `finally`
    folder = Path(tempfile.mkdtemp(prefix="kommo-relay-arrangement-"))
    outcome = run(folder, rate=told.rate, rounds=told.rounds, restarts=2)
    print("", outcome.table(), "", *(outcome.faults() or ["HELD: nothing lost, nothing refused."]), sep="\n")
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if outcome.faults() else 0)


if __name__ == "__main__":
    main()
