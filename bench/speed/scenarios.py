"""What is measured. Each scenario adds rows to its table, and says which of the promised figures held."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos.processes import Database, Postgresql, Sqlite
from bench.speed import load
from bench.speed.load import Answers, Arrivals, Request, median
from bench.speed.prefill import prefill
from bench.speed.processes import THREADS, Sandbox, Server, Watch, reference, service
from bench.speed.report import Check, Table

OURS, REFERENCE = "Kommo Relay", "reference"
CONNECTIONS = (1, 16, 64, 256)
LATENCY = 0.08
BUDGET = 1.5  # REPLY_BUDGET_SECONDS
STAGE = ("event", "activity")
CLICK = ("task", "note")
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Options:
    """How much is measured. `huge`: 10,000 deals at once, and a journal of a million events."""

    quick: bool = False
    huge: bool = False
    repeats: int = 3
    seconds: float = 300.0


@dataclass
class Side:
    """One of those that are compared: its processes, and its journal if it has one."""

    name: str
    servers: Sequence[Server]
    database: Database | None = None
    entered: Counter[int] = field(default_factory=Counter)  # how many stages each deal, as this side has seen them

    def moves(self, deals: Iterable[int], count: int) -> Sequence[Request]:
        """Return webhooks of deals that move on, as this side has seen them."""
        return load.moves(deals, count, self.entered)

    def cpu_seconds(self) -> float:
        """Return how long its processes have used a processor."""
        return sum(server.cpu_seconds() for server in self.servers)

    def drain(self, seconds: float) -> bool:
        """Wait until nothing is owed any more; say whether that came true in time."""
        deadline = time.monotonic() + seconds
        while self.database and self.database.rows("SELECT 1 FROM jobs WHERE state = 'pending' LIMIT 1"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


@dataclass
class Run:
    """One measured run."""

    answers: Answers
    found: Arrivals
    kinds: Sequence[str]
    cpu_seconds: float = 0.0  # of the side's processes

    @property
    def delivered(self) -> int:
        """How many webhooks had their whole effect."""
        return self.found.count(*self.kinds)

    @property
    def delivered_a_second(self) -> float:
        """From the first webhook to the last effect."""
        seconds = max(self.found.last(*self.kinds), self.answers.first + 0.001) - self.answers.first
        return self.delivered / seconds

    @property
    def complete(self) -> bool:
        """Say whether all were answered 200 and had their effect, once each."""
        sent = len(self.answers.all)
        good = self.answers.good == sent and not self.answers.unanswered
        return good and {len(self.found.times.get(kind, ())) for kind in self.kinds} == {sent}

    def after_last(self, *kinds: str) -> float:
        """Return how many seconds after the last webhook the last effect of some kinds arrived."""
        return max(0.0, self.found.last(*kinds) - self.answers.last)


@dataclass
class Bench:
    """One run of the whole: the sandbox, what was found, and what is running."""

    folder: Path
    options: Options
    say: Callable[[str], None]
    sandbox: Sandbox
    watch: Watch = field(default_factory=Watch)
    tables: list[Table] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    peaks: dict[str, list[int]] = field(default_factory=dict)
    _started: int = 0
    _late_at: float = 0.0
    _pairs: dict[bool, Sequence[Side]] = field(default_factory=dict)
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    # -- what runs --

    @contextlib.contextmanager
    def running(self, *sides: Side) -> Iterator[Sequence[Side]]:
        """Run sides until the end of the block; note how much memory they took."""
        try:
            for side in sides:
                for server in side.servers:
                    server.wait_for(f"http://{server.target}/readyz")
                    self.watch.watched.append(server)
            yield sides
        finally:
            for side in sides:
                for server in side.servers:
                    server.look()
                    if server in self.watch.watched:
                        self.watch.watched.remove(server)
                    self.peaks.setdefault(side.name, []).append(server.peak)
                    server.kill()

    def pair(self, *, limit: bool) -> Sequence[Side]:
        """Return the service and the reference; they run until `end_pairs`, since starting them takes seconds."""
        if limit not in self._pairs:
            sides = (self.ours(limit=limit), self.theirs(limit=limit))
            self._pairs[limit] = self._running.enter_context(self.running(*sides))
        return self._pairs[limit]

    def end_pairs(self) -> None:
        """End what `pair` has started."""
        self._running.close()
        self._pairs.clear()

    def ours(self, *, limit: bool, name: str = OURS, database: Database | None = None, processes: int = 1) -> Side:
        """Start the service; wait for it with `running`."""
        self._started += 1
        if database is None:
            folder = self.folder / f"journal-{self._started}"
            folder.mkdir()
            database = Sqlite(folder)
        servers = []
        for number in range(processes):
            file = f"service-{self._started}-{number}"
            servers.append(service(self.sandbox, self.folder, file, database.url, limit=limit))
            if not number:
                servers[0].wait_for(f"http://{servers[0].target}/readyz")  # it makes the journal
        return Side(name, servers, database)

    def theirs(self, *, limit: bool) -> Side:
        """Start the reference; wait for it with `running`."""
        self._started += 1
        return Side(REFERENCE, [reference(self.sandbox, self.folder, f"reference-{self._started}", limit=limit)])

    # -- measuring --

    def begin(self, share: float) -> None:
        """Begin a scenario, which may take such a share of the time."""
        self._late_at = time.monotonic() + share * self.options.seconds

    def late(self) -> bool:
        """Say whether the scenario must come to an end: a slow machine measures less often, not for longer."""
        return time.monotonic() > self._late_at

    def prepare(self, deals: int, *, latency: float, limit: bool) -> dict[int, str]:
        """Make the vendors new, with so many deals; return their emails."""
        return self.sandbox.start_over(deals=deals, latency=latency, rate=7.0 if limit else 0.0)

    def measure(
        self,
        side: Side,
        sent: Sequence[Request],
        connections: int,
        kinds: Sequence[str] = STAGE,
        *,
        spread: float = 0.0,
        patience: float = 60.0,
        drain: float = 90.0,
    ) -> Run:
        """Send webhooks to a side and wait until they are delivered."""
        self.sandbox.ask("DELETE", "/calls")
        targets = [server.target for server in side.servers]
        used = side.cpu_seconds()
        answers = load.fire(targets, sent, connections, spread=spread, patience=patience)
        side.drain(drain)
        return Run(answers, load.arrivals(self.sandbox), kinds, side.cpu_seconds() - used)

    def warm(self, side: Side, deals: dict[int, str]) -> None:
        """Let a side open its connections before it is measured."""
        self.measure(side, side.moves(deals, 4 * len(side.servers)), 2 * len(side.servers))

    def table(self, title: str, baseline: str, note: str = "") -> Table:
        """Begin a table."""
        table = Table(title, baseline, note)
        self.tables.append(table)
        return table

    def check(self, promise: str, measured: str, held: bool) -> None:
        """Note whether a promise held."""
        self.checks.append(Check(promise, measured, held))


def _add(table: Table, case: str, side: str, run: Run) -> None:
    table.add(case, "delivered/s", side, run.delivered_a_second)
    table.add(case, "answered/s", side, run.answers.good / run.answers.seconds)
    for percent in (50, 95, 99):
        table.add(case, f"reply p{percent} ms", side, run.answers.percentile(percent))
    table.add(case, "CPU ms a webhook", side, run.cpu_seconds / len(run.answers.all) * 1000)
    if not run.complete:
        table.remark(
            f"{case}, {side}: of {len(run.answers.all)} webhooks {run.answers.good} were answered 200; there came "
            + ", ".join(f"{len(run.found.times.get(kind, ()))} of {kind}" for kind in run.kinds)
        )


def capacity(bench: Bench) -> None:
    """How many calls the sandbox can take: it must not be what is measured."""
    deals = list(bench.prepare(10, latency=0, limit=False))
    token = bench.sandbox.environment["KOMMO_ACCESS_TOKEN"]
    header = f"Authorization: Bearer {token}"
    count = 500 if bench.options.quick else 2000
    calls: list[Request] = [(f"/api/v4/leads/{deals[n % 10]}?with=contacts", "", header, "") for n in range(count)]
    target = bench.sandbox.environment["KOMMO_API_URL"].removeprefix("http://")
    table = bench.table("The sandbox alone", "sandbox", "What it takes at 0 ms, over 16 connections.")
    for _ in range(bench.options.repeats):
        used = bench.sandbox.cpu_seconds()
        answers = load.fire([target], calls, 16)
        table.add("GET /leads/{id}", "calls/s", "sandbox", answers.good / answers.seconds)
        table.add(
            "GET /leads/{id}", "CPU ms a call", "sandbox", (bench.sandbox.cpu_seconds() - used) / count * 1000
        )


def throughput(bench: Bench) -> None:
    """Webhooks a second and reply times, without Kommo's limit."""
    quick = bench.options.quick
    counts = {
        LATENCY: dict(zip(CONNECTIONS, (4, 32, 64, 64) if quick else (6, 96, 256, 256), strict=True)),
        0.0: dict(zip(CONNECTIONS, (20, 100, 200, 200) if quick else (100, 400, 800, 800), strict=True)),
    }
    table = bench.table("Deals that enter a stage, no limit at Kommo", REFERENCE)
    sides = bench.pair(limit=False)
    for latency, by_connections in counts.items():
        deals = bench.prepare(1000, latency=latency, limit=False)
        for side in sides:
            bench.warm(side, deals)
        for connections, count in by_connections.items():
            case = f"vendors at {latency * 1000:.0f} ms, {connections} connections"
            if quick and connections in (16, 256):
                continue
            bench.begin(0.35 / 8)
            _interleaved(bench, table, case, sides, deals, count, connections)
            bench.say(table.line(case, "delivered/s"))
    _check_throughput(bench, table)


