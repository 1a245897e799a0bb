"""`flask …` without a complete configuration: help always; what needs the service stops as the service does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nursery
import pytest
from dotenv import dotenv_values
from flask import Flask
from support import ROOT, journal_file

APP = str(dotenv_values(ROOT / ".flaskenv")["FLASK_APP"])
SERVICE = {
    "backfill": [],
    "broadcasts": [],
    "events": [],
    "purge": ["--yes"],
    "reconcile": ["--dry-run"],
    "replay": ["4711"],
    "work": [],
    # Flask's own.
    "routes": [],
    "run": [],
    "shell": [],
}
"""What needs the whole service, with arguments that are in order."""
BROKEN = {"KOMMO_SUBDOMAIN": "acme.kommo.com", "PORT": "x", "KOMMO_SUBDOMIAN": "acme"}


def run(command: Sequence[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a process in a folder without `.env`, with these variables and no others."""
    return nursery.run([sys.executable, *command], cwd=folder, env=environment(variables))


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "FLASK_APP": APP, **variables}


def flask(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(["-m", "flask", *arguments], folder, **variables)


def fresh_flask(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it as people do: nothing is imported yet."""
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=folder,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("variables", [{}, BROKEN], ids=["nothing set", "wrong settings"])
def test_help_lists_every_command_and_touches_nothing(
    app: Flask, tmp_path: Path, variables: dict[str, str]
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()

    done = fresh_flask(folder, "--help", **variables)

    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in app.cli.commands if f"\n  {name} " not in done.stdout] == []
    assert list(folder.iterdir()) == []


def test_every_command_has_help_whatever_is_wrong(app: Flask, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    for name in app.cli.commands:
        done = flask(folder, name, "--help", **BROKEN)
        assert (done.returncode, done.stderr) == (0, ""), name
        assert done.stdout.startswith(f"Usage: python -m flask {name} "), name
    assert list(folder.iterdir()) == []


def test_help_opens_no_journal_though_all_settings_are_right(env: dict[str, str]) -> None:
    folder = journal_file(env).parent / "cwd"
    folder.mkdir()

    done = flask(folder, "events", "--help", **env)

    assert (done.returncode, done.stderr) == (0, "")
    assert not journal_file(env).exists()


@pytest.mark.parametrize("name", SERVICE)
def test_what_needs_the_service_stops_with_its_sentences(name: str, tmp_path: Path) -> None:
    service = run(["-c", "import wsgi"], tmp_path, **BROKEN)
    assert service.stderr.startswith("Kommo Relay cannot start:\nKOMMO_SUBDOMAIN must be the bare name")

    done = flask(tmp_path, name, *SERVICE[name], **BROKEN)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", service.stderr)


@pytest.mark.parametrize("name", ["events", "broadcasts"])
def test_a_broken_mapping_file_stops_it_too(name: str, env: dict[str, str], tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("version: 2\n")

    done = flask(tmp_path, name, **{**env, "MAPPING_FILE": str(mapping)})

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Kommo Relay cannot start:\n{mapping} line 1: version must be 1: this is the only version there is.\n"
    )
    assert not journal_file(env).exists()


def test_commands_run_when_all_is_right(env: dict[str, str], tmp_path: Path) -> None:
    done = fresh_flask(tmp_path, "events", **env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "No events fit.\n", "")
    done = flask(tmp_path, "routes", **env)
    assert "/webhooks/kommo/stage" in done.stdout
