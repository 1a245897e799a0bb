"""What the tests themselves stand on: processes from the nursery are as fresh ones; who is alone stays alone."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import nursery
import pytest
from alone import turn
from support import ROOT, eventually

TELL = """
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), sys.path[0], sys.stdin.read()]))
print("trouble", file=sys.stderr)
"""
ENDS = {
    "well": ("pass", 0),
    "with a number": ("raise SystemExit(3)", 3),
    "with words": ("raise SystemExit('no')", 1),
    "with an error": ("1 / 0", 1),
    "by a signal": ("import os; os.kill(os.getpid(), 9)", -9),
}


def test_a_process_has_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TELL, "a", "b"]
    env = {"WORD": "ü", "PYTHONPATH": str(ROOT), "LC_CTYPE": "C.UTF-8"}

    fresh = subprocess.run(
        command, cwd=tmp_path, env=env, input="typed", capture_output=True, text=True, timeout=60, check=False
    )
    done = nursery.run(command, cwd=tmp_path, env=env, answer="typed")

    told = fresh.stdout.replace('"", "typed"', f'"{tmp_path}", "typed"')  # a fresh one calls its own folder ""
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "trouble\n")


@pytest.mark.parametrize(("code", "ended"), ENDS.values(), ids=ENDS)
def test_how_it_ends_is_told(code: str, ended: int, tmp_path: Path) -> None:
    assert nursery.run([sys.executable, "-c", code], cwd=tmp_path, env={}).returncode == ended


def test_a_module_runs_as_with_m(tmp_path: Path) -> None:
    done = nursery.run([sys.executable, "-m", "flask", "--version"], cwd=tmp_path, env={})
    assert (done.returncode, done.stdout.split()[:2]) == (0, ["Python", sys.version.split()[0]])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_hears_signals(number: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        code = "import time; print('here', flush=True); time.sleep(60)"
        process = nursery.Process([sys.executable, "-c", code], cwd=tmp_path, env={}, stdout=output)
    eventually(lambda: log.read_text() == "here\n")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)

    process.send_signal(number)

    assert process.wait(60) == -number
    process.kill()  # one that is gone


def test_a_constant_is_another_one_there(tmp_path: Path) -> None:
    code = "from app import alerts; print(alerts.LOOK_SECONDS)"
    with (tmp_path / "said").open("w+b") as said:
        changed = {"app.alerts.LOOK_SECONDS": 0.25}
        command = [sys.executable, "-c", code]
        assert nursery.Process(command, cwd=ROOT, env={}, stdout=said, constants=changed).wait(60) == 0
        assert nursery.Process(command, cwd=ROOT, env={}, stdout=said).wait(60) == 0
        wrong = {"app.alerts.NO_SUCH_SECONDS": 1.0}
        assert nursery.Process(command, cwd=ROOT, env={}, stderr=said, constants=wrong).wait(60) == 1
        said.seek(0)
        first, second, *words = said.read().decode().splitlines()
    assert (first, second, words[-1]) == ("0.25", "5.0", "AssertionError: app.alerts.NO_SUCH_SECONDS")


def test_who_is_alone_and_goes_on_so_lets_nobody_in_between(tmp_path: Path) -> None:
    def is_free() -> bool:
        with (tmp_path / "room.lock").open("w") as room:
            try:
                fcntl.flock(room, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with turn(tmp_path, alone=False, go_on=True):
        assert is_free()
    for go_on in (True, True, False):
        with turn(tmp_path, alone=True, go_on=go_on):
            assert not is_free()
        assert is_free() is not go_on
    with turn(tmp_path, alone=False, go_on=False):
        assert is_free()
