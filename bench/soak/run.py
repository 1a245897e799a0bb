"""One run: everything started, an hour of load, restarts and faults, and then what was seen."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.chaos import books, load
from bench.chaos import report as chaos_report
from bench.chaos.audit import Findings, audit
from bench.chaos.load import Deal, Hook, Ledger, Load
from bench.chaos.processes import GUNICORN, ROOT, WORKER, Database, Process
from bench.chaos.run import DATABASES
from bench.chaos.weather import Tally, VendorWeather, vendor_faults
from bench.soak import verdict
from bench.soak.restarts import Restarts
from bench.soak.verdict import Answer
from bench.soak.visitor import TOKEN, Visitor
from bench.soak.watch import Downs, JournalSample, Life, Watch, lives
from sandbox.town import Town
from sandbox.vendor import Call

STEADY, RESTLESS = "steady", "restless"
RATE = 5.0  # webhooks a second
LATENCY_SECONDS = 0.08
KOMMO_RATE = 7
DEALS = 200  # at the beginning
NEW_DEALS_A_SECOND = 0.5
CALLS_KEPT = 500_000  # of each vendor: more than an hour has
QUIET_SECONDS = 21 * 60.0  # without restarts, at the end: so long that the last lives can be judged
CALM_SECONDS = 60.0  # without faults, at the very end
ANSWER_SECONDS = 30.0  # and neither is a late answer, here
ACKNOWLEDGE_SECONDS = 60.0
SETTLE_SECONDS = 900.0  # a 429 stops all calls for five minutes, and what waits then goes at half the pace
TOO_MANY = "Too Many Requests"  # the faults' 429; Kommo's own has another body

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    minutes: float = 60.0
    seed: int = 1
    database: str = "sqlite"
    folder: Path | None = None  # kept; None = a temporary one, removed if all is well


@dataclass
class Result:
    """What came of a run."""

    options: Options
    seconds: float
    ledger: Ledger
    findings: Findings
    tally: Tally
    answers: Sequence[Answer]
    downs: Downs
    lives: Sequence[Life]
    journal: Sequence[JournalSample]
    visits: Sequence[tuple[str, int]]
    visit_failures: Sequence[str]
    queue: Sequence[int]
    owed: int
    dead: Sequence[str]
    sent_again: set[tuple[int, int]]
    deals: int
    over_the_limit: int  # 429s of Kommo's own limit
    calls: dict[str, int]
    tracebacks: Sequence[str]
    restart_failure: str = ""
    stories: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """Return each reason why it did not hold, as a sentence; none if it did."""
        kills = self.tally.kills.total()
        said = chaos_report.effect_faults(self.findings, self.ledger, self.owed, self.dead, kills, self.sent_again)
        said += verdict.answer_faults(self.answers, self.downs.excuse)
        said += verdict.life_faults(self.lives, STEADY, self.seconds)
        for life in verdict.judged(self.lives):
            said += verdict.growth_faults(life)
        limit = verdict.WAL_BYTES if self.options.database == "sqlite" else verdict.POSTGRESQL_WAL_BYTES
        said += verdict.journal_faults(self.journal, limit)
        if self.visit_failures:
            said.append(f"{len(self.visit_failures)} looks at health, numbers or pages failed")
        if self.tracebacks:
            said.append(f"{len(self.tracebacks)} tracebacks are in the logs")
        if self.restart_failure:
            said.append(f"a restart failed: {self.restart_failure}")
        if not kills or not self.tally.faults.total():
            said.append("no kill or no fault happened: no proof")
        if len(self.ledger.hooks) < self.options.minutes * 60 * RATE / 2:
            said.append(f"only {len(self.ledger.hooks)} webhooks acknowledged: no proof")
        return said


class SoakLoad(Load):
    """A load that knows how each webhook was answered, by whom and when."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.answers: list[Answer] = []
        self.answer_seconds = ANSWER_SECONDS

    def _ask(self, replica: Process, hook: Hook) -> tuple[int, Any]:
        began = time.monotonic()
        status, answer = super()._ask(replica, hook)
        self.answers.append(Answer(replica.name, began, time.monotonic(), status))
        return status, answer


