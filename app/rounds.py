"""Looks after what no webhook tells: at the start and every few minutes, in one process at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from app.clients.errors import ApiError
from app.guardian import Guardian
from app.journal import Journal, JournalError
from app.reconcile import InterruptedLookError, Reconciler

log = structlog.get_logger("relay.rounds")

AGAIN_SECONDS = 30.0  # while the journal fails, Kommo is left alone, or another process has the turn


class Rounds:
    """The rounds of one process; `seconds` between two of them."""

    def __init__(
        self,
        journal: Journal,
        reconciler: Reconciler,
        guardian: Guardian,
        *,
        seconds: float,
        found: Callable[[int], None] = lambda count: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`found` hears how many stage changes were found of which no webhook had told."""
        self._journal = journal
        self._reconciler = reconciler
        self._guardian = guardian
        self._seconds = seconds
        self._found = found
        self._clock = clock

    def run(self, stopping: threading.Event) -> None:
        """Make rounds until the process stops."""
        while not stopping.is_set():
            made = True
            try:
                made = self._make(stopping)
            except (ApiError, JournalError) as error:
                log.warning("stage changes that no webhook told of were not looked for", error=str(error))
                made = isinstance(error, ApiError)
            except Exception:
                # Whatever happens, the next round must come.
                log.exception("round failed")
            stopping.wait(self._seconds if made else min(AGAIN_SECONDS, self._seconds))

    def _make(self, stopping: threading.Event) -> bool:
        """Make one round; False if it could not be begun, or was given up, and is to be made soon."""
        self._reconciler.begin()
        if "kommo" in self._journal.pauses(now=self._clock()) or not self._reconciler.take_turn():
            return False
        try:
            self._guardian.look()
            report = self._reconciler.look(may_go_on=lambda: not stopping.is_set() and self._reconciler.take_turn())
        except InterruptedLookError:
            return False
        finally:
            self._reconciler.end_turn()
        self._found(report.new)
        if report.new:
            log.warning("stage changes that no webhook told of", new=report.new, known=report.known)
        return True
