"""Vendors of the town that answer by a script."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flask

from sandbox.vendor import Fault, Faults

READ_SECONDS = 2.5  # to which the tests shorten the clients' patience
LONGER_SECONDS = READ_SECONDS + 0.3

OK = "ok"
ANSWERS: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "500, done": {"status": 500, "after": True},
    "a page of 502": {"status": 502, "body": "<html>Bad gateway</html>"},
    "429": {"status": 429},
    "429, in a second": {"status": 429, "headers": {"Retry-After": "1"}},
    "dropped": {"drop": True},
    "dropped, done": {"drop": True, "after": True},
    "no answer in time": {"seconds": LONGER_SECONDS, "drop": True},
    "no answer in time, done": {},  # see Script.take: the work comes first, then the delay
}
SLOW = [name for name in ANSWERS if "in time" in name]
QUICK = [name for name in ANSWERS if name not in SLOW]
UNAMBIGUOUS = {OK, "429", "429, in a second"}


class Script(Faults):
    """Answers each call of a vendor with the next one of a list; refuses every call that holds a bad item."""

    def __init__(
        self,
        answers: Iterable[str] = (),
        bad: Callable[[str, str, Any], str | None] = lambda method, path, body: None,
        own: Callable[[Any], Iterator[str] | None] = lambda body: None,
    ) -> None:
        """`bad`: why a call is refused for good, or None. `own`: the answers to this call alone, by its body."""
        super().__init__()
        self.answers = iter(answers)
        self._bad = bad
        self._own = own

    def any(self) -> bool:
        """Say that each call may sleep."""
        return True

    def take(self, method: str, path: str) -> Fault | None:
        """Return what goes wrong with this call."""
        body = flask.request.get_json(silent=True)
        words = self._bad(method, flask.request.full_path, body)
        if words:
            return Fault(status=400, body=words)
        with self._lock:
            answer = next(self._own(body) or self.answers, OK)
        if answer == OK:
            return None
        if answer == "no answer in time, done":

            @flask.after_this_request
            def delay(response: flask.Response) -> flask.Response:
                time.sleep(LONGER_SECONDS)
                return response

            return None
        return Fault(**ANSWERS[answer])
