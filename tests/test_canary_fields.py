"""A canary in every field of every body that we know, in turn; none is ever seen again."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
import requests
from conftest import FIXTURES
from support import FORM, JSON, Service, at_once, environment, eventually, rows

from app import create_app, settings
from app.settings import VARIABLES
from sandbox.town import Town

TOKEN = "canary0ops0token0000000000000000"
BODIES = sorted(FIXTURES.glob("*/hooks/*"))
PLANTS: tuple[Callable[[int], str], ...] = (
    lambda number: f"canary0word{number:06}00000000",
    lambda number: f"canary{number}.bird@mine.example",
    lambda number: f"Dear canary{number}.bird@mine.example: token=canary0word{number:06}00000000",
)
SEEN = re.compile(r"canary0word\d+|canary\d+\.bird")
ADDRESS = re.compile(r"[\w.+-]+(?:@|%40)[\w-]+\.[\w.]+")

Path_ = tuple[str | int, ...]


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Return the place of each value that holds no other."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))
    if not isinstance(value, dict | list):
        yield path


def planted(body: Any, path: Path_, value: str) -> Any:
    """Return a body with another value at a place."""
    if not path:
        return value
    made = copy.copy(body)
    made[path[0]] = planted(body[path[0]], path[1:], value)
    return made


def renamed(body: Any, number: int) -> Any:
    """Return a body with an unknown key beside each one that it has."""
    if isinstance(body, list):
        return [renamed(item, number) for item in body]
    if not isinstance(body, dict):
        return body
    others = {f"{PLANTS[place % 3](number + place)}": key for place, key in enumerate(body)}
    return {**{key: renamed(item, number) for key, item in body.items()}, **others}


def variants(path: Path, first: int) -> Iterator[tuple[str, bytes]]:
    """Return a captured body with a canary in each of its fields in turn, and with canaries for keys."""
    text = path.read_text(encoding="utf-8")
    numbers = iter(range(first, first + 1000))
    plant = lambda: PLANTS[(number := next(numbers)) % 3](number)  # noqa: E731
    if path.suffix == ".form":
        pairs = parse_qsl(text, keep_blank_values=True)
        for place, (key, _) in enumerate(pairs):
            yield FORM, urlencode([*pairs[:place], (key, plant()), *pairs[place + 1 :]]).encode()
            # In the place of an index or a name between brackets.
            yield FORM, urlencode([*pairs, (re.sub(r"\[\w+\]", f"[{plant()}]", key, count=1), "1")]).encode()
    elif path.suffix == ".json":
        body = json.loads(text)
        for place in leaves(body):
            yield JSON, json.dumps(planted(body, place, plant())).encode()
        yield JSON, json.dumps(renamed(body, next(numbers))).encode()


@pytest.fixture(scope="module")
def service(running_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has been told all of it, and has done what it could."""
    running_town.reset()
    running_town.encharge.target = running_town.ortto.target = None
    running_town.kommo.switch(rate=0)
    folder = tmp_path_factory.mktemp("canary")
    told = {"LOG_LEVEL": "DEBUG", "REPLY_BUDGET_SECONDS": "0", "OPS_TOKEN": TOKEN}
    service = Service({**environment(running_town, folder), **told}, folder / "service.log")
    service.wait_until_ready()
    posts: list[Callable[[], requests.Response]] = []
    for number, path in enumerate(BODIES, start=1):
        source = path.parent.parent.name
        posts += [partial(service.post, source, body, kind) for kind, body in variants(path, 1000 * number)]
        for route in ("kommo", "encharge", "ortto"):  # also where it does not belong
            kind = FORM if path.suffix == ".form" else JSON
            posts.append(partial(service.post, f"{route}?event=canary0word{number:06}", path.read_bytes(), kind))
    service.answers = at_once(posts, 8)  # type: ignore[attr-defined]
    eventually(lambda: not rows(service.variables, "SELECT 1 FROM jobs WHERE state = 'pending' AND due_at < 1e18"))
    yield service
    service.kill()
    running_town.reset()


def test_no_canary_is_in_the_log(service: Service) -> None:
    log = service.log()
    assert SEEN.findall(log) == []
    assert ADDRESS.findall(log.replace("…@", "… ")) == []
    assert "c…@mine.example" in log
    assert len(service.answers) > 800  # type: ignore[attr-defined]


def test_no_canary_is_in_a_refusal_or_in_numbers(service: Service) -> None:
    answers: list[requests.Response] = service.answers  # type: ignore[attr-defined]
    refusals = [answer.text for answer in answers if answer.status_code >= 400]
    assert {answer.status_code for answer in answers} == {200, 400}
    assert len(refusals) > 50
    assert [text for text in refusals if SEEN.search(text) or ADDRESS.search(text)] == []
    for path in ("/metrics", "/healthz", "/readyz"):
        shown = requests.get(f"{service.url}{path}", auth=("x", TOKEN), timeout=30)
        assert (shown.status_code, SEEN.findall(shown.text)) == (200, [])


COMMANDS = [
    ["events", "--json", "--limit", "5000"],
    ["events", "--email", "zoe@example.com"],
    ["replay", "--state", "skipped", "--dry-run"],
    ["doctor"],
    ["doctor", "--json"],
    ["explain", "--lead", "41500011", "--json"],
    ["explain", "--email", "zoe@example.com"],
    ["reconcile", "--since", "1d", "--dry-run"],
    ["backfill", "--dry-run"],
    ["stages", "--dry-run"],
    ["setup", "--dry-run"],
    ["broadcasts"],
    ["purge", "--yes"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_prints_a_secret(command: list[str], service: Service) -> None:
    told = settings.load(service.variables)
    made = create_app(told)
    try:
        result = made.test_cli_runner().invoke(args=command)
    finally:
        made.extensions["kommo-relay"].close()
    assert len(result.output) > 10
    assert not isinstance(result.exception, Exception), result.output
    names = [name for name in VARIABLES if name.endswith(("_TOKEN", "_KEY", "_SECRET"))]
    secrets = [service.variables[name] for name in names if name in service.variables]
    assert len(secrets) >= 8
    assert [secret for secret in secrets if secret in result.output] == []
