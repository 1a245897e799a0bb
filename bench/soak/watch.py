"""What the service's processes and its journal take, looked at every few seconds from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench.chaos.processes import Database, Process, Sqlite

MASTER, WORKER = "master", "worker"


@dataclass(frozen=True)
class Sample:
    """One process at one moment. `at`: seconds since the beginning of the run."""

    at: float
    name: str  # of the replica
    role: str
    pid: int
    rss: int  # bytes
    handles: int
    threads: int


@dataclass(frozen=True)
class JournalSample:
    """The journal's size on the disk at one moment, bytes."""

    at: float
    size: int
    wal: int


@dataclass(frozen=True)
class Life:
    """One process from its start to its end."""

    name: str
    role: str
    pid: int
    samples: Sequence[Sample]

    @property
    def seconds(self) -> float:
        """For how long it was looked at."""
        return self.samples[-1].at - self.samples[0].at


def lives(samples: Sequence[Sample]) -> list[Life]:
    """Sort what was seen by process, in the order of their starts."""
    found: dict[tuple[str, str, int], list[Sample]] = {}
    for sample in samples:
        found.setdefault((sample.name, sample.role, sample.pid), []).append(sample)
    return [Life(*who, seen) for who, seen in found.items()]


def look(process: Process, at: float) -> list[Sample]:
    """Return how each process of a replica is now; one that ends meanwhile is left out."""
    found = []
    for pid in sorted(process.pids()):
        role = MASTER if process.url and pid == process.pid else WORKER
        try:
            seen = psutil.Process(pid)
            with seen.oneshot():
                rss, handles, threads = seen.memory_info().rss, seen.num_fds(), seen.num_threads()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found.append(Sample(at, process.name, role, pid, rss, handles, threads))
    return found


def measure(database: Database) -> tuple[int, int]:
    """Return what the journal takes, and its write-ahead log; bytes. Raises OSError."""
    if isinstance(database, Sqlite):
        file = Path(database.url.removeprefix("sqlite:///"))
        wal = file.with_name(f"{file.name}-wal")
        return file.stat().st_size, wal.stat().st_size if wal.exists() else 0
    [(size, wal)] = database.rows(
        "SELECT pg_database_size(current_database()), (SELECT sum(size)::bigint FROM pg_ls_waldir())"
    )
    return int(size), int(wal)


class Watch(threading.Thread):
    """Looks at processes and journal every few seconds, and writes it line by line to a file."""

    def __init__(
        self, processes: Sequence[Process], database: Database, clock: Callable[[], float], every: float, file: Path
    ) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.journal: list[JournalSample] = []
        self._processes = processes
        self._database = database
        self._clock = clock
        self._every = every
        self._file = file
        self._over = threading.Event()

    def run(self) -> None:
        """Look until ended."""
        with self._file.open("w") as lines:
            lines.write("at,name,role,pid,rss,handles,threads\n")
            while not self._over.wait(self._every):
                at = round(self._clock(), 1)
                seen = [sample for process in self._processes for sample in look(process, at)]
                self.samples += seen
                lines.writelines(",".join(map(str, asdict(sample).values())) + "\n" for sample in seen)
                lines.flush()
                self.journal.append(JournalSample(at, *measure(self._database)))

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
        if self.is_alive():
            self.join()


class Downs:
    """When a replica was being restarted: what is not answered meanwhile is nobody's fault."""

    def __init__(self) -> None:
        self._times: dict[str, list[list[float]]] = {}
        self._lock = threading.Lock()

    def begin(self, name: str) -> None:
        """Note that a replica is about to be stopped."""
        with self._lock:
            self._times.setdefault(name, []).append([time.monotonic(), float("inf")])

    def end(self, name: str) -> None:
        """Note that it answers again."""
        with self._lock:
            self._times[name][-1][1] = time.monotonic()

    def excuse(self, name: str, began: float, ended: float) -> bool:
        """Say whether a replica was being restarted at some time between two moments (monotonic)."""
        with self._lock:
            return any(began <= end and ended >= start for start, end in self._times.get(name, ()))