def _interleaved(
    bench: Bench,
    table: Table,
    case: str,
    sides: Sequence[Side],
    deals: dict[int, str],
    count: int,
    connections: int,
) -> None:
    """Measure the sides in turn, as often as told."""
    for number in range(bench.options.repeats):
        if number and bench.late():
            break
        for side in sides if number % 2 else reversed(sides):
            run = bench.measure(side, side.moves(deals, count), connections)
            _add(table, case, side.name, run)
            if connections == 1:
                for vendor, calls in run.found.calls.items():
                    table.add(case, f"calls to {vendor} a webhook", side.name, calls / len(run.answers.all))


def _check_throughput(bench: Bench, table: Table) -> None:
    one = median(table.values("vendors at 80 ms, 1 connections", "reply p50 ms", OURS))
    chain = 3 * LATENCY * 1000
    bench.check(
        "one webhook, vendors at 80 ms: the reply takes at most 1.12 × two reads and one write (269 ms)",
        f"{one:.0f} ms, {one / chain:.2f} ×",
        one <= 1.12 * chain,
    )
    for milliseconds, least in ((80, 1.0), (0, 1.5)):
        ratio = table.ratio(f"vendors at {milliseconds} ms, 64 connections", "delivered/s", OURS)
        bench.check(
            f"no limit, {milliseconds} ms, 64 connections: at least {least:g} × the reference",
            f"{ratio:.2f} ×",
            ratio >= least,
        )


