"""`python -m bench.chaos`: try to break the promise, and say whether it held."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from bench.chaos import report
from bench.chaos.run import DATABASES, TROUBLES, Options, run

ACKNOWLEDGED_A_SECOND = 2000 / 300
KILLS_A_SECOND = 20 / 300

EXAMPLE = """\
example: python -m bench.chaos --database sqlite --seconds 60 --acknowledged 400 --kills 8 --seed 7

Exit status 0: nothing lost, nothing out of order, nothing twice. 1: something was, and the story is told.
How to read the table, and what to believe without proof: bench/README.md.
"""


def main() -> None:
    """Run on each database and print the tables; exit with 1 if the promise did not hold."""
    told = _arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # through every `finally`
    names = list(DATABASES) if told.database == "both" else [told.database]
    broken = False
    for name in names:
        options = Options(
            database=name,
            seed=told.seed,
            seconds=told.seconds,
            acknowledged=told.acknowledged or round(told.seconds * ACKNOWLEDGED_A_SECOND),
            kills=round(told.seconds * KILLS_A_SECOND) if told.kills is None else told.kills,
            troubles=told.troubles.split(",") if told.troubles else (),
            vendors=not told.kind_vendors,
            rate_seconds=0.0 if told.quick else 20.0,
            real_lease=not told.quick,
            folder=told.folder / name if told.folder else None,
        )
        result = run(options, say=lambda line: print(line, flush=True))
        print("", *result.stories, report.table(result), sep="\n")
        faults = result.faults()
        print("\n".join(f"BROKEN: {fault}" for fault in faults) or "HELD: nothing lost, in order, nothing twice.")
        broken |= bool(faults)
    sys.exit(1 if broken else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos",
        description="Kill, freeze and starve the service under load, and audit what arrived at the vendors.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both", help="default: both, in turn")
    parser.add_argument("--seconds", type=float, default=300.0, help="of trouble, for each database (300)")
    parser.add_argument("--seed", type=int, default=1, help="of the load and the faults (1)")
    parser.add_argument("--acknowledged", type=int, metavar="N", help="webhooks at least (2000 for 300 s)")
    parser.add_argument("--kills", type=int, metavar="N", help="kills at least (20 for 300 s)")
    parser.add_argument(
        "--troubles", default=",".join(TROUBLES), metavar="A,B", help=f"which ones: {','.join(TROUBLES)} (all)"
    )
    parser.add_argument("--kind-vendors", action="store_true", help="no faults at the vendors")
    parser.add_argument("--quick", action="store_true", help="without Kommo's own limit and the real lease")
    parser.add_argument("--folder", type=Path, help="keep journal, ledger and logs there (a temporary folder)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
