"""The walk of docs/getting-started.md: its commands, as they stand, from an empty folder to the first task.

The page says `sh` for a command, and after it `text` for what it prints; after an editor, what is to be written.
Three things are not as on the page: the files are copied from here, not cloned; the libraries are those of this
environment; and the accounts are the sandbox's, on loopback, in which nothing is set up yet.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import psutil
import pytest
import requests
from databases import run_sql
from support import GENEROUS_SECONDS, ROOT, arrived, eventually, free_port, runs

from sandbox.courier import Target
from sandbox.kommo.seed import SALES
from sandbox.town import Town

PAGE = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
MOST = 12
LEFT_OUT = "…"
OURS = "https://relay.example.com"  # on the page
LEFT_BEHIND = (".git", ".venv", ".env", "data", "tmp", "__pycache__", ".*_cache", ".hypothesis", "results")
OTHER_SALES = SALES + 1_000_000  # of an account that is not the shipped example
NEW, PROPOSAL = 62_000_101, 62_000_103
EMAIL = "nora.quist@example.test"
TOKEN = "7Qm4xvK2-pW9sJd6_hTz3BnRg"


@dataclass
class Step:
    """A command of the page, with what it prints, or what is to be written."""

    command: str
    shown: list[str] = field(default_factory=list)


def steps() -> list[Step]:
    """Return the commands of the page in their order."""
    found: list[Step] = []
    for language, text in re.findall(r"^```(sh|text|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if language == "sh":
            found += [Step(line) for line in text.splitlines()]
        elif found:
            found[-1].shown.append(text)
    return found


# -- what is shown, and what was printed --


def normal(line: str) -> str:
    """Return a line without what is another one each time: ids, times, secrets, where it listens, room."""
    line = re.sub(r"\b[0-9a-f]{48}\b", "<secret>", line)
    line = re.sub(r"(?<=Listening at: )\S+", "", line)
    return " ".join(re.sub(r"\d[\d,.]*", "0", line).split())


def differences(shown: str, printed: str, ours: str) -> list[str]:
    """Return the first line of the page that was not printed at its place; `ours`: the address of the service.

    `…` as a line: any others; at the end of a line: any more of it.
    """
    left = [line for line in map(normal, printed.replace(ours, OURS).splitlines()) if line]
    any_number = False
    for line in filter(None, map(normal, shown.splitlines())):
        if line == LEFT_OUT:
            any_number = True
            continue
        fits = partial(_fits, line)
        place = next((number for number, other in enumerate(left) if fits(other)), None)
        if place is None or (place and not any_number):
            return [f"the page shows {line!r}, and there stands {left[0] if left else 'nothing'!r}"]
        left, any_number = left[place + 1 :], False
    return [] if any_number or not left else [f"the page does not show {left[0]!r}"]


def _fits(line: str, other: str) -> bool:
    return other.startswith(line.removesuffix(LEFT_OUT)) if line.endswith(LEFT_OUT) else other == line


# -- the person who walks --


class Walker:
    """Somebody who has three accounts and a shell in an empty folder."""

    def __init__(self, town: Town, folder: Path) -> None:
        port = free_port()
        self.town = town
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        self.service: subprocess.Popen[bytes] | None = None
        self.log = folder.parent / "window.log"
        self._window: IO[bytes] = self.log.open("wb")
        # What the table on the page tells where to find, and where the accounts and this machine are.
        told = town.environment()
        self.answers = {**told, "OPS_TOKEN": TOKEN, "PUBLIC_URL": self.url}
        self.around = {name: value for name, value in told.items() if name.endswith("_URL")}
        self.around |= {"HOST": "127.0.0.1", "PORT": str(port)}

    def take(self, step: Step) -> str:
        """Give a command, do what it asks for, and return what it printed."""
        word, _, rest = step.command.partition(" ")
        if step.command.startswith("git clone "):
            self._clone(rest.rpartition("/")[2].removesuffix(".git"))
        elif word == "cd":
            self.folder = (self.folder / rest).resolve(strict=True)
        elif word == "nano":
            self._edit((self.folder / rest).resolve(strict=True), "".join(step.shown))
        elif step.command == "make run":
            return self._start(step.command)
        else:
            return self._run(step.command)
        return ""

    def wait_until_all_is_done(self) -> None:
        """Let the service finish: on a busy machine a webhook is answered before its work is done."""
        journal = f"sqlite:///{self.folder / 'data' / 'journal.db'}"
        eventually(lambda: run_sql(journal, "SELECT 1 FROM jobs WHERE state = 'pending'") == [])

    def end(self) -> None:
        """Stop the service, whatever of it is there."""
        if self.service and self.service.poll() is None:
            processes = psutil.Process(self.service.pid).children(recursive=True)
            os.killpg(self.service.pid, signal.SIGTERM)
            self.service.wait(GENEROUS_SECONDS)
            eventually(lambda: not any(runs(process) for process in processes))
        self._window.close()

    def _clone(self, name: str) -> None:
        """Copy the files as they are here, and put this environment where `make install` would make one."""
        target = self.folder / name
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        venv = target / ".venv"
        venv.mkdir()
        for part in ("bin", "lib", "pyvenv.cfg"):
            (venv / part).symlink_to(Path(sys.prefix) / part)
        (venv / "installed").touch()

    def _edit(self, path: Path, written: str) -> None:
        """Write into a file what the page shows: settings with our own values, or lines with a # before them."""
        text = path.read_text(encoding="utf-8")
        if path.name == ".env":
            names = re.findall(r"^([A-Z_]+)=", written, re.MULTILINE)
            for name, value in {**{name: self.answers[name] for name in names}, **self.around}.items():
                text, times = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
                assert times == 1, f"{name} is not in {path.name}"
        else:
            before = re.sub(r"^  # ", "  ", written, flags=re.MULTILINE)
            assert text.count(before) == 1, f"{path.name} has no\n{before}"
            text = text.replace(before, written)
        path.write_text(text, encoding="utf-8")

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ("sh", "-c", command),
            cwd=self.folder,
            env=self._environment(),
            input="y\n",
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=GENEROUS_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout.replace("[y/N]: ", "[y/N]: y\n")

    def _start(self, command: str) -> str:
        self.service = subprocess.Popen(
            ("sh", "-c", command),
            cwd=self.folder,
            env=self._environment(),
            stdout=self._window,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        eventually(self._is_up)
        return self.log.read_text(encoding="utf-8")

    def _is_up(self) -> bool:
        assert self.service
        assert self.service.poll() is None, self.log.read_text(encoding="utf-8")
        with suppress(requests.RequestException):
            return requests.get(f"{self.url}/readyz", timeout=5).ok
        return False

    def _environment(self) -> dict[str, str]:
        """Return what a new shell has, and nothing of ours."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder.parent), "LANG": "C.UTF-8"}


@pytest.fixture
def walker(town: Town, tmp_path: Path) -> Iterator[Walker]:
    town.forget_relay()
    (tmp_path / "empty").mkdir()
    made = Walker(town, tmp_path / "empty")
    yield made
    made.end()


def test_there_are_few_commands_and_each_block_has_one() -> None:
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    assert [block for block in blocks if block.count("\n") != 1] == []
    assert len(blocks) == len(steps()) <= MOST


def test_the_walk(walker: Walker) -> None:
    town, todo = walker.town, steps()

    def walk(*commands: str) -> str:
        """Take the next steps of the page, which are these; return what the last one printed."""
        printed = ""
        for command in commands:
            step = todo.pop(0)
            assert command in step.command
            printed = walker.take(step)
            if not step.command.startswith("nano "):
                for shown in step.shown:
                    assert differences(shown, printed, walker.url) == [], printed
        return printed

    walk("git clone", "cd", "make install", "cp .env.example", "nano .env")

    walk("flask stages")
    mapping = walker.folder / "config" / "mapping.yaml"
    assert f"pipeline: {OTHER_SALES}  # Sales" in mapping.read_text(encoding="utf-8")
    walk("nano")
    assert f"  #   status: {NEW}" in mapping.read_text(encoding="utf-8")

    told = walk("flask setup")
    assert [hook.settings for hook in town.kommo.hooks.by_url.values()] == [["status_lead", "add_lead"]]
    assert {"Last email activity", "Email status"} <= {
        made.name for made in town.kommo.account.fields["leads"].by_id.values()
    }
    assert "kommo_lead_id" in town.encharge.people.fields
    assert {"str:cm:kommo-lead-id", "str:cm:kommo-stage"} <= set(town.ortto._account.schema.custom)
    assert "act:cm:crm-stage-changed" in town.ortto._account.schema.definitions

    walk("make run", "flask doctor")  # it is green: each command must end with 0

    # Nora's deal is dragged into a stage of the list.
    contact = town.kommo.add_contact("Nora Quist", [EMAIL])
    deal = town.kommo.add_deal("A try", NEW, pipeline_id=OTHER_SALES, price=4800, contact_ids=[contact])
    town.kommo.move(deal, PROPOSAL)
    (event,) = eventually(lambda: arrived(town).get("encharge_events"))
    (activity,) = eventually(lambda: arrived(town).get("ortto_activities"))
    assert (event["name"], event["email"]) == ("deal_moved_to_proposal", EMAIL)
    assert (activity["email"], activity["attributes"]["str:cm:stage"]) == (EMAIL, "Proposal")
    walker.wait_until_all_is_done()
    walk("flask events")
    page = requests.get(f"{walker.url}/ops", auth=("anybody", TOKEN), timeout=GENEROUS_SECONDS)
    assert (page.status_code, str(deal) in page.text) == (200, True)

    # What is left to a person: the flow's step at Encharge, with the address that setup printed.
    (address,) = set(re.findall(rf"{walker.url}/webhooks/encharge\?secret=[0-9a-f]{{48}}", told))
    town.encharge.target = Target(address)
    town.encharge.act(EMAIL, "clicked", broadcast="Proposal follow-up - May")
    (task,) = eventually(lambda: arrived(town).get("tasks"))
    (quoted,) = re.findall(r"^((?:> .+\n)+)", PAGE, re.MULTILINE)
    assert task["entity_id"] == deal
    assert task["text"].split() == quoted.replace("> ", "").split()
    walker.wait_until_all_is_done()
    walk("flask events")
    assert todo == []


# -- the comparison can fail --


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 1\nb\n", "a 22\n\nb\n", True),
        (f"a\n{LEFT_OUT}\nd\n", "a\nb\nc\nd\n", True),
        (f"a\n{LEFT_OUT}\n", "a\nb\n", True),
        (f"a b{LEFT_OUT}\n", "a b c\n", True),
        (f"{OURS}/x <secret>\n", f"http://127.0.0.1:5/x {'0a' * 24}\n", True),
        ("a\n", "a\nb\n", False),
        ("a\nc\n", "a\nb\nc\n", False),
        ("a\nb\n", "a\n", False),
        ("b\na\n", "a\nb\n", False),
        ("red x\n", "green x\n", False),
    ],
)
def test_what_is_shown_must_be_what_is_printed(shown: str, printed: str, same: bool) -> None:
    assert (differences(shown, printed, "http://127.0.0.1:5") == []) == same