def limited(bench: Bench) -> None:
    """Webhooks a second and reply times where Kommo takes 7 calls a second."""
    quick = bench.options.quick
    table = bench.table("Deals that enter a stage, Kommo at 7 calls a second", REFERENCE)
    cells = [(LATENCY, 64)] if quick else [(LATENCY, 1), (LATENCY, 16), (LATENCY, 64), (LATENCY, 256), (0.0, 64)]
    sides = bench.pair(limit=True)
    for latency, connections in cells:
        deals = bench.prepare(1000, latency=latency, limit=True)
        case = f"vendors at {latency * 1000:.0f} ms, {connections} connections"
        for side in sides:
            if side.name == REFERENCE:
                count = 6 if connections == 1 else 8 if quick else 21
            else:
                count = 6 if connections == 1 else 64 if quick else 256
            run = bench.measure(side, side.moves(deals, count), connections)
            _add(table, case, side.name, run)
            time.sleep(1.1)  # until Kommo's bucket is full again
        bench.say(table.line(case, "delivered/s"))


def burst(bench: Bench) -> None:
    """A bulk action: many deals at once, Kommo at 7 calls a second, 80 ms a call."""
    _burst(bench, "Bursts of deals", load.moves, STAGE, 28, _check_burst)


def clicks(bench: Bench) -> None:
    """The same for clicks."""
    _burst(bench, "Bursts of clicks", load.clicks, CLICK, 14, _check_clicks)


