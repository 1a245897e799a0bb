"""One run: everything started, loaded, troubled, calmed, and audited."""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos import books, load, report
from bench.chaos.audit import Findings, Seen, audit
from bench.chaos.load import Deal, Ledger, Load
from bench.chaos.processes import GUNICORN, WORKER, Database, Postgresql, Process, Sqlite
from bench.chaos.takeover import TakeoverWatch
from bench.chaos.weather import Tally, Troubles, VendorWeather, vendor_faults
from sandbox.town import Town

DATABASES: Mapping[str, Callable[[Path], Database]] = {"sqlite": Sqlite, "postgresql": Postgresql}
TROUBLES = ("commit", "kill", "power", "restart", "freeze", "clock", "database")
ACKNOWLEDGE_SECONDS = 30.0  # for what is under way when the load ends
SETTLE_SECONDS = 60.0  # for what the journal owes when all faults are off
REAL_LEASE_SECONDS = 60.0
TAKEOVER_SECONDS = 75.0  # at most, with the real lease
PROGRESS_SECONDS = 5.0
FREEZES = 200  # attempts to freeze a process that holds a job
RATE = 7  # Kommo's limit

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is asked for. `seconds`: of trouble; what comes before and after is not counted."""

    database: str = "sqlite"
    seed: int = 1
    seconds: float = 300.0
    acknowledged: int = 2000
    kills: int = 20
    lease: float = 6.0
    read: float = 2.0
    troubles: Collection[str] = TROUBLES
    vendors: bool = True
    rate_seconds: float = 20.0  # of load at Kommo's own limit; 0 = none
    real_lease: bool = True  # whether a take-over is measured with the lease of production
    folder: Path | None = None  # kept; None = a temporary one, removed if all is well


@dataclass
class Result:
    """What came of a run."""

    options: Options
    ledger: Ledger
    findings: Findings
    tally: Tally
    seconds: float
    owed: int  # jobs still pending at the end
    dead: list[str]
    repeats_known_to_ortto: int
    longest_takeover: float
    takeovers: int
    real_takeover: float | None
    sent_again: set[
        tuple[int, int]
    ]  # deal and stage of events of which the journal says that they may be there twice
    too_many_calls: int  # 429s at Kommo's own limit
    busiest_second: int  # calls to Kommo, at its own limit
    stories: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """Return each reason why the promise does not hold, as a sentence; none if it does."""
        return report.faults(self)


def run(options: Options, say: Say = print) -> Result:
    """Carry out one run and audit it. Raises RuntimeError if the service cannot even be started."""
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kommo-relay-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{options.database}, seed {options.seed}: everything is kept in {folder}")
    with contextlib.ExitStack() as stack:
        database = DATABASES[options.database](folder)
        stack.callback(database.close)
        town = stack.enter_context(Town())
        result = Run(options, folder, database, town, say).carry_out()
    if not result.faults() and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return result


class Run:
    """The parts of one run."""

    def __init__(self, options: Options, folder: Path, database: Database, town: Town, say: Say) -> None:
        self._options = options
        self._folder = folder
        self._database = database
        self._town = town
        self._say = say
        self._began = time.monotonic()
        self._tally = Tally()
        self._seconds: dict[str, float] = {
            "lease": options.lease,
            "renew": options.lease / 4,
            "read": options.read,
            "backoff": 4.0,
            "pause": 3.0,
            "locked out": 5.0,
        }
        self._rate = 50
        # Callers that die in the middle of a request are what this is about: no word of it from the sandbox.
        logging.getLogger("sandbox").addHandler(logging.NullHandler())
        logging.getLogger("sandbox").propagate = False
        town.kommo.switch(rate=0)
        load.add_stages(town)
        load.write_mapping(folder)
        self._deals: list[Deal] = load.add_deals(town, max(12, options.acknowledged // 16))
        self._ledger = Ledger(folder / "ledger.jsonl")
        self._replicas = [Process(f"replica-{number}", GUNICORN, folder) for number in (1, 2)]
        self._processes = [*self._replicas, Process("worker", WORKER, folder)]
        self._load = Load(town, self._replicas, self._ledger, self._deals, options.seed)
        self._watch = TakeoverWatch(database)
        self._too_many = self._busiest = 0
        self._longest: float | None = None  # take-over with the short lease
        self._real_takeover: float | None = None

    def carry_out(self) -> Result:
        """Start, load, trouble, calm, audit."""
        try:
            self._start_all()
            self._watch.start()
            self._load.start()
            with self._progress():
                self._trouble()
                if self._options.rate_seconds:
                    self._keep_to_the_limit()
                if self._options.real_lease:
                    self._measure_takeover()
                self._load.stop(ACKNOWLEDGE_SECONDS)
                owed = self._settle()
            return self._result(owed)
        finally:
            self._watch.end()
            for process in self._processes:
                process.kill()
            self._ledger.close()

    # -- the processes --

    def _environment(self) -> dict[str, str]:
        return {
            **load.environment(self._town, self._database.url, self._folder),
            "KOMMO_RATE_LIMIT": str(self._rate),
            "RECONCILE_MINUTES": "0",  # the ledger knows what was acknowledged, and not what Kommo logged
        }

    def _start(self, process: Process) -> None:
        process.start(self._environment(), self._seconds)

    def _start_all(self) -> None:
        for process in self._processes:
            self._start(process)
        for process in self._processes:
            process.wait_until_it_answers()

    def _restart_all(self) -> None:
        for process in self._processes:
            process.kill()
        self._start_all()

    # -- the phases --

    def _trouble(self) -> None:
        """Load and trouble at once, until the time is over and enough has happened; at most twice that long."""
        options = self._options
        faults = vendor_faults(late=options.read + 0.15)
        weather = VendorWeather(self._town, self._tally, options.seed, faults)
        troubles = Troubles(
            self._town,
            self._processes,
            self._database,
            self._folder,
            self._start,
            self._tally,
            options.seed,
            options.lease,
        ).all()
        names = [name for name in troubles if name in options.troubles]
        chance = random.Random(f"run {options.seed}")
        self._load.rate = 1.3 * options.acknowledged / options.seconds
        if options.vendors:
            weather.start()
        began = time.monotonic()
        while time.monotonic() - began < 2 * options.seconds:
            enough = len(self._ledger.hooks) >= options.acknowledged and (
                self._tally.kills.total() >= options.kills or not names
            )
            if enough and time.monotonic() - began >= options.seconds:
                break
            if names:
                name = chance.choices(names, [troubles[name][0] for name in names])[0]
                troubles[name][1]()
            time.sleep(chance.uniform(0.2, 1.5))
        if options.vendors:
            weather.end()

    def _keep_to_the_limit(self) -> None:
        """Load at Kommo's own limit, with the sandbox counting: all processes share 7 calls a second."""
        self._load.rate = 0
        self._settle()
        self._rate = RATE
        self._restart_all()
        self._town.kommo.switch(rate=RATE)
        self._town.kommo.calls.clear()
        self._load.rate = 12
        time.sleep(self._options.rate_seconds)
        self._load.rate = 0
        self._settle(restart=False)
        times = [call.at for call in list(self._town.kommo.calls)]
        self._too_many = self._town.kommo.count(status=429) + self._town.kommo.count(status=403)
        self._busiest = max((sum(at <= other < at + 1 for other in times) for at in times), default=0)
        self._town.kommo.switch(rate=0)
        self._rate = 50

    def _measure_takeover(self) -> None:
        """Freeze a replica that holds jobs, under the lease of production, until another has taken them over."""
        self._longest = self._watch.longest
        del self._seconds["lease"], self._seconds["renew"]
        self._restart_all()
        self._load.rate = 10
        victim = self._replicas[0]
        held = self._freeze_at_work(victim)
        frozen_at = time.monotonic()
        self._load.rate = 2
        while held and time.monotonic() - frozen_at < 2 * TAKEOVER_SECONDS:
            self._real_takeover = time.monotonic() - frozen_at
            held &= self._watch.held_by(victim.pids())
            time.sleep(0.2)
        victim.thaw()
        time.sleep(2)  # for what it does next, which must be nothing
        self._seconds |= {"lease": self._options.lease, "renew": self._options.lease / 4}

    def _freeze_at_work(self, victim: Process) -> set[int]:
        """Freeze a process at a moment in which it holds jobs, and return them; none if there is no such moment."""
        for _ in range(FREEZES):
            time.sleep(0.05)
            victim.freeze()
            held = self._watch.held_by(victim.pids())
            if held:
                self._tally.faults["frozen"] += 1
                return held
            victim.thaw()
        return set()

    def _settle(self, *, restart: bool = True) -> int:
        """Take all faults away, start everything afresh, wait until nothing is owed; return what still is."""
        for vendor in self._town.vendors.values():
            vendor.faults.clear()
        if restart:
            self._restart_all()
        return books.wait_until_settled(self._database, SETTLE_SECONDS)

    # -- what comes out --

    def _result(self, owed: int) -> Result:
        findings = audit(self._town, self._ledger, self._deals)
        result = Result(
            options=self._options,
            ledger=self._ledger,
            findings=findings,
            tally=self._tally,
            seconds=time.monotonic() - self._began,
            owed=owed,
            dead=books.dead(self._database),
            repeats_known_to_ortto=Seen(self._town).repeats_known_to_ortto,
            longest_takeover=self._watch.longest if self._longest is None else self._longest,
            takeovers=self._watch.count,
            real_takeover=self._real_takeover,
            sent_again=books.sent_again(self._database),
            too_many_calls=self._too_many,
            busiest_second=self._busiest,
        )
        if result.faults():
            result.stories = report.stories(
                findings, self._ledger, result.dead, self._database, self._town, self._deals
            )
        return result

    @contextlib.contextmanager
    def _progress(self) -> Iterator[None]:
        over = threading.Event()

        def tell() -> None:
            while not over.wait(PROGRESS_SECONDS):
                self._say(
                    f"{time.monotonic() - self._began:5.0f} s: {len(self._ledger.hooks)} webhooks acknowledged, "
                    f"{self._tally.kills.total()} kills, {self._tally.faults.total()} other faults"
                )

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
