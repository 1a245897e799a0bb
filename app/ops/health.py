"""Whether the process lives, and whether it can take webhooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from app.events import Lane
from app.journal import Journal, JournalError

CHECK_SECONDS = 2.0


def make_blueprint(
    journal: Journal, vendors: Mapping[Lane, str], *, oldest: float, clock: Callable[[], float] = time.time
) -> Blueprint:
    """Build the blueprint of /healthz and /readyz.

    `vendors`: whom each lane needs; while one is left alone, webhooks are taken all the same. `oldest`: seconds; a
    job that has been due for longer is not being carried out.
    """
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    def healthz() -> ResponseReturnValue:
        """Say that the process answers."""
        return jsonify(status="ok")

    @blueprint.get("/readyz")
    def readyz() -> ResponseReturnValue:
        """Say whether the journal can be written and nothing has been due for long."""
        failing = _failing(journal, vendors, oldest, clock())
        return jsonify(status="failing" if failing else "ok", failing=failing), 503 if failing else 200

    return blueprint


def _failing(journal: Journal, vendors: Mapping[Lane, str], oldest: float, now: float) -> list[dict[str, Any]]:
    try:
        journal.check(seconds=CHECK_SECONDS)
        since = journal.oldest_due(vendors, now=now)
    except JournalError as error:
        return [{"check": "journal", "error": str(error)}]
    if since is not None and now - since > oldest:
        return [{"check": "oldest due job", "error": f"due for {round(now - since)} s: is a worker running?"}]
    return []
