"""`python -m bench.speed`: measure side by side with a plain reference, and say which promises held."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.chaos.processes import ROOT
from bench.speed import report
from bench.speed.processes import Sandbox, kill_all
from bench.speed.scenarios import OURS, REFERENCE, SCENARIOS, Bench, Options, memory

RESULTS = ROOT / "bench" / "results"
FILES = 8192

EXAMPLE = """\
example: python -m bench.speed --only burst --only clicks
How to read the tables: bench/README.md. They are printed, and written to bench/results/ with the raw values
(latest.json) and a plot (latest.svg).
"""


def main() -> None:
    """Measure, print, write; with --strict, exit with 1 if a promised figure was missed."""
    told = _arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # through every `finally`
    _allow_many_connections()
    repeats = 1 if told.quick else told.repeats
    options = Options(quick=told.quick, huge=told.huge, repeats=repeats, seconds=told.seconds)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kommo-relay-bench-") as name:
        folder = Path(name)
        try:
            bench = Bench(folder, options, lambda line: print(line, flush=True), Sandbox(folder))
            for scenario in told.only or SCENARIOS:
                print(f"{time.monotonic() - began:4.0f} s  {scenario}", flush=True)
                measure, share = SCENARIOS[scenario]
                bench.begin(share)
                measure(bench)
            bench.end_pairs()
            memory(bench)
        finally:
            kill_all()
    _write(bench, told.results, time.monotonic() - began)
    missed = [check for check in bench.checks if not check.held]
    print(f"{len(bench.checks) - len(missed)} of {len(bench.checks)} promises held. Written to {told.results}/.")
    sys.exit(1 if missed and told.strict else 0)


def _write(bench: Bench, folder: Path, seconds: float) -> None:
    machine = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "seconds": round(seconds),
    }
    where = (
        f"{machine['processors']} processors shared by all sides, the sandbox and the load generator; "
        f"load average at the end {machine['load']:.1f}; Python {machine['python']}; {seconds:.0f} s in all. "
        "Cells: median (least–most) **ratio to the last column**."
    )
    pages = [where, "", *(table.markdown() for table in bench.tables), report.promises(bench.checks)]
    text = "\n".join(pages)
    print("", text, sep="\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.md").write_text(text)
    checks = [{"promise": check.promise, "measured": check.measured, "held": check.held} for check in bench.checks]
    tables = [table.data() for table in bench.tables]
    (folder / "latest.json").write_text(
        json.dumps({"machine": machine, "tables": tables, "checks": checks}, indent=1)
    )
    (folder / "latest.svg").write_text(report.plot("Webhooks delivered a second, 64 connections", _groups(bench)))


def _groups(bench: Bench) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return what the plot shows: what both sides deliver a second."""
    groups = []
    for table in bench.tables:
        for row in table.data()["rows"]:
            values = row["values"]
            shown = "64 connections" in row["case"] or row["case"] == "any size"
            if row["figure"] == "delivered/s" and shown and {OURS, REFERENCE} <= set(values):
                limit = "no limit" if "no limit" in table.title else "Kommo at 7/s"
                what = "clicks" if "clicks" in table.title else "deals"
                case = (
                    "80 ms" if row["case"] == "any size" else row["case"].split(",")[0].removeprefix("vendors at ")
                )
                label = f"{'burst of ' if row['case'] == 'any size' else ''}{what}, {limit}, {case}"
                groups.append((label, [(side, statistics.median(values[side])) for side in (OURS, REFERENCE)]))
    return groups


def _allow_many_connections() -> None:
    """A thousand connections need more than the usual thousand files; the processes inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.speed",
        description="Measure the service and a plain reference side by side, against the sandbox.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="smaller numbers, once each: under a minute")
    parser.add_argument(
        "--huge", action="store_true", help="10,000 deals at once and a journal of 1,000,000 events too"
    )
    parser.add_argument("--repeats", type=int, default=3, help="how often each side is measured, in turn (3)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=300.0,
        help="repeat less often if it would take longer than about this (300)",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a promised figure was missed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to (bench/results)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
