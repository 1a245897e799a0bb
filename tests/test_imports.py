"""Imports point one way, and each library has its place: read from the source, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.events import Source

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("app", "sandbox") for path in (ROOT / folder).rglob("*.py"))

# webhooks, ops, cli → dispatcher → flows → clients, mapping → events; journal → events.
WORDS = {"events"}
OUTSIDE = WORDS | {"clients", "journal", "mapping"}
ENTRANCE = OUTSIDE | {"dispatcher", "receipts"}
MAY_IMPORT: dict[str, set[str]] = {
    "app": {
        "access",
        "webhooks",
        "ops",
        "cli",
        "alerts",
        "accounts",
        "backfill",
        "dispatcher",
        "doctor",
        "explain",
        "flows",
        "clients",
        "guardian",
        "journal",
        "lease",
        "mapping",
        "reconcile",
        "rounds",
        "seal",
        "settings",
        "logs",
        "strangers",
    }
    | WORDS,
    "webhooks": ENTRANCE | {"addresses", "ids", "strangers"},
    "ops": ENTRANCE | {"access", "ids", "logs", "moments", "strangers"},
    "cli": ENTRANCE
    | {
        "access",
        "accounts",
        "addresses",
        "advice",
        "backfill",
        "doctor",
        "dotenv_file",
        "explain",
        "files",
        "guardian",
        "moments",
        "reconcile",
        "settings",
        "setup",
    },
    "backfill": OUTSIDE | {"flows", "retry"},
    "dispatcher": OUTSIDE | {"flows", "lease", "receipts", "retry", "clock", "crowd"},
    "access": {"clients", "clock", "hush", "journal", "lease", "seal"},
    "doctor": OUTSIDE | {"access", "accounts", "advice", "guardian", "settings"},
    "explain": OUTSIDE | {"flows", "webhooks"},
    "rounds": {"clients", "guardian", "journal", "reconcile"},
    "reconcile": OUTSIDE,
    "guardian": {"clients"},
    "alerts": OUTSIDE | {"access"},
    "accounts": WORDS | {"clients", "mapping"},
    "advice": {"clients"},
    "setup": WORDS | {"accounts", "advice", "clients", "guardian", "mapping"},
    "dotenv_file": set(),
    "receipts": WORDS | {"journal"},
    "flows": WORDS | {"clients", "mapping"},
    "retry": {"clients"},
    "clients": WORDS | {"addresses", "hush", "ids"},
    "mapping": WORDS | {"ids"},
    "journal": WORDS,
    "events": set(),
    "addresses": set(),
    "ids": set(),
    "clock": set(),
    "crowd": set(),
    "files": set(),
    "lease": set(),
    "moments": set(),
    "settings": WORDS | {"ids"},
    "hush": set(),
    "seal": set(),
    "logs": WORDS | {"hush"},
    "one_cpu": set(),
    "server": {"one_cpu"},
    "strangers": set(),
}
"""What each part of app/ may import of the others; itself it may always."""

PLACES: dict[str, tuple[str, ...]] = {
    "flask": ("app", "app.webhooks", "app.ops", "app.cli"),
    "werkzeug": ("app", "app.webhooks", "app.ops"),
    "click": ("app.cli",),
    "requests": ("app.clients.http",),
    "urllib3": ("app.clients.http",),
    "sqlalchemy": ("app.journal",),
    "alembic": ("app.journal",),
    "sqlite3": ("app.journal",),
    "psycopg": ("app.journal",),
    "yaml": ("app.mapping.file", "app.mapping.stage_list"),
    "anyascii": ("app.mapping.stage_list",),
    "cryptography": ("app.seal",),
    "dotenv": ("app.settings", "app.dotenv_file"),
    "gunicorn": ("app.server",),
    "prometheus_client": ("app.ops.metrics",),
}
"""Where a library may be imported: `app` is the one file, any other is that module and all below it."""

FRAMEWORK = {"flask", "werkzeug"}
# The readers of bodies know no framework, so that they can be read and tested as functions.
READERS = tuple(f"app.webhooks.{name}" for name in (*Source, "bodies", "activity"))


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    """Return the full name of everything imported, wherever in the file: `app.journal.Journal`, `os.environ`."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """Return the part of app/ to which a dotted name belongs."""
    names = name.split(".")
    return names[1] if len(names) > 1 else "app"


def within(module: str, place: str) -> bool:
    """Say whether a module is a place or lies below it; `app` itself is one file only."""
    return module == place or (place != "app" and module.startswith(f"{place}."))


def faults(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return what a file imports or touches that it must not."""
    tree = ast.parse(source)
    names = sorted(set(imported(tree, module, is_package=is_package)))
    if module.split(".")[0] == "sandbox":
        return [f"{module} imports {name}: the sandbox is no part of the app" for name in names if _in(name, "app")]
    return [
        *(fault for name in names if (fault := _import_fault(module, name))),
        *(f"{module} touches {name}: only app.settings may" for name in _environment(tree, names, module)),
    ]