def _burst(
    bench: Bench,
    title: str,
    make: Callable[[dict[int, str], int, Counter[int]], Sequence[Request]],
    kinds: Sequence[str],
    affordable: int,
    check: Callable[[Bench, list[tuple[int, Run]], Table], None],
) -> None:
    quick = bench.options.quick
    sizes = [60] if quick else [100, *[1000] * max(1, bench.options.repeats - 1)]
    sizes += [10_000] if bench.options.huge else []
    note = (
        f"64 connections, vendors at 80 ms, Kommo at 7 calls a second. The reference gets {affordable} webhooks: "
        "of 1,000 it would be minutes behind."
    )
    table = bench.table(title, REFERENCE, note)
    runs = []
    ours, theirs = bench.pair(limit=True)
    # Deals of their own for each run: one that was clicked for has its task for the day.
    deals = iter(bench.prepare(sum(sizes) + affordable, latency=LATENCY, limit=True).items())
    for size in sizes:
        if bench.late() and any(done == size for done, _ in runs):
            continue
        sent = make(dict(itertools.islice(deals, size)), size, ours.entered)
        run = bench.measure(ours, sent, 64, kinds, drain=240)
        runs.append((size, run))
        _add_burst(table, f"{size:,} at once", ours, run)
        if size in (60, 1000):
            table.add("any size", "delivered/s", OURS, run.delivered_a_second)
        bench.say(table.line(f"{size:,} at once", f"last {kinds[0]}, s after the last webhook"))
    sent = make(dict(itertools.islice(deals, affordable)), affordable, theirs.entered)
    run = bench.measure(theirs, sent, 64, kinds)
    _add_burst(table, f"{affordable} at once", theirs, run)
    table.add("any size", "delivered/s", REFERENCE, run.delivered_a_second)
    bench.say(table.line("any size", "delivered/s"))
    check(bench, runs, table)


def _add_burst(table: Table, case: str, side: Side, run: Run) -> None:
    _add(table, case, side.name, run)
    table.add(case, "slowest reply ms", side.name, run.answers.slowest)
    for kind in run.kinds:
        table.add(case, f"last {kind}, s after the last webhook", side.name, run.after_last(kind))
    for vendor, calls in run.found.calls.items():
        table.add(case, f"calls to {vendor} a webhook", side.name, calls / len(run.answers.all))
    table.add(case, "429s of Kommo", side.name, run.found.too_many)


def _check_burst(bench: Bench, runs: list[tuple[int, Run]], table: Table) -> None:
    wanted = 60 if bench.options.quick else 1000
    thousand = [run for size, run in runs if size == wanted]
    name = f"{wanted:,} deals, 80 ms, Kommo at 7/s"
    slowest = median([run.answers.slowest for run in thousand])
    complete = all(run.complete for run in thousand)
    bench.check(
        f"{name}: every webhook answered 200 within 2 s, all delivered once",
        f"slowest {slowest:.0f} ms" + ("" if complete else ", not all delivered"),
        slowest <= 2000 and complete,
    )
    for kind, vendor, most in (("activity", "Ortto", 3), ("event", "Encharge", 8)):
        after = median([run.after_last(kind) for run in thousand])
        bench.check(f"{name}: all in {vendor} within {most} s of the last webhook", f"{after:.1f} s", after <= most)
    calls = median([run.found.calls["kommo"] / wanted for run in thousand])
    bench.check(f"{name}: at most 0.03 calls to Kommo a deal", f"{calls:.3f}", calls <= 0.03)
    refused = sum(run.found.too_many for _, run in runs)
    bench.check(f"{name}: no 429", f"{refused}", not refused)
    ratio = table.ratio("any size", "delivered/s", OURS)
    bench.check("80 ms, Kommo at 7/s, 64 connections: at least 25 × the reference", f"{ratio:.1f} ×", ratio >= 25)
    for size, run in runs:
        if size == 10_000:
            seconds = run.found.last(*STAGE) - run.answers.first
            bench.check("10,000 deals within 60 s in all", f"{seconds:.0f} s", seconds <= 60 and run.complete)


