"""What the documents say is true: settings, commands, links, examples, pins."""

from __future__ import annotations

import ast
import json
import re
import textwrap
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import ROOT

from app import mapping
from app.events import EmailActivity, Event, Kind, Source, StageChange, State, Webhook
from app.mapping.rules import CRM_STAGE_CHANGED
from app.settings import FILES, VARIABLES, load
from app.webhooks import encharge, kommo, ortto

README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ADDING = (ROOT / "docs" / "adding-a-vendor.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
PAGES = sorted(path for folder in ("", "docs", "bench") for path in (ROOT / folder).glob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

NEEDED = {
    "KOMMO_SUBDOMAIN": "acme",
    "KOMMO_ACCESS_TOKEN": "token-1",
    "KOMMO_WEBHOOK_SECRET": "kommo-secret-0123456789",
}
TARGETS = dict(re.findall(r"^([a-z]+):[^#\n]*(?:## (.*))?$", MAKEFILE, re.MULTILINE))
FLASKS_OWN = {"run", "shell", "routes"}

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(
        language, textwrap.dedent(block), id=f"{path.relative_to(ROOT)}:{text[: found.start()].count(chr(10)) + 1}"
    )
    for path in PAGES
    for text in [path.read_text(encoding="utf-8")]
    for found in FENCE.finditer(text)
    for _, language, block in [found.groups()]
]


def section(heading: str) -> str:
    """Return what the README says below a heading, up to the next of any level."""
    _, _, rest = f"\n{README}".partition(f"\n{heading}\n")
    assert rest, f"README.md has no heading {heading!r}"
    return re.split(r"^#{1,6} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def examples(heading: str, language: str) -> list[str]:
    """Return a section's blocks of a language."""
    found = FENCE.findall(section(heading))
    return [textwrap.dedent(block) for _, name, block in found if name == language]


def without_blocks(text: str) -> str:
    return FENCE.sub("", text)


# -- settings --


def settings_table() -> dict[str, str]:
    """Return the defaults in the README's table by variable; empty where none is told."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| .+ \|$", section("### The environment"), re.MULTILINE)
    return {name: default.strip("`") if default.startswith("`") else "" for name, default in rows}


def test_the_readme_lists_every_variable_in_the_order_of_the_example() -> None:
    assert list(settings_table()) == list(VARIABLES)


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_is_in_the_example_with_words_before_it(name: str) -> None:
    lines = EXAMPLE.splitlines()
    (number,) = [number for number, line in enumerate(lines) if line.startswith(f"{name}=")]
    block = "\n".join(lines[:number]).rpartition("\n\n")[2]
    assert "# " in block, f"{name} has no comment"


def test_the_defaults_in_the_readme_are_the_defaults() -> None:
    assert load({**settings_table(), **NEEDED}) == load(NEEDED)


def test_the_defaults_in_the_readme_are_those_of_the_example() -> None:
    shown = dict(re.findall(r"^([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    told = settings_table()
    # An address that follows from another setting, or that only the sandbox changes, is left blank in the example.
    assert {name: value or told[name] for name, value in shown.items()} == told


def test_the_readme_names_no_setting_that_is_none() -> None:
    named = {
        name for path in PAGES for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", path.read_text(encoding="utf-8"))
    }
    ours = {name for name in named if name.startswith(("KOMMO_", "ENCHARGE_", "ORTTO_"))}
    assert ours - {*VARIABLES, *FILES} == set()


# -- commands and routes --


def test_every_flask_command_is_in_the_table_of_operations_and_has_help(app: Flask) -> None:
    commands = app.cli.commands
    assert [name for name, command in commands.items() if not command.help] == []
    assert [name for name in commands if not re.search(rf"^\| `flask {name}\b", OPERATIONS, re.MULTILINE)] == []


def test_every_flask_command_that_is_named_exists(app: Flask) -> None:
    named = {
        name
        for text in [*(path.read_text(encoding="utf-8") for path in PAGES), EXAMPLE]
        for name in re.findall(r"\bflask ([a-z]+)", text)
    }
    assert named - set(app.cli.commands) - FLASKS_OWN == set()


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_is_in_the_readme_and_has_help(target: str) -> None:
    assert TARGETS[target], f"{target} has no help: write ## and a sentence behind it"
    assert re.search(rf"\bmake {target}\b", README)
    assert re.search(rf"^\.PHONY:.*\b{target}\b", MAKEFILE, re.MULTILINE), f"{target} is not .PHONY"


def test_every_make_target_that_is_named_exists() -> None:
    code = r"`[^`\n]*`|^ *make .*$"
    named = {
        name
        for text in [*(path.read_text(encoding="utf-8") for path in PAGES), (ROOT / ".ci/run").read_text()]
        for snippet in re.findall(code, text, re.MULTILINE)
        for name in re.findall(r"\bmake (?:[A-Z]+=\S+ )*([a-z]+)", snippet)
    }
    assert named - set(TARGETS) == set()
    assert {"demo", "test", "check", "run"} <= named


def test_every_route_is_in_the_readme_or_in_operations(app: Flask) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if not rule.endpoint.endswith("static")]
    routes = {rule.rule.removesuffix("/<secret>").replace("<int:event_id>", "4711") for rule in rules}
    assert [route for route in sorted(routes) if f"{route}`" not in README + OPERATIONS] == []


# -- operations: states, alarms, log lines --


def rows_of(heading: str) -> dict[str, str]:
    """Return the first column of the tables below a heading of docs/operations.md, with the rest of each row."""
    _, _, rest = OPERATIONS.partition(f"\n## {heading}\n")
    part = rest.partition("\n## ")[0]
    return dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", part, re.MULTILINE))


def test_every_state_is_in_operations_and_no_other() -> None:
    vendors = {"healthy", "retrying", "paused"}
    assert set(rows_of("States")) == {state.value for state in State} | vendors
    template = (ROOT / "app" / "ops" / "page.py").read_text(encoding="utf-8")
    assert [word for word in vendors if f'"{word}"' not in template] == []


def test_every_alert_rule_is_in_operations_and_no_other() -> None:
    rules = yaml.safe_load((ROOT / "docs" / "prometheus-alerts.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"]: rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]}
    when = {"critical": "now", "warning": "day"}
    told = {name: rest.split(" | ")[0] for name, rest in rows_of("Alert rules").items()}
    assert told == {name: when[severity] for name, severity in alerts.items()}


def test_every_check_of_readyz_is_in_operations_and_no_other() -> None:
    health = (ROOT / "app" / "ops" / "health.py").read_text(encoding="utf-8")
    failing = health[health.index("def _failing") :]
    assert set(rows_of("Readiness")) == set(re.findall(r'"check": "(.+?)"', failing))


def log_lines() -> dict[str, str]:
    """Return the lines of level warning and error that the app writes: the event, and the level."""
    levels = {"error": "error", "exception": "error", "warning": "warning"}
    found: dict[str, str] = {}
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of_log = isinstance(node.func.value, ast.Name) and node.func.value.id == "log"
            if of_log and node.func.attr in levels:
                found |= dict.fromkeys(_texts(node.args[0]), levels[node.func.attr])
    return found


def _texts(node: ast.expr) -> list[str]:
    """Return all that an expression of texts can be."""
    if isinstance(node, ast.BinOp):
        return [left + right for left in _texts(node.left) for right in _texts(node.right)]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    assert isinstance(node, ast.Constant), f"write the line's words out, not {ast.unparse(node)}"
    return [str(node.value)]


def test_every_log_line_that_matters_is_in_operations_and_no_other() -> None:
    told = {name: rest.split(" | ")[0] for name, rest in rows_of("Log lines").items()}
    by_value = {"job": "error", "vendor paused": "warning, error"}  # the dispatcher's, whose level depends
    dispatcher = (ROOT / "app" / "dispatcher.py").read_text(encoding="utf-8")
    assert [name for name in by_value if not re.search(rf'write\(\s*"{name}"', dispatcher)] == []
    lines = log_lines()
    # Of a long line its beginning is enough.
    named = {
        line: line if line in told else next((name for name in told if line.startswith(name)), f"{line} is missing")
        for line in lines
    }
    assert told == {named[line]: level for line, level in lines.items()} | by_value


# -- fixtures and the third platform --


def test_every_fixture_of_a_reader_is_read_by_a_test() -> None:
    for source in Source:
        folder = ROOT / "tests" / "fixtures" / source / "hooks"
        tested = (ROOT / "tests" / "webhooks" / f"test_read_{source}.py").read_text(encoding="utf-8")
        missing = [path.name for path in folder.iterdir() if path.name not in tested and path.stem not in tested]
        assert missing == [], source


def test_the_lines_of_the_third_platform_are_those_that_are_told() -> None:
    example = ROOT / "tests" / "third_platform"
    told = dict(re.findall(r"\(\.\./tests/third_platform/(\S+)\) \| (\d+)", ADDING))
    assert told == {
        **{
            name: str(len((example / name).read_text(encoding="utf-8").splitlines()))
            for name in ("clients/customerio.py", "webhooks/customerio.py", "vendor.py")
        },
        "hooks": str(len(list((example / "hooks").iterdir()))),
    }


# -- links --


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", without_blocks(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


# -- examples --


@pytest.mark.parametrize(("language", "block"), BLOCKS)
def test_every_block_says_its_language_and_parses(language: str, block: str) -> None:
    assert language in ("sh", "text", "json", "yaml", "mermaid")
    if language == "json":
        json.loads(block)
    if language == "yaml":
        yaml.safe_load(block)


def test_the_example_of_a_mapping_file_loads_and_does_what_its_comments_say(tmp_path: Path) -> None:
    (block,) = examples("### The mapping file", "yaml")
    path = tmp_path / "mapping.yaml"
    path.write_text(block, encoding="utf-8")
    rules = mapping.load(path, {"KOMMO_CF_EMAIL_ACTIVITY": None, "KOMMO_CF_EMAIL_STATUS": None})
    assert [(stage.name, stage.label, stage.events) for stage in rules.stages] == [
        (
            "qualified",
            "Qualification",
            {"encharge": "deal_moved_to_qualified", "ortto": "act:cm:crm-stage-changed"},
        ),
        ("won", "won", {"encharge": "deal_moved_to_won"}),
    ]


def test_the_move_in_the_readme_is_answered_as_it_says(client: FlaskClient) -> None:
    (body,) = examples("## What the webhooks answer", "text")
    (answer,) = examples("## What the webhooks answer", "json")
    told = client.post("/webhooks/kommo", data=body.strip(), content_type="application/x-www-form-urlencoded")
    assert (told.status_code, told.json) == (200, json.loads(answer))


def test_the_move_in_the_readme_is_one_of_kommos() -> None:
    (body,) = examples("## What the webhooks answer", "text")
    (event,) = kommo.read(
        Webhook(Source.KOMMO, "application/x-www-form-urlencoded", body.strip().encode()), now=0
    ).events
    assert event.data == StageChange(lead_id=41500011, status_id=61000102, pipeline_id=7100010)


def filled(block: str) -> bytes:
    """Return a body as the platform sends it, its merge tags filled in."""
    values = {
        "person.email": "nora@example.test",
        "people.email": "nora@example.test",
        "person.id": "3b0c1f52",
        "person.kommo_lead_id": "41500011",
        "people.custom.kommo-lead-id": "41500011",
    }
    return re.sub(r"\{\{ (.+?) \}\}", lambda tag: values[tag[1]], block).encode()


def understood(event: Event) -> tuple[Kind, str | None, int | None, str]:
    assert isinstance(event.data, EmailActivity)
    return event.kind, event.data.email, event.data.lead_id, event.data.campaign


def test_the_flow_step_of_encharge_is_understood() -> None:
    (block,) = examples("### In Encharge", "json")
    (event,) = encharge.read(Webhook(Source.ENCHARGE, "application/json", filled(block)), now=0).events
    assert understood(event) == (Kind.EMAIL_OPENED, "nora@example.test", 41500011, "Proposal follow-up - May")


def test_the_name_for_clicks_is_understood() -> None:
    body = b'{"event": "email_link_clicked", "email": "nora@example.test"}'
    (event,) = encharge.read(Webhook(Source.ENCHARGE, "application/json", body), now=0).events
    assert "`email_link_clicked`" in section("### In Encharge")
    assert understood(event) == (Kind.EMAIL_CLICKED, "nora@example.test", None, "")


def test_the_dynamic_webhook_of_ortto_is_understood() -> None:
    _, block = examples("### In Ortto", "json")
    (event,) = ortto.read(Webhook(Source.ORTTO, "application/json", filled(block)), now=0).events
    assert understood(event) == (Kind.EMAIL_CLICKED, "nora@example.test", 41500011, "Your offer is ready")


def test_the_activity_of_ortto_is_the_one_that_is_written() -> None:
    definition, _ = (json.loads(block) for block in examples("### In Ortto", "json"))
    assert f"act:cm:{definition['name']}" == CRM_STAGE_CHANGED


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.STAGE_CHANGED, Kind.OTHER)])
def test_every_event_of_the_rules_is_in_the_readme(kind: Kind) -> None:
    assert f"`{kind}`" in section("### The mapping file")


# -- versions and pins --


def test_the_changelog_begins_with_what_is_unreleased_and_knows_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert PROJECT["version"] in [version for version, _ in headings]
    assert [date for _, date in headings[1:] if not re.fullmatch(r" - \d{4}-\d\d-\d\d", date)] == []


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r "))]


@pytest.mark.parametrize("line", requirement_lines("requirements.txt"))
def test_every_requirement_is_pinned_and_says_what_for(line: str) -> None:
    assert re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+ +# .+", line)


@pytest.mark.parametrize("line", requirement_lines("requirements-dev.txt"))
def test_every_tool_is_pinned(line: str) -> None:
    assert re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+(; [^#]+)?( +# .+)?", line)


def installed_with(requirement: Requirement, seen: set[tuple[str, str]]) -> dict[str, str]:
    """Return the versions, in this environment, of a package and of all that it brings along."""
    versions = {canonicalize_name(requirement.name): metadata.version(requirement.name)}
    needs = [Requirement(text) for text in metadata.requires(requirement.name) or []]
    for extra in ("", *requirement.extras):
        if (requirement.name, extra) in seen:
            continue
        seen.add((requirement.name, extra))
        for need in needs:
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                versions |= installed_with(need, seen)
    return versions


LOCKS = ("requirements.lock", "requirements-dev.lock")


def locked(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return what a lock file pins: the version and the hashes of each package."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pin = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?==([\w.]+)(?: ; [^#]*?)?((?: +--hash=sha256:[0-9a-f]{64})+)")
    found = [pin.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, found, strict=True) if match is None] == []
    return {canonicalize_name(match[1]): (match[2], frozenset(match[3].split())) for match in found if match}


def test_what_the_image_gets_is_what_is_tested() -> None:
    service, all_of_it = (locked(name) for name in LOCKS)
    assert len(service) > 20
    assert {name: all_of_it.get(name) for name in service} == service


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_the_lock_is_of_these_requirements(name: str) -> None:
    asked = [Requirement(line.partition("#")[0]) for line in requirement_lines(f"{name}.txt")]
    pinned = {name: version for name, (version, _) in locked(f"{name}.lock").items()}
    assert [str(need) for need in asked if pinned.get(canonicalize_name(need.name)) not in need.specifier] == []


def test_the_locks_pin_all_that_pip_installs() -> None:
    needed = [
        Requirement(line.partition("#")[0])
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in requirement_lines(name)
    ]
    installed: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for requirement in needed:
        if requirement.marker is None or requirement.marker.evaluate():
            installed |= installed_with(requirement, seen)
    pinned = {name: version for name, (version, _) in locked("requirements-dev.lock").items()}
    assert {name: pinned.get(name) for name in installed} == installed
