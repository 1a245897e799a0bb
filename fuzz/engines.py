"""Runs a target on many inputs: with atheris, guided by coverage, or with hypothesis, which runs anywhere."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from fuzz.targets import Target

GUIDED, UNGUIDED = "atheris", "hypothesis"
ALL = (GUIDED, UNGUIDED)
FOUND = Path(__file__).parent / "found"  # what broke something, and what atheris has learned; not kept in git
SECONDS_PER_INPUT = 30  # one that takes longer hangs
MEGABYTES = 2048
LARGEST_KEPT = 300  # bytes of an input that is kept
EDITS = 8
BATCH = 200


def installed() -> str:
    """Return the better engine of those that are installed."""
    return GUIDED if find_spec(GUIDED) else UNGUIDED


def run(engine: str, target: Target, *, runs: int, seconds: int, seed: int, learn: bool = False) -> int:
    """Run a target until so many runs or seconds are over (0: without such an end); return 0 if nothing broke it.

    `learn`: store what reaches new code, and begin with it next time. An input that breaks the target is written
    into a file that the output names.
    """
    (FOUND / target.name).mkdir(parents=True, exist_ok=True)
    if engine == GUIDED:
        return _guided(target, runs=runs, seconds=seconds, seed=seed, learn=learn)
    return _unguided(target, runs=runs, seconds=seconds, seed=seed)


# -- atheris ------------------------------------------------------------------------------------------------------


def keep(target: Target) -> int:
    """Take into the corpus what was learned and reaches code that nothing in it does, the smallest of each."""
    learned = FOUND / "learned" / target.name
    learned.mkdir(parents=True, exist_ok=True)
    return _atheris(
        target, ["-merge=1", f"-max_len={LARGEST_KEPT}", "-use_counters=0"], [target.folders[0], learned]
    )


def _guided(target: Target, *, runs: int, seconds: int, seed: int, learn: bool) -> int:
    with tempfile.TemporaryDirectory() as folder:
        # Into the first folder atheris writes what reaches new code.
        learned = FOUND / "learned" / target.name if learn else Path(folder) / "learned"
        learned.mkdir(parents=True, exist_ok=True)
        dictionary = Path(folder) / "words.dict"
        dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words()))
        options = [
            f"-dict={dictionary}",
            f"-max_len={target.longest}",
            f"-timeout={SECONDS_PER_INPUT}",
            f"-seed={seed}",
            "-print_final_stats=1",
            *([f"-runs={runs}"] if runs else []),
            *([f"-max_total_time={seconds}"] if seconds else []),
        ]
        return _atheris(target, options, [learned, *target.folders])


def _atheris(target: Target, options: list[str], folders: list[Path]) -> int:
    """Start atheris in a process of its own: it changes the code that it imports, and ends its process."""
    options = [*options, f"-artifact_prefix={FOUND / target.name}/", f"-rss_limit_mb={MEGABYTES}"]
    command = [sys.executable, "-m", "fuzz.guided", target.name, *options, *map(str, folders)]
    return subprocess.run(command, check=False).returncode


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


# -- hypothesis ---------------------------------------------------------------------------------------------------


def _unguided(target: Target, *, runs: int, seconds: int, seed: int) -> int:
    smallest = FOUND / target.name / "broke"
    ends = time.monotonic() + seconds if seconds else math.inf
    done = 0

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except Exception:
            smallest.write_bytes(data)  # hypothesis ends with the smallest
            raise

    while time.monotonic() < ends and (not runs or done < runs):
        batch = min(BATCH, runs - done) if runs else BATCH
        settled = settings(
            max_examples=batch,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        try:
            seeded(seed + done)(settled(given(_edited(target))(check)))()
        except Exception:  # whatever it is: that is what fuzzing looks for
            traceback.print_exc()
            print(f"{smallest} breaks {target.name}")
            return 1
        done += batch
    print(f"{target.name}: {done} runs, and nothing broke")
    return 0


def _edited(target: Target) -> st.SearchStrategy[bytes]:
    """Return inputs that are kept, with pieces cut out, doubled, overwritten, or replaced by a word."""
    kept = [b"", *target.inputs().values()]
    pieces = st.one_of(st.binary(max_size=4), st.sampled_from(target.words()))

    @st.composite
    def edited(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(kept))
        for _ in range(draw(st.integers(0, EDITS))):
            at = draw(st.integers(0, len(data)))
            end = min(len(data), at + draw(st.integers(0, 24)))
            data = data[:at] + draw(st.one_of(pieces, st.just(data[at:end] * 2), st.just(b""))) + data[end:]
        return data[: target.longest]

    return edited()
