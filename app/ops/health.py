"""Whether the process lives, and whether it can take webhooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

import structlog
from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.access import UNKNOWN, Standing
from app.events import Lane
from app.journal import Journal, JournalError

log = structlog.get_logger("relay.health")

CHECK_SECONDS = 2.0
FRESH_SECONDS = 1.0  # anybody may ask, and a look costs a write


def make_blueprint(
    journal: Journal,
    vendors: Mapping[Lane, str],
    *,
    oldest: float,
    access: Callable[[], Standing] = lambda: UNKNOWN,
    clock: Callable[[], float] = time.time,
) -> Blueprint:
    """Build the blueprint of /healthz and /readyz.

    `vendors`: whom each lane needs; while one is left alone, webhooks are taken all the same. `oldest`: seconds; a
    job that has been due for longer is not being carried out. `access`: what lets us into Kommo; if nothing does,
    that is said, and webhooks are taken all the same.
    """
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    def healthz() -> ResponseReturnValue:
        """Say that the process answers."""
        return jsonify(status="ok")

    readiness = _Readiness(lambda: _failing(journal, vendors, oldest, clock()))

    @blueprint.get("/readyz")
    def readyz() -> ResponseReturnValue:
        """Say whether the journal can be written and nothing has been due for long."""
        failing = readiness.failing()
        if failing:
            return jsonify(status="failing", failing=failing), 503
        needs = _needs(access, clock())
        return jsonify(status="ok", failing=[], **({"needs_a_person": needs} if needs else {})), 200

    return blueprint


class _Readiness:
    """What fails, looked at once a second at most: whoever asks meanwhile hears the same."""

    def __init__(self, look: Callable[[], list[dict[str, Any]]]) -> None:
        self._look = look
        self._lock = Lock()
        self._until = 0.0
        self._found: list[dict[str, Any]] = []

    def failing(self) -> list[dict[str, Any]]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._found = self._look()
                self._until = time.monotonic() + FRESH_SECONDS
            return self._found


def _needs(access: Callable[[], Standing], now: float) -> list[dict[str, str]]:
    """Return what a person must do; not why, as anybody may ask."""
    try:
        standing = access()
    except JournalError:
        return []  # it has just been written: the next look will tell
    return [{"check": "kommo access", "todo": standing.todo}] if standing.over(now) else []


def _failing(journal: Journal, vendors: Mapping[Lane, str], oldest: float, now: float) -> list[dict[str, Any]]:
    try:
        journal.check(seconds=CHECK_SECONDS)
        since = journal.oldest_due(vendors, now=now)
    except JournalError as error:
        # What the database says names its host, its user, its file: nobody's business but ours.
        log.error("not ready", error=str(error))
        return [{"check": "journal", "error": "it cannot be read and written: see the log"}]
    if since is not None and now - since > oldest:
        return [{"check": "oldest due job", "error": f"due for {round(now - since)} s: is a worker running?"}]
    return []
