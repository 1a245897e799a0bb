"""`flask stages` as a process, against the sandbox: what it needs, writes, keeps and refuses."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nursery
import pytest
from support import ROOT
from test_command_line import APP

from app import mapping
from app.mapping.stage_list import GONE
from sandbox.kommo.records import Stage
from sandbox.town import Town

SHIPPED = (ROOT / "config" / "mapping.yaml").read_bytes()
VARIABLES = {"KOMMO_CF_EMAIL_ACTIVITY": None, "KOMMO_CF_EMAIL_STATUS": None}
SALES = 7_100_010

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "mapping.yaml"


@pytest.fixture
def run(town: Town, tmp_path: Path, path: Path) -> Run:
    """Run the command in an empty folder with nothing set but how to reach Kommo."""

    def started(*options: str, answer: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        kommo = {name: value for name, value in town.environment().items() if name.startswith("KOMMO_")}
        return nursery.run(
            [sys.executable, "-m", "flask", "stages", *options],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "FLASK_APP": APP, "MAPPING_FILE": str(path), **kommo, **variables},
            answer=answer,
        )

    return started


def lay(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def names(path: Path) -> list[str]:
    return [stage.name for stage in mapping.load(path, VARIABLES).stages]


def test_without_a_file_a_whole_one_is_made_and_then_there_is_nothing_to_do(run: Run, path: Path) -> None:
    done = run(answer="y\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Make {path}? [y/N]" in done.stdout
    assert names(path) == [
        "new", "qualified", "proposal", "negotiation", "first_call", "kvalifikatsiya", "won", "lost"
    ]  # fmt: skip
    shipped = mapping.load(ROOT / "config" / "mapping.yaml", VARIABLES)
    assert mapping.load(path, VARIABLES).fields == shipped.fields
    assert "status: 61000202  # Квалификация\n    label: Квалификация\n" in path.read_text(encoding="utf-8")
    # Nothing but the file: no journal, nothing half-written.
    assert [found.name for found in path.parent.parent.rglob("*")] == ["config", "mapping.yaml"]

    written = path.read_bytes()
    again = run()
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.endswith(f"{path} has all of them: nothing to do.\n")
    assert path.read_bytes() == written


@pytest.mark.parametrize(("options", "answer", "code"), [(["--dry-run"], "", 0), ([], "n\n", 1), ([], "", 1)])
def test_nothing_is_written_unless_one_agrees(
    run: Run, path: Path, options: list[str], answer: str, code: int
) -> None:
    lay(path, SHIPPED)
    done = run(*options, answer=answer)
    assert done.returncode == code
    assert "+  - stage: first_call\n+    pipeline: 7100020  # Wholesale\n" in done.stdout
    assert path.read_bytes() == SHIPPED


def test_what_is_new_is_added_and_what_is_gone_is_marked(run: Run, path: Path, town: Town) -> None:
    assert run("--yes").returncode == 0
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("  - stage: qualified\n", "  - stage: hot  # ours\n"), encoding="utf-8")
    stages = town.kommo.account.pipelines[SALES].stages
    del stages[61_000_103]
    stages[61_000_105] = Stage(61_000_105, "Legal: check", 55, "#c1c1c1")

    done = run("--yes")

    assert (done.returncode, done.stderr) == (0, "")
    assert "No longer in Kommo: proposal." in done.stdout
    after = path.read_text(encoding="utf-8")
    assert f"  - stage: proposal  {GONE}\n" in after
    assert "  - stage: hot  # ours\n    pipeline: 7100010  # Sales\n    status: 61000102  # Qualified\n" in after
    assert '    status: 61000105  # Legal: check\n    label: "Legal: check"\n' in after
    assert "New: 1.\n" in done.stdout
    assert "nothing to do" in run().stdout


def test_an_archived_pipeline_adds_nothing(run: Run, path: Path, town: Town) -> None:
    town.kommo.account.pipelines[SALES].is_archive = True
    done = run("--yes")
    assert "Sales (7100010): 7 stages (archived: left out)" in done.stdout
    assert names(path) == ["first_call", "kvalifikatsiya", "won", "lost"]


def test_line_endings_and_a_byte_order_mark_stay(run: Run, path: Path) -> None:
    lay(path, b"\xef\xbb\xbfversion: 1\r\nstages:  # ours\r\nrules: []\r\n")
    assert run("--yes").returncode == 0
    content = path.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfversion: 1\r\nstages:  # ours\r\n  - stage: new\r\n")
    assert content.endswith(b"rules: []\r\n")
    assert content.count(b"\n") == content.count(b"\r\n")


def test_the_files_mode_stays_and_a_link_stays_a_link(run: Run, path: Path, tmp_path: Path) -> None:
    real = lay(tmp_path / "real" / "mapping.yaml", b"version: 1\n")
    real.chmod(0o640)
    path.parent.mkdir()
    path.symlink_to(real)
    assert run("--yes").returncode == 0
    assert path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert len(names(real)) == 8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version: 1\nstages:\n\t- stage: a\n", "line 3: a tab; indent with spaces"),
        ("version: 1\n# Größe\n".encode("latin-1"), "line 2: not UTF-8 text; save the file as UTF-8"),
        (b"version: 1\nstages:\n  - stage: a\n", "line 3: stages[0].status is missing"),
        (b"{version: 1}\n", "line 1: it is written in braces"),
        (b"version: 1\nstages: {a: 1}\n", "stages must be a list"),
        (b"version: 1\n# \x07\n", "line 2: a control character"),
    ],
)
def test_a_file_that_is_wrong_is_left_alone(run: Run, path: Path, content: bytes, words: str) -> None:
    lay(path, content)
    done = run("--yes")
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert words in done.stderr
    assert "Nothing was written." in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == content


def test_what_would_not_be_accepted_is_not_written(run: Run, path: Path, town: Town) -> None:
    # The shipped examples give way to the account's own stages, and a rule is about one of them.
    del town.kommo.account.pipelines[SALES]
    content = SHIPPED.replace(b"{event: bounced}", b"{event: bounced, stage: [proposal_sent]}")
    assert content != SHIPPED
    lay(path, content)
    done = run("--yes")
    assert done.returncode == 1
    assert "stage[0] names no stage: 'proposal_sent'" in done.stderr
    assert done.stderr.endswith("Nothing was written.\n")
    assert path.read_bytes() == content


def test_a_folder_is_no_file(run: Run, path: Path) -> None:
    path.mkdir(parents=True)
    done = run("--yes")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"{path} cannot be read (Is a directory): see MAPPING_FILE." in done.stderr


def test_a_read_only_file_is_left_alone(run: Run, path: Path) -> None:
    lay(path, b"version: 1\n").chmod(0o444)
    done = run("--yes")
    assert done.returncode == 1
    assert f"{path} cannot be written (it is read-only)." in done.stderr
    assert path.read_bytes() == b"version: 1\n"
    assert [found.name for found in path.parent.iterdir()] == ["mapping.yaml"]


KILLED = """
import os, pathlib, sys
from app import files
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), 9)
files.replace(pathlib.Path(sys.argv[1]), b"new" * 100_000)
"""


def test_a_kill_in_the_middle_leaves_the_old_file_and_the_next_run_goes_well(run: Run, path: Path) -> None:
    lay(path, SHIPPED)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -9
    assert path.read_bytes() == SHIPPED
    assert run("--yes").returncode == 0
    assert [found.name for found in path.parent.iterdir()] == ["mapping.yaml"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"KOMMO_ACCESS_TOKEN": ""}, "KOMMO_ACCESS_TOKEN is not set"),
        ({"KOMMO_ACCESS_TOKEN": "", "KOMMO_TOKEN": "x"}, "KOMMO_TOKEN is not a setting"),
        ({"KOMMO_ACCESS_TOKEN": "wrong"}, "check KOMMO_ACCESS_TOKEN, and KOMMO_SUBDOMAIN"),
        ({"KOMMO_API_URL": "http://127.0.0.1:9"}, "Kommo: no connection to GET /leads/pipelines"),
        ({"KOMMO_SUBDOMAIN": "acme.kommo.com"}, "KOMMO_SUBDOMAIN must be the bare name"),
    ],
)
def test_what_keeps_it_from_kommo_is_said(run: Run, path: Path, variables: dict[str, str], words: str) -> None:
    done = run("--yes", **variables)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not path.exists()


def test_faults_of_other_settings_do_not_matter(run: Run) -> None:
    done = run("--dry-run", ENCHARGE_API_KEY="a key", PORT="x", KOMMO_CF_EMAIL_STATUS="x", KOMMO_TYPO="x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Nothing was written.\n")
