"""`python -m bench.soak`: an hour of load with restarts and faults: is all flat, and delivered once?"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from bench.chaos.run import DATABASES
from bench.soak import report
from bench.soak.run import Options, run

EXAMPLE = """\
example: python -m bench.soak --minutes 60 --seed 7 --database postgresql
A first try: --minutes 2. Memory, handles and threads are judged in processes that lived for 20 minutes; in shorter
runs they are only shown.

Ctrl-C ends the load; what was acknowledged until then is audited all the same.
Exit status 0: all is flat, bounded, and delivered once. 1: something is not, and the lines that begin with BROKEN
say what. How to read the tables: bench/README.md.
"""


def main() -> None:
    """Run, print the tables; exit with 1 if something did not hold."""
    told = _arguments()
    over = threading.Event()
    signal.signal(signal.SIGINT, lambda number, frame: over.set())
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # through every `finally`
    options = Options(minutes=told.minutes, seed=told.seed, database=told.database, folder=told.folder)
    result = run(options, lambda line: print(line, flush=True), over)
    print("", *result.stories, report.pages(result), "", sep="\n")
    faults = result.faults()
    print("\n".join(f"BROKEN: {fault}" for fault in faults) or "HELD: all is flat, nothing lost, nothing twice.")
    sys.exit(1 if faults else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="Run the service for an hour at 5 webhooks a second, with restarts and vendor faults, and see "
        "what grows and what was lost.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of load (60)")
    parser.add_argument("--seed", type=int, default=1, help="of the load, the restarts and the faults (1)")
    parser.add_argument("--database", choices=tuple(DATABASES), default="sqlite", help="default: sqlite")
    parser.add_argument(
        "--folder", type=Path, help="keep journal, ledger, samples and logs there (a temporary one)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
