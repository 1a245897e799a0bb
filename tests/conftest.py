"""What all tests share: settings, the sandbox's town, the app in this process, the service in one of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from alone import turn
from databases import Postgresql, lay_new_journal, running_postgresql
from flask import Flask
from flask.testing import FlaskClient
from support import GENEROUS_SECONDS, SECRET, Service, environment, wait_until_nobody_is_inside

from app import EXTENSION, create_app, settings
from app.settings import Settings
from sandbox.town import Town

FIXTURES = Path(__file__).parent / "fixtures"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the pictures of the docs be made anew by the tests that look at the page."""
    parser.addoption("--screenshots", action="store_true", help="make docs/img/page-*.png anew")


def is_alone(item: pytest.Item | None) -> bool:
    """Say whether no other worker may run a test meanwhile."""
    return item is not None and item.get_closest_marker("alone") is not None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests marked `alone` first: one worker gets them all, and the others wait for it once."""
    items.sort(key=is_alone, reverse=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Run a test marked `alone` while no other worker runs one; to wait for that is not a part of its timeout."""
    if not hasattr(item.config, "workerinput"):  # no workers: each test is alone
        return (yield)
    # Each worker's own folder is inside one of the whole run.
    with turn(Path(item.config.option.basetemp).parent, alone=is_alone(item), go_on=is_alone(nextitem)):
        return (yield)


@pytest.fixture(scope="session")
def running_town() -> Iterator[Town]:
    """One town for all tests: starting its servers takes longer than a test."""
    with Town() as town:
        yield town


@pytest.fixture
def town(running_town: Town) -> Iterator[Town]:
    """The town as it was seeded, sending webhooks nowhere."""
    running_town.reset()
    running_town.encharge.target = None
    running_town.ortto.target = None
    yield running_town
    assert running_town.courier.wait(GENEROUS_SECONDS)
    # A service may have been killed while a vendor was at work for it: the next test is not to see what it did.
    for vendor in running_town.vendors.values():
        wait_until_nobody_is_inside(vendor)


@pytest.fixture
def env(town: Town, tmp_path: Path) -> dict[str, str]:
    """The environment of a service that talks to the town, with a journal of its own."""
    return environment(town, tmp_path)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """One PostgreSQL for all tests, started when the first one asks for it."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The database of a new journal: everything about the journal holds on both kinds."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'journal.db'}"
        lay_new_journal(url)
        yield url
    else:
        server: Postgresql = request.getfixturevalue("postgresql")
        with server.new_journal() as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'journal.db'}"
    else:
        server: Postgresql = request.getfixturevalue("postgresql")
        with server.empty_database() as url:
            yield url


@pytest.fixture
def configured(env: dict[str, str]) -> Settings:
    """The settings of an app in this process, whose answers wait for their work however busy the machine is."""
    return replace(settings.load(env), reply_budget_seconds=GENEROUS_SECONDS)


@pytest.fixture
def app(configured: Settings) -> Iterator[Flask]:
    """The app in this process, its carriers not yet started."""
    lay_new_journal(configured.database_url)
    made = create_app(configured)
    yield made
    made.extensions[EXTENSION].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client that knows the secret of every route."""
    made = app.test_client()
    made.environ_base["HTTP_X_WEBHOOK_SECRET"] = SECRET
    return made


@pytest.fixture
def start_service(env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start the service under gunicorn, as in production; more variables as keywords."""
    started: list[Service] = []

    def start(constants: Mapping[str, float] | None = None, **variables: str) -> Service:
        log = tmp_path / f"service-{len(started)}.log"
        told = {**env, **variables}
        lay_new_journal(told["DATABASE_URL"])
        service = Service(told, log, constants)
        started.append(service)
        service.wait_until_ready()
        return service

    yield start
    for service in started:
        # Stopping it gently takes seconds; the tests that are about that do it themselves.
        service.kill()


@pytest.fixture
def service(start_service: Callable[..., Service]) -> Service:
    return start_service()


@pytest.fixture
def load_fixture() -> Callable[[str], bytes]:
    """Read a captured body by its name below tests/fixtures."""
    return lambda name: (FIXTURES / name).read_bytes()