def _check_clicks(bench: Bench, runs: list[tuple[int, Run]], table: Table) -> None:
    del table
    wanted = 60 if bench.options.quick else 1000
    after = median([run.after_last(*CLICK) for size, run in runs if size == wanted])
    complete = all(run.complete for _, run in runs)
    bench.check(
        f"{wanted:,} clicks on as many deals: tasks and notes in Kommo within 10 s of the last",
        f"{after:.1f} s" + ("" if complete else ", not all there"),
        after <= 10 and complete,
    )


def storm(bench: Bench) -> None:
    """1,000 webhooks within a second, each on a connection of its own."""
    count = 100 if bench.options.quick else 1000
    note = "Each on a connection of its own, vendors at 80 ms, Kommo at 7 calls a second."
    table = bench.table(f"{count:,} webhooks within a second", REFERENCE, note)
    case = f"{count:,} connections"
    ours, theirs = bench.pair(limit=True)
    deals = bench.prepare(count, latency=LATENCY, limit=True)
    run = bench.measure(ours, ours.moves(deals, count), count, spread=1.0)
    _add_storm(table, case, OURS, run, count)
    in_time = run.complete and run.answers.slowest <= 2000
    bench.check(
        f"{count:,} webhooks and connections within a second: each answered 200 within 2 s, all delivered",
        f"slowest {run.answers.slowest:.0f} ms, {run.delivered:,} delivered",
        in_time,
    )
    deals = bench.prepare(count, latency=LATENCY, limit=True)
    targets = [theirs.servers[0].target]
    answers = load.fire(targets, theirs.moves(deals, count), count, seconds=2.0, spread=1.0, patience=2.0)
    _add_storm(table, case, REFERENCE, Run(answers, load.arrivals(bench.sandbox), STAGE), count)
    bench.end_pairs()  # the reference would work on for minutes
    bench.say(table.line(case, "answered 200 within 2 s"))


def _add_storm(table: Table, case: str, side: str, run: Run, count: int) -> None:
    within = sum(answer[2] == 200 and answer[1] <= 2000 for answer in run.answers.all)
    table.add(case, "answered 200 within 2 s", side, within)
    table.add(case, "no answer after 4 s", side, count - run.answers.good)
    if run.answers.all:
        table.add(case, "reply p50 ms", side, run.answers.percentile(50))
        table.add(case, "slowest reply ms", side, run.answers.slowest)


def hung(bench: Bench) -> None:
    """Answers while a vendor hangs: the work is written down, and the answer does not wait."""
    seconds = (
        3.0 if bench.options.quick else 6.0
    )  # less than the service waits for the vendor before it is left alone
    places = THREADS // 2
    note = f"100 webhooks a second. {places} answers may wait at a time, for {BUDGET} s each; the others do not."
    table = bench.table("Ortto hangs", OURS, note)
    with bench.running(bench.ours(limit=False)) as (ours,):
        deals = bench.prepare(2000, latency=0.0, limit=False)
        bench.warm(ours, deals)
        bench.sandbox.ask("POST", "/faults/ortto", {"seconds": 30.0})
        answers = load.fire([ours.servers[0].target], ours.moves(deals, 20_000), 64, seconds=seconds, pace=100)
        bench.sandbox.ask("DELETE", "/faults/ortto")
    times = sorted(took for _, took, _, _ in answers.all)
    # Who had a place waited for the whole budget: so many at most.
    waited = min(sum(took >= BUDGET * 900 for took in times), round(places * (seconds / BUDGET + 1)))
    at_once = times[: len(times) - waited]
    p99 = load.percentile(at_once, 99)
    for name, value in (
        ("answered/s", answers.good / answers.seconds),
        ("answers that had a place", waited),
        ("accepted p50 ms", load.percentile(at_once, 50)),
        ("accepted p99 ms", p99),
        ("slowest reply ms", answers.slowest),
    ):
        table.add("64 connections", name, OURS, value)
    bench.check(
        "a vendor hangs: p99 of `accepted` under 250 ms once the places are taken", f"{p99:.0f} ms", p99 < 250
    )
    bench.check(
        f"a vendor hangs: no answer later than {BUDGET * 1000 + 250:.0f} ms, each 200",
        f"{answers.slowest:.0f} ms",
        answers.slowest <= BUDGET * 1000 + 250 and answers.good == len(answers.all),
    )
    bench.say(table.line("64 connections", "accepted p99 ms"))


