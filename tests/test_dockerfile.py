"""The image, built and run without Docker: the Dockerfile's own commands, in its own places.

A mount namespace stands for a container: /srv is the image's, Python is where its base has it, and nothing else can
be written.
"""

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
from functools import cache
from pathlib import Path

import pytest
from support import ROOT, SECRET, free_port

from sandbox.town import Town

SKIPPED_COMMANDS = ("groupadd", "useradd")  # they would be in this machine's own files
NOTED_ONLY = ("USER", "VOLUME", "EXPOSE", "STOPSIGNAL")
OFFLINE = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError")
INSTALL_SECONDS = 180
START_SECONDS = 60.0
USER = 10001
pytestmark = pytest.mark.timeout(3 * INSTALL_SECONDS)

# $1: the image's /srv, $2: this Python's place; then a command.
BUILDING = """
mount --bind "$2" /usr/local
mount --bind "$1" /srv
shift 2
cd "$1"
shift
exec "$@"
"""
# The same with one volume, which is all that may be written, and a container's own /dev/shm.
RUNNING = """
mount --bind "$2" /usr/local
mount --bind "$1" /srv
mount --bind "$1/data" /srv/data
mount -t tmpfs -o mode=1777 shm /dev/shm
findmnt --raw --noheadings --output TARGET | while read -r place; do
  case $place in /srv/data|/dev/shm|/proc*|/sys*) ;; *) mount -o remount,bind,ro "$place" ;; esac
done
shift 2
cd "$1"
shift
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


@cache
def missing() -> str:
    """Return why no container can be imitated here, or ''."""
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        return "unshare or setpriv is not installed: apt-get install util-linux"
    trial = ["unshare", "--mount", "sh", "-ec", "mount -t tmpfs none /mnt"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        return "mounts can be changed by root only: run this test as root"
    if not (Path(sys.base_prefix) / "bin" / "python").exists():
        return f"{sys.base_prefix} has no bin/python, as the image's base has"
    return ""


@dataclass
class Image:
    """What a stage of a Dockerfile made, in a directory that stands for its root."""

    root: Path
    folder: str = "/"  # WORKDIR
    base: str = ""  # FROM
    variables: dict[str, str] = field(default_factory=dict)  # ENV
    arguments: dict[str, str] = field(default_factory=dict)  # ARG
    labels: dict[str, str] = field(default_factory=dict)  # LABEL
    noted: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)  # CMD
    health: list[str] = field(default_factory=list)  # HEALTHCHECK's CMD

    @property
    def srv(self) -> Path:
        """Return what stands for /srv."""
        return self.root / "srv"

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a process in the image."""
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
        # A Python with a library of its own, in a place that only root may enter.
        here = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": "/usr/local/lib", "HOME": "/srv"}
        return {**proxies, **pip, **here, **self.variables, **variables}

    def inside(self, script: str, *command: str) -> list[str]:
        """Return a command as it is to be started, so that it runs in the image."""
        places = (str(self.srv), sys.base_prefix, self.folder)
        return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", *places, *command]


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


def build(dockerfile: str, folder: Path) -> dict[str, Image]:
    """Carry a Dockerfile out, each stage in a folder of its own; fail on what is not known here."""
    steps: dict[str, Callable[[Image, str, dict[str, Image]], None]] = {
        "WORKDIR": _workdir,
        "ENV": _env,
        "ARG": _arg,
        "LABEL": _label,
        "COPY": _copy,
        "RUN": _run,
        "HEALTHCHECK": _healthcheck,
        "CMD": _cmd,
    }
    stages: dict[str, Image] = {}
    outside = Image(folder)
    image = outside
    for name, arguments in instructions(dockerfile):
        if name == "FROM":
            base, _, stage = _filled(arguments, outside.arguments).partition(" AS ")
            image = stages[stage or "last"] = Image(folder / (stage or "last"), base=base)
            image.srv.mkdir(parents=True)
        elif name in NOTED_ONLY:
            image.noted[name] = arguments
        else:
            assert name in steps, f"{name} is not known to this test"
            steps[name](image, arguments, stages)
    return stages


