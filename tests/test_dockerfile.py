"""The image, built and run without Docker: the Dockerfile's own commands in an empty directory."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import ROOT, SECRET, free_port

from sandbox.town import Town

# Steps that need root or an image; everything else is carried out.
SKIPPED_COMMANDS = ("useradd", "chown")
NOTED_ONLY = ("FROM", "USER", "VOLUME", "EXPOSE")
OFFLINE = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError")
INSTALL_SECONDS = 180
START_SECONDS = 60.0
pytestmark = pytest.mark.timeout(3 * INSTALL_SECONDS)


@dataclass
class Image:
    """What a Dockerfile made, in a directory that stands for its root."""

    root: Path
    venv: Path
    folder: Path = field(init=False)  # WORKDIR
    variables: dict[str, str] = field(default_factory=dict)  # ENV
    noted: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)  # CMD
    health: list[str] = field(default_factory=list)  # HEALTHCHECK's CMD

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a process in the image."""
        path = f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
        return {**proxies, **pip, "PATH": path, "HOME": str(self.folder), **self.variables, **variables}


def instructions(text: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, each with its arguments on one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def let_through(path: str, rules: str) -> bool:
    """Say whether a .dockerignore lets a file through: the last rule that matches it, or a folder of it, counts."""
    parts = path.split("/")
    names = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    kept = True
    for rule in (line.strip() for line in rules.splitlines()):
        if not rule or rule.startswith("#"):
            continue
        if any(re.fullmatch(_pattern(rule.lstrip("!").strip("/")), name) for name in names):
            kept = rule.startswith("!")
    return kept


def _pattern(rule: str) -> str:
    """Return a pattern of .dockerignore as a regular expression: `**/` any folders, `*` within one name."""
    tokens = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", rule)
    return "".join(tokens.get(part, re.escape(part)) for part in parts)


def build(dockerfile: str, image: Image) -> Image:
    """Carry a Dockerfile out; fail on what is not known here."""
    steps: dict[str, Callable[[Image, str], None]] = {
        "WORKDIR": _workdir,
        "ENV": _env,
        "COPY": _copy,
        "RUN": _run,
        "HEALTHCHECK": _healthcheck,
        "CMD": _cmd,
    }
    for name, arguments in instructions(dockerfile):
        if name in NOTED_ONLY:
            image.noted[name] = arguments
        else:
            assert name in steps, f"{name} is not known to this test"
            steps[name](image, arguments)
    return image


def _workdir(image: Image, arguments: str) -> None:
    image.folder = image.root / arguments.lstrip("/")
    image.folder.mkdir(parents=True)


def _env(image: Image, arguments: str) -> None:
    image.variables |= dict(pair.split("=", 1) for pair in shlex.split(arguments))


def _copy(image: Image, arguments: str) -> None:
    *sources, target = shlex.split(arguments)
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    for source in sources:
        found = (
            [ROOT / source] if (ROOT / source).is_file() else [p for p in (ROOT / source).rglob("*") if p.is_file()]
        )
        kept = [path for path in found if let_through(path.relative_to(ROOT).as_posix(), rules)]
        assert kept, f"COPY {source}: nothing that .dockerignore lets through"
        for path in kept:
            inside = Path(path.name) if path == ROOT / source else path.relative_to(ROOT / source)
            copy = image.folder / target / inside
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def _run(image: Image, arguments: str) -> None:
    commands = [command for command in arguments.split(" && ") if not command.startswith(SKIPPED_COMMANDS)]
    done = subprocess.run(
        ["sh", "-ec", " && ".join(commands) or ":"],
        cwd=image.folder,
        # Root's home, as in a build; pip's look for other languages leaves traces there.
        env=image.environment(PIP_RETRIES="1", HOME=str(image.root / "root")),
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode and any(word in done.stdout + done.stderr for word in OFFLINE):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, f"RUN {arguments}:\n{done.stdout}{done.stderr}"


def _healthcheck(image: Image, arguments: str) -> None:
    _, _, command = arguments.partition(" CMD ")
    image.health = json.loads(command)


def _cmd(image: Image, arguments: str) -> None:
    image.command = json.loads(arguments)


def files(folder: Path) -> set[str]:
    """Return all files of the image but the journal's."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return {path.as_posix() for path in found if path.parts[0] != "data"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    root = tmp_path_factory.mktemp("image")
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=INSTALL_SECONDS)
    return build((ROOT / "Dockerfile").read_text(encoding="utf-8"), Image(root, venv))


def test_it_starts_and_its_own_healthcheck_finds_it_well(image: Image, town: Town, tmp_path: Path) -> None:
    secrets = {f"{vendor}_WEBHOOK_SECRET": SECRET for vendor in ("KOMMO", "ENCHARGE", "ORTTO")}
    quiet = {"RECONCILE_MINUTES": "0"}  # the town has no webhook that leads here, and it would say so
    environment = image.environment(**town.environment(), **secrets, **quiet, PORT=str(free_port()))
    before = files(image.folder)
    log = tmp_path / "image.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            image.command, cwd=image.folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                found = subprocess.run(
                    image.health, cwd=image.folder, env=environment, capture_output=True, check=False
                )
                if found.returncode == 0:
                    break
                time.sleep(0.2)
            words = log.read_text(errors="replace")
            assert found.returncode == 0, f"HEALTHCHECK: {found.stderr.decode()}\n{words}"
            # The image's user may write into data/ only.
            assert files(image.folder) == before
            assert (image.folder / "data" / "journal.db").is_file()
            # `gunicorn.error` is only the name of the server's log.
            assert "error" not in words.replace("gunicorn.error", "").lower(), words
        finally:
            process.terminate()
            process.wait(40)
    assert subprocess.run(image.health, env=environment, capture_output=True, check=False).returncode != 0


def test_the_image_holds_the_service_and_nothing_else(image: Image) -> None:
    assert {path.name for path in image.folder.iterdir()} == {
        ".flaskenv",
        "app",
        "config",
        "constraints.txt",
        "data",
        "requirements.txt",
        "wsgi.py",
    }
    assert [path for path in files(image.folder) if path.endswith(".pyc")] == []


def test_it_runs_as_a_user_of_its_own_on_a_pinned_python(image: Image) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = tuple(map(int, re.findall(r"\d+", project["requires-python"])))
    version = re.fullmatch(r"python:(\d+)\.(\d+)\.(\d+)-slim-\w+", image.noted["FROM"])
    assert version, f"FROM {image.noted['FROM']} is not pinned to a version"
    assert tuple(map(int, version.groups())) >= lowest
    assert image.noted["USER"] not in ("root", "0")
    assert image.noted["VOLUME"] == "/srv/data"


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("app/__init__.py", True),
        ("app/journal/migrations/versions/0001_journal.py", True),
        ("config/mapping.yaml", True),
        ("wsgi.py", True),
        (".flaskenv", True),
        ("requirements.txt", True),
        (".env", False),
        (".git/config", False),
        ("data/journal.db", False),
        ("tests/test_dockerfile.py", False),
        ("sandbox/__main__.py", False),
        ("requirements-dev.txt", False),
        ("app/__pycache__/settings.cpython-311.pyc", False),
        ("app/journal/__pycache__/store.cpython-311.pyc", False),
    ],
)
def test_dockerignore_lets_only_the_service_through(path: str, kept: bool) -> None:
    assert let_through(path, (ROOT / ".dockerignore").read_text(encoding="utf-8")) is kept