def _in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _import_fault(module: str, name: str) -> str | None:
    library = name.split(".")[0]
    if library in ("sandbox", "tests", "bench", "fuzz", "support"):
        return f"{module} imports {name}: the app stands by itself"
    if library == "app":
        return _part_fault(module, name)
    if library in PLACES and not any(within(module, place) for place in PLACES[library]):
        return f"{module} imports {name}: its places are {', '.join(PLACES[library]) or 'nowhere'}"
    if library in FRAMEWORK and module in READERS:
        return f"{module} imports {name}: readers know no framework"
    return None


def _part_fault(module: str, name: str) -> str | None:
    ours, theirs = part(module), part(name)
    if ours not in MAY_IMPORT:
        return f"{module} is new: give it a place in MAY_IMPORT"
    # `from app import x` names what lies in app/__init__, unless x is a part.
    if theirs not in MAY_IMPORT:
        theirs = "app"
    if ours == theirs or theirs in MAY_IMPORT[ours]:
        return None
    return f"{module} imports {name}: {ours} may import {', '.join(sorted(MAY_IMPORT[ours])) or 'nothing of app'}"


def _environment(tree: ast.AST, names: list[str], module: str) -> list[str]:
    """Return the ways to the environment that a file uses, `os.environ` and the like."""
    if module == "app.settings":
        return []
    ways = {"environ", "environb", "getenv", "getenvb", "putenv"}
    dotted = {f"os.{way}" for way in ways}
    used = {
        f"os.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ways and getattr(node.value, "id", "") == "os"
    }
    return sorted(used | (dotted & set(names)))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_file_imports_only_what_its_place_allows(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert faults(module_name(path), source, is_package=path.name == "__init__.py") == []


def test_every_part_of_the_app_has_a_place_and_every_place_a_part() -> None:
    parts = {part(module_name(path)) for path in SOURCES if path.is_relative_to(ROOT / "app")}
    assert parts == set(MAY_IMPORT)


def test_no_two_parts_may_import_each_other() -> None:
    def reached(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            new = MAY_IMPORT[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    assert [name for name in MAY_IMPORT if name in reached(name)] == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("app.events", "import app.journal", "app.events imports app.journal: events may import nothing of app"),
        ("app.flows.resolve", "from app.journal import Journal", "app.flows.resolve imports app.journal.Journal: "),
        ("app.flows.resolve", "from app import settings", "app.flows.resolve imports app.settings: "),
        ("app.flows.resolve", "from app import create_app", "app.flows.resolve imports app.create_app: "),
        ("app.flows.resolve", "from ..journal import Journal", "app.flows.resolve imports app.journal.Journal: "),
        ("app.clients.kommo", "def f():\n    import requests", "app.clients.kommo imports requests: "),
        ("app.dispatcher", "from flask import g", "app.dispatcher imports flask.g: "),
        ("app.mapping.file", "from app.clients import http", "app.mapping.file imports app.clients.http: "),
        ("app.ops.page", "import sqlalchemy.orm", "app.ops.page imports sqlalchemy.orm: "),
        ("app.webhooks.kommo", "from flask import request", "app.webhooks.kommo imports flask.request: readers "),
        ("app.webhooks.activity", "import werkzeug", "app.webhooks.activity imports werkzeug: readers "),
        ("app.logs", "import os\nos.environ['A']", "app.logs touches os.environ: only app.settings may"),
        ("app.logs", "from os import getenv", "app.logs touches os.getenv: only app.settings may"),
        ("app.ops.health", "from sandbox.town import Town", "app.ops.health imports sandbox.town.Town: "),
        ("app.ops.health", "from fuzz import oracles", "app.ops.health imports fuzz.oracles: "),
        ("app.new", "from app.events import Event", "app.new is new: give it a place in MAY_IMPORT"),
        ("sandbox.demo", "from app import create_app", "sandbox.demo imports app.create_app: "),
    ],
)
def test_it_sees_what_must_not_be(module: str, source: str, fault: str) -> None:
    (found,) = faults(module, source)
    assert found.startswith(fault)


def test_it_lets_pass_what_may_be() -> None:
    source = "import os\nfrom flask import request\nfrom app.dispatcher import Dispatcher\nfrom . import secrets\n"
    assert faults("app.webhooks.routes", source + "os.getpid()") == []