class Plain(Process):
    """A process as it is shipped, without a saboteur."""

    LAUNCH = ("-m",)
    START_SECONDS = 120.0  # a busy machine is no fault of the service


def run(options: Options, say: Say, over: threading.Event) -> Result:
    """Carry out one run, to its end or until `over`. Raises RuntimeError if the service cannot be started."""
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kommo-relay-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{options.database}, seed {options.seed}, {options.minutes:g} minutes: everything is kept in {folder}")
    with contextlib.ExitStack() as stack:
        database = DATABASES[options.database](folder)
        stack.callback(database.close)
        town = stack.enter_context(Town())
        result = Run(options, folder, database, town, say, over).carry_out()
    if not result.faults() and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return result


class Run:
    """The parts of one run."""

    def __init__(
        self, options: Options, folder: Path, database: Database, town: Town, say: Say, over: threading.Event
    ) -> None:
        self._options = options
        self._seconds = options.minutes * 60
        self._folder = folder
        self._database = database
        self._town = town
        self._say = say
        self._over = over
        self._tally = Tally()
        self._downs = Downs()
        # Callers that die in the middle of a request are what this is about: no word of it from the sandbox.
        logging.getLogger("sandbox").addHandler(logging.NullHandler())
        logging.getLogger("sandbox").propagate = False
        for vendor in town.vendors.values():
            vendor.latency = LATENCY_SECONDS
            vendor.calls = type(vendor.calls)(maxlen=CALLS_KEPT)
        town.kommo.switch(rate=KOMMO_RATE)
        load.add_stages(town)
        load.write_mapping(folder)
        self._deals: list[Deal] = load.add_deals(town, DEALS)
        self._ledger = Ledger(folder / "ledger.jsonl")
        # The first one is never restarted. With PostgreSQL there is a worker too, as people run it.
        self._replicas = [Plain(name, GUNICORN, folder) for name in (STEADY, RESTLESS)]
        self._victims = self._replicas[1:]
        if options.database != "sqlite":
            self._victims = [*self._victims, Plain("worker", WORKER, folder)]
        self._processes = [self._replicas[0], *self._victims]
        self._load = SoakLoad(town, self._replicas, self._ledger, self._deals, options.seed)
        self._began = time.monotonic()
        every = min(5.0, self._seconds / 60)
        self._watch = Watch(self._processes, database, self._clock, every, folder / "samples.csv")
        self._visitor = Visitor(self._replicas, self._downs, options.seed, self._known, 3 * every)
        self._restarts = Restarts(
            self._victims, self._start, self._downs, self._tally, options.seed, self._part(120, 240)
        )
        self._weather = VendorWeather(
            town,
            self._tally,
            options.seed,
            soak_faults(),
            lasts=self._part(10, 45),
            pause=self._part(60, 150),
            times=(20, 10_000),
        )

    def carry_out(self) -> Result:
        """Start, load, trouble, calm, audit."""
        parts = (self._watch, self._visitor, self._restarts, self._weather)
        try:
            for process in self._processes:
                self._start(process)
            for process in self._processes:
                process.wait_until_it_answers()
            self._began = time.monotonic()
            for part in parts:
                part.start()
            self._load.rate = RATE
            self._load.start()
            self._go_on()
            self._load.stop(ACKNOWLEDGE_SECONDS)
            owed = books.wait_until_settled(self._database, SETTLE_SECONDS)
            seconds = self._clock()
            for part in parts:
                part.end()
            return self._result(owed, seconds)
        finally:
            self._restarts.end()
            for process in self._processes:
                process.kill()
            for part in parts:
                part.end()
            self._ledger.close()

    def _go_on(self) -> None:
        """Let deals be added, and troubles end in time; tell how it is each minute."""
        quiet = min(QUIET_SECONDS, 0.35 * self._seconds)
        calm = min(CALM_SECONDS, 0.1 * self._seconds)
        tell_at = 0.0
        while not self._over.wait(1.0) and self._clock() < self._seconds:
            now = self._clock()
            missing = DEALS + round(now * NEW_DEALS_A_SECOND) - len(self._deals)
            if missing > 0:
                new = load.add_deals(self._town, missing, known=len(self._deals))
                self._deals += new
                self._load.add(new)
            if now > self._seconds - quiet:
                self._restarts.end()
            if now > self._seconds - calm:
                self._weather.calm.set()
            if now >= tell_at:
                tell_at += min(60.0, self._seconds / 10)
                self._say(self._progress(now))
        self._restarts.end()
        self._weather.end()

    def _progress(self, now: float) -> str:
        latest = {(sample.name, sample.role): sample for sample in self._watch.samples[-2 * len(self._processes) :]}
        parts = [
            f"{name} {seen.rss / verdict.MEGABYTE:.0f} MB {seen.handles} handles {seen.threads} threads"
            for (name, role), seen in latest.items()
            if role == "worker"
        ]
        if self._watch.journal:
            journal = self._watch.journal[-1]
            parts.append(f"journal {journal.size / verdict.MEGABYTE:.0f}+{journal.wal / verdict.MEGABYTE:.0f} MB")
        parts.append(f"{self._visitor.queue[-1] if self._visitor.queue else 0} owed")
        parts.append(f"{self._tally.kills.total()} kills, {self._tally.faults.total()} faults")
        return f"{now / 60:5.1f} min: {len(self._ledger.hooks)} webhooks; " + "; ".join(parts)

    # -- the parts' questions --

    def _clock(self) -> float:
        return time.monotonic() - self._began

    def _part(self, least: float, most: float) -> tuple[float, float]:
        """Return seconds from and to, as in a run of an hour; in one of less than twenty minutes, less."""
        share = min(1.0, self._seconds / (20 * 60))
        return least * share, most * share

    def _known(self) -> int:
        hooks = self._ledger.hooks
        ids = random.choice(hooks).ids if hooks else []
        return ids[0] if ids else 0

    def _start(self, process: Process) -> None:
        process.start(
            {
                **load.environment(self._town, self._database.url, self._folder),
                "OPS_TOKEN": TOKEN,
                **in_the_image(),
            },
            seconds={},
        )

    # -- what comes out --

    def _result(self, owed: int, seconds: float) -> Result:
        findings = audit(self._town, self._ledger, self._deals)
        kommo = self._town.kommo.calls
        result = Result(
            options=self._options,
            seconds=seconds,
            ledger=self._ledger,
            findings=findings,
            tally=self._tally,
            answers=self._load.answers,
            downs=self._downs,
            lives=lives(self._watch.samples),
            journal=self._watch.journal,
            visits=sorted(self._visitor.visits.items()),
            visit_failures=self._visitor.failures,
            queue=self._visitor.queue,
            owed=owed,
            dead=books.dead(self._database),
            sent_again=books.sent_again(self._database),
            deals=len(self._deals),
            over_the_limit=sum(is_over_the_limit(call) for call in list(kommo)),
            calls={name: len(vendor.calls) for name, vendor in self._town.vendors.items()},
            tracebacks=[
                line[:2000]
                for process in self._processes
                for line in process.log().splitlines()
                if "Traceback" in line
            ],
            restart_failure=self._restarts.failure,
        )
        if result.faults():
            result.stories = [
                *chaos_report.stories(findings, self._ledger, result.dead, self._database, self._town, self._deals),
                *result.visit_failures[:5],
                *result.tracebacks[:5],
            ]
        return result


def in_the_image() -> dict[str, str]:
    """Return what the image sets for glibc: memory is to be seen as people have it."""
    found = re.search(r"^ENV .*\b(MALLOC_ARENA_MAX)=(\d+)\b", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if not found:
        raise RuntimeError("the Dockerfile sets no MALLOC_ARENA_MAX any more")
    return {found[1]: found[2]}


def soak_faults() -> dict[str, dict[str, object]]:
    """Return what vendors do to us. A call that hangs does nothing: what is done long after we gave up can be
    there twice, and nobody can see that (bench/README.md)."""
    return {
        **{name: fault for name, fault in vendor_faults(late=0).items() if not name.startswith("time-out")},
        "hung": {"seconds": 12.0, "drop": True},
        "slow": {"seconds": 2.0},
    }


def is_over_the_limit(call: Call) -> bool:
    """Say whether a call was refused by Kommo's own limit, and not by a fault."""
    return call.status == 429 and call.answer != TOO_MANY