def _filled(text: str, values: dict[str, str]) -> str:
    """Put in the values of build arguments."""
    return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)


def _workdir(image: Image, arguments: str, stages: dict[str, Image]) -> None:
    assert arguments == "/srv", "this test knows no other place"
    image.folder = arguments


def _env(image: Image, arguments: str, stages: dict[str, Image]) -> None:
    image.variables |= dict(pair.split("=", 1) for pair in shlex.split(arguments))


def _arg(image: Image, arguments: str, stages: dict[str, Image]) -> None:
    name, _, default = arguments.partition("=")
    image.arguments[name] = default


def _label(image: Image, arguments: str, stages: dict[str, Image]) -> None:
    image.labels |= dict(pair.split("=", 1) for pair in shlex.split(_filled(arguments, image.arguments)))


def _copy(image: Image, arguments: str, stages: dict[str, Image]) -> None:
    *sources, target = shlex.split(arguments)
    if sources[0].startswith("--from="):
        assert (sources[1:], target) == (["/srv"], "./"), "this test knows no other copy"
        shutil.copytree(
            stages[sources[0].removeprefix("--from=")].srv, image.srv, symlinks=True, dirs_exist_ok=True
        )
        return
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    for source in sources:
        found = (
            [ROOT / source] if (ROOT / source).is_file() else [p for p in (ROOT / source).rglob("*") if p.is_file()]
        )
        kept = [path for path in found if let_through(path.relative_to(ROOT).as_posix(), rules)]
        assert kept, f"COPY {source}: nothing that .dockerignore lets through"
        for path in kept:
            inside = Path(path.name) if path == ROOT / source else path.relative_to(ROOT / source)
            copy = image.srv / target / inside
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def _run(image: Image, arguments: str, stages: dict[str, Image]) -> None:
    commands = [command for command in arguments.split(" && ") if not command.startswith(SKIPPED_COMMANDS)]
    done = subprocess.run(
        image.inside(BUILDING, "sh", "-ec", " && ".join(commands) or ":"),
        # Root's home, as in a build; pip's look for other languages leaves traces there.
        env=image.environment(PIP_RETRIES="1", HOME=str(image.root)),
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode and any(word in done.stdout + done.stderr for word in OFFLINE):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, f"RUN {arguments}:\n{done.stdout}{done.stderr}"


def _healthcheck(image: Image, arguments: str, stages: dict[str, Image]) -> None:
    _, _, command = arguments.partition(" CMD ")
    image.health = json.loads(command)


def _cmd(image: Image, arguments: str, stages: dict[str, Image]) -> None:
    image.command = json.loads(arguments)


def files(folder: Path) -> set[str]:
    """Return all files of the image but the journal's."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return {path.as_posix() for path in found if path.parts[0] != "data"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    if missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing())
    folder = tmp_path_factory.mktemp("image")
    return build((ROOT / "Dockerfile").read_text(encoding="utf-8"), folder)["last"]


def run(image: Image, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the image, as its user."""
    return subprocess.run(
        image.inside(RUNNING, *command),
        env=image.environment(**variables),
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )


def test_its_user_can_write_into_the_volume_and_nowhere_else(image: Image) -> None:
    done = run(
        image, "sh", "-c", "id -u; for place in . app /tmp /var/tmp /etc data; do touch $place/x; done; ls data"
    )
    assert done.stdout.split() == [str(USER), "x"]
    assert len(re.findall("Read-only file system", done.stderr)) == 5, done.stderr
    (image.srv / "data" / "x").unlink()


def test_it_starts_serves_and_stops_with_one_volume(image: Image, town: Town, tmp_path: Path) -> None:
    port = str(free_port())
    secret = image.srv / "data" / "secret"  # what Docker mounts
    secret.write_text(f"{SECRET}\n")
    told = {
        **town.environment(),
        **{f"{vendor}_WEBHOOK_SECRET_FILE": "/srv/data/secret" for vendor in ("KOMMO", "ENCHARGE", "ORTTO")},
        "RECONCILE_MINUTES": "0",  # the town has no webhook that leads here, and it would say so
        "PORT": port,
        "http_proxy": "http://127.0.0.1:9",  # Docker hands on its own
    }
    before = files(image.srv)
    log = tmp_path / "image.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            image.inside(RUNNING, *image.command),
            env=image.environment(**told),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                found = run(image, *image.health, **told)
                if found.returncode == 0:
                    break
                time.sleep(0.2)
            words = log.read_text(errors="replace")
            assert found.returncode == 0, f"HEALTHCHECK: {found.stderr}\n{words}"
            commands = run(image, "flask", "events", **told)
            assert (commands.returncode, commands.stderr) == (0, "")
            assert files(image.srv) == before
            journal = image.srv / "data" / "journal.db"
            assert journal.stat().st_uid == USER
            # `gunicorn.error` is only the name of the server's log.
            assert "error" not in words.replace("gunicorn.error", "").lower(), words
        finally:
            process.terminate()  # STOPSIGNAL
            assert process.wait(40) == 0, log.read_text(errors="replace")
    assert run(image, *image.health, **told).returncode != 0


def test_the_image_holds_the_service_and_nothing_else(image: Image) -> None:
    assert {path.name for path in image.srv.iterdir()} == {".flaskenv", "app", "config", "data", "venv", "wsgi.py"}
    assert not (image.srv / "venv" / "bin" / "pip").exists()
    # What is imported at every start is compiled already, and from what is here.
    compiled = {path.name.split(".")[0] for path in (image.srv / "app").glob("__pycache__/*.pyc")}
    assert compiled == {path.stem for path in (image.srv / "app").glob("*.py")}


def test_it_runs_as_a_user_of_its_own_on_a_pinned_python(image: Image) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = tuple(map(int, re.findall(r"\d+", project["requires-python"])))
    version = re.fullmatch(r"python:(\d+)\.(\d+)\.(\d+)-slim-\w+", image.base)
    assert version, f"FROM {image.base} is not pinned to a version"
    assert tuple(map(int, version.groups())) >= lowest
    assert image.noted == {
        "USER": f"{USER}:{USER}", "VOLUME": "/srv/data", "EXPOSE": "8000", "STOPSIGNAL": "SIGTERM"
    }  # fmt: skip
    assert (image.srv / "data").stat().st_uid == USER


def test_its_labels_say_which_version_it_is(image: Image) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = {name.removeprefix("org.opencontainers.image."): words for name, words in image.labels.items()}
    assert shown == {
        "title": "Kommo Relay",
        "description": project["description"],
        "licenses": project["license"],
        "version": project["version"],
        "revision": "unknown",
    }
    assert image.arguments == {"VERSION": project["version"], "COMMIT": "unknown"}


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("app/__init__.py", True),
        ("app/journal/migrations/versions/0001_journal.py", True),
        ("config/mapping.yaml", True),
        ("wsgi.py", True),
        (".flaskenv", True),
        ("requirements.lock", True),
        (".env", False),
        (".git/config", False),
        ("data/journal.db", False),
        ("tests/test_dockerfile.py", False),
        ("sandbox/__main__.py", False),
        ("requirements-dev.lock", False),
        ("app/__pycache__/settings.cpython-311.pyc", False),
        ("app/journal/__pycache__/store.cpython-311.pyc", False),
    ],
)
def test_dockerignore_lets_only_the_service_through(path: str, kept: bool) -> None:
    assert let_through(path, (ROOT / ".dockerignore").read_text(encoding="utf-8")) is kept
