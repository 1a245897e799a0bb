"""What a request waits for, as it is told of it."""

from __future__ import annotations

from dataclasses import replace

from journal_events import stage

from app.events import Lane, State
from app.journal import Recorded
from app.receipts import Part, Receipt


def test_what_follows_may_be_done_before_it_is_told_that_it_follows() -> None:
    """A lane takes up a job as soon as it is committed; its event is resolved, but nobody here has been told."""
    event = replace(stage(1), id=7)
    receipt = Receipt([Recorded(event)])

    receipt.wait.settle(7, Part(Lane.ORTTO, State.DONE), [])
    assert (receipt.open(event), receipt.wait.over.is_set()) == (True, False)
    receipt.wait.settle(7, Part(Lane.RESOLVE, State.DONE), [Lane.ORTTO])

    assert (receipt.open(event), receipt.wait.over.is_set()) == (False, True)
    assert receipt.parts(event) == [Part(Lane.RESOLVE, State.DONE), Part(Lane.ORTTO, State.DONE)]