def journal(bench: Bench) -> None:
    """Reply times with a journal of few and of many events."""
    quick, huge = bench.options.quick, bench.options.huge
    small, large = 1000, 1_000_000 if huge else 10_000 if quick else 100_000
    table = bench.table("A journal that has grown", f"{small:,} events", "Vendors at 0 ms, no limit at Kommo.")
    sides = []
    for size in (small, large):
        folder = bench.folder / f"journal-of-{size}"
        folder.mkdir()
        prefill(folder / "journal.db", size)
        sides.append(bench.ours(limit=False, name=f"{size:,} events", database=Sqlite(folder)))
    with bench.running(*sides):
        deals = bench.prepare(500, latency=0.0, limit=False)
        for side in sides:
            bench.warm(side, deals)
        for connections, count in ((1, 20 if quick else 100), (16, 100 if quick else 300)):
            case = f"{connections} connections"
            _interleaved(bench, table, case, sides, deals, count, connections)
            bench.say(table.line(case, "reply p50 ms"))
    ratio = table.ratio("1 connections", "reply p50 ms", sides[1].name)
    bench.check(
        f"{large:,} events in the journal: reply p50 at most 1.2 × that with {small:,}",
        f"{ratio:.2f} ×",
        ratio <= 1.2,
    )


def databases(bench: Bench) -> None:
    """SQLite against PostgreSQL, one process against two."""
    count = 100 if bench.options.quick else 500
    table = bench.table(
        "Databases and processes", "SQLite, 1 process", "Vendors at 0 ms, no limit at Kommo, 64 connections."
    )
    folder = bench.folder / "postgresql"
    folder.mkdir()
    server = Postgresql(folder)
    try:
        for name in ("one", "two"):
            server.rows(f"CREATE DATABASE {name}")
        made = []
        for processes in (1, 2):
            file = bench.folder / f"sqlite-{processes}"
            file.mkdir()
            made.append(("SQLite", processes, Sqlite(file)))
        for processes, name in ((1, "one"), (2, "two")):
            made.append(("PostgreSQL", processes, _Elsewhere(server, name)))
        for database, processes, where in made:
            title = f"{database}, {processes} process{'es' if processes > 1 else ''}"
            # One after the other: so many processes at once would not say what one of them does alone.
            with bench.running(bench.ours(limit=False, name=title, database=where, processes=processes)) as (side,):
                deals = bench.prepare(1000, latency=0.0, limit=False)
                bench.warm(side, deals)
                for number in range(bench.options.repeats):
                    if number and bench.late():
                        break
                    _add(table, "64 connections", title, bench.measure(side, side.moves(deals, count), 64))
    finally:
        server.close()
    bench.say(table.line("64 connections", "delivered/s"))


class _Elsewhere:
    """Another database of a PostgreSQL server."""

    name = "postgresql"

    def __init__(self, server: Postgresql, database: str) -> None:
        base, _, query = server.url.partition("?")
        self.url = f"{base.rsplit('/', 1)[0]}/{database}?{query}"

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Run one SQL statement and return its rows."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def close(self) -> None:
        """The server is closed elsewhere."""


def memory(bench: Bench) -> None:
    """The most memory that one process of each side took, over all that was measured so far."""
    table = bench.table("Memory", REFERENCE, "The most that one process took in all of the above.")
    for side, peaks in bench.peaks.items():
        if side in (OURS, REFERENCE):
            table.add("a process", "MB", side, max(peaks) / MEGABYTE)
    most = max((peak for side, peaks in bench.peaks.items() if side != REFERENCE for peak in peaks), default=0)
    if most:
        bench.check(
            "memory of the service under 150 MB throughout", f"{most / MEGABYTE:.0f} MB", most < 150 * MEGABYTE
        )


SCENARIOS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "capacity": (capacity, 0.02),
    "throughput": (throughput, 0.35),
    "limited": (limited, 0.15),
    "burst": (burst, 0.12),
    "clicks": (clicks, 0.12),
    "storm": (storm, 0.05),
    "hung": (hung, 0.03),
    "journal": (journal, 0.08),
    "databases": (databases, 0.08),
}
"""What can be measured, and which share of the time it may take."""
