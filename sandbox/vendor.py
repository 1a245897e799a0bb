"""What every vendor of the sandbox has: a server, faults on demand, a log of calls, and a state to read."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from flask import Blueprint, Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from sandbox.courier import Courier
from sandbox.server import DELAY, DROP, SHARED, Server

CALLS_KEPT = 20_000


@dataclass
class Fault:
    """Something that goes wrong, for the calls it matches.

    `seconds` delays the answer. `status` answers with the vendor's own error body instead of doing the work;
    `after` does the work first and then answers with that status (or drops), so that the caller cannot know.
    `drop` closes the connection without an answer.
    """

    method: str = ""
    """Verb to match; empty = any."""
    path: str = ""
    """Prefix of the path to match; empty = any."""
    times: int | None = None
    """How many calls it still hits; None = until it is removed."""
    seconds: float = 0.0
    status: int = 0
    drop: bool = False
    after: bool = False
    body: str | None = None
    """Raw body instead of the vendor's own, served as text/html."""
    headers: dict[str, str] = field(default_factory=dict)


class Faults:
    """The faults of one vendor; the oldest one that matches is applied."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, **fault: Any) -> Fault:
        """Add a fault; unknown keys are a TypeError."""
        made = Fault(**fault)
        with self._lock:
            self._faults.append(made)
        return made

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that hits this call and count it."""
        with self._lock:
            for fault in self._faults:
                if fault.method not in ("", method) or not path.startswith(fault.path):
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                return fault
        return None

    def any(self) -> bool:
        """Say whether there are any."""
        return bool(self._faults)

    def list(self) -> list[dict[str, Any]]:
        """Return the faults in force as plain data."""
        with self._lock:
            return [asdict(fault) for fault in self._faults]


@dataclass
class Call:
    """One request that a vendor received. `status` 0 = the connection was dropped."""

    at: float
    method: str
    path: str
    query: str
    body: Any
    status: int
    milliseconds: float
    answer: Any = None


class Vendor:
    """Base of the vendors: subclasses add their routes to `app` and their levers to `control`.

    All state is guarded by `lock`; a handler that reads or writes state holds it, and never while it sleeps or
    sends. `clock` gives Unix seconds and may be replaced by tests.
    """

    name: ClassVar[str]

    def __init__(self, courier: Courier, clock: Callable[[], float] = time.time) -> None:
        self.courier = courier
        self.clock = clock
        self.lock = threading.RLock()
        self.faults = Faults()
        self.latency = 0.0
        """How many seconds a call takes at least, whatever becomes of it."""
        self.ahead = 0.0
        """By how many seconds the clock that its answers show is ahead of ours."""
        self.calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self.app = Flask(f"sandbox.{self.name}")
        self.app.json.sort_keys = False  # type: ignore[attr-defined]
        self.control = Blueprint(self.name, __name__, url_prefix=f"/{self.name}")
        self.app.before_request(self._begin)
        self.app.after_request(self._end)
        self.app.register_error_handler(HTTPException, lambda error: self.error(error.code or 500))
        self._server: Server | None = None
        self.url = ""

    # -- for subclasses -------------------------------------------------------------------------------------

    def error(self, status: int, detail: str = "") -> Response:
        """Return this vendor's own error answer for a status."""
        raise NotImplementedError

    def check(self) -> Response | None:
        """Return a refusal before any route runs (key, rate limit), or None to go on."""
        return None

    def state(self) -> dict[str, Any]:
        """Return everything this vendor knows, as JSON."""
        raise NotImplementedError

    def may_sleep(self) -> bool:
        """Say whether a call may sleep now: it must then not keep the others from being served."""
        return self.faults.any()

    def reset(self) -> None:
        """Forget everything, the faults and calls too; subclasses extend it."""
        self.faults.clear()
        self.latency = 0.0
        self.ahead = 0.0
        self.calls.clear()

    # -- the server -----------------------------------------------------------------------------------------

    def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen (port 0 = any free one) and return the base URL."""
        self._server = Server(host, port, self.app, self.may_sleep, lambda: self.ahead)
        self.url = self._server.url
        return self.url

    def stop(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.stop()

    def count(self, method: str = "", path: str = "", status: int | None = None) -> int:
        """Return how many calls match: verb, path prefix, status."""
        return sum(
            1
            for call in list(self.calls)
            if method in ("", call.method) and call.path.startswith(path) and status in (None, call.status)
        )

    def tally(self) -> dict[str, int]:
        """Return how often each kind of call was made: `GET /api/v4/leads 200`; ids stand as *."""
        found = Counter(
            f"{call.method} {re.sub(r'/[0-9]+', '/*', call.path)} {call.status}" for call in list(self.calls)
        )
        return dict(sorted(found.items()))

    def _begin(self) -> Response | None:
        g.began = time.monotonic()
        g.at = self.clock()
        # One that came up after the thread was chosen hits the next call.
        shared = request.environ.get(SHARED)
        g.fault = fault = None if shared else self.faults.take(request.method, request.path)
        if fault:
            time.sleep(fault.seconds)
            if not fault.after:
                refused = self._strike(fault)
                if refused:
                    return refused
        return self.check()

    def _end(self, response: Response) -> Response:
        fault: Fault | None = g.fault
        if fault and fault.after:
            response = self._strike(fault) or response
        # Our own work is a part of it, so that a call takes as long as it is told to.
        took = time.monotonic() - g.began
        request.environ[DELAY] = max(0.0, self.latency - took)
        self.calls.append(
            Call(
                at=g.at,
                method=request.method,
                path=request.path,
                query=request.query_string.decode(errors="replace"),
                body=_readable(request.get_data()),
                status=0 if fault and fault.drop else response.status_code,
                milliseconds=round(max(took, self.latency) * 1000, 1),
                answer=_readable(response.get_data()) if response.status_code >= 400 else None,
            )
        )
        return response

    def _strike(self, fault: Fault) -> Response | None:
        if fault.drop:
            request.environ[DROP] = True
            return Response(status=500)
        if not fault.status:
            return None
        if fault.body is not None:
            response = Response(fault.body, fault.status, content_type="text/html")
        else:
            response = self.error(fault.status)
        response.headers.update(fault.headers)
        return response


def _readable(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode(errors="replace")[:2000]


def json_answer(data: Any, status: int = 200, content_type: str = "application/json") -> Response:
    """Return data as a JSON answer of the given content type."""
    response = jsonify(data)
    response.status_code = status
    response.content_type = content_type
    return response


def numbers(start: int) -> Iterator[int]:
    """Count up from `start`: ids of a kind."""
    while True:
        yield start
        start += 1
