"""The only file that knows the HTTP library: session, timeouts, errors, rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import requests
import structlog
from requests.adapters import HTTPAdapter

from app.clients.errors import ApiError, Fault

log = structlog.get_logger("relay.http")

CONNECT_SECONDS = 3.05
READ_SECONDS = 10.0
POOL_SIZE = 16
WORDS_KEPT = 300  # of a vendor's error text

PASSING = frozenset({408, 423, 425, 429})
LOCKED_OUT = frozenset({401, 402, 403})


@dataclass(frozen=True)
class Refusal:
    """What a vendor's error body says: its words, and the seconds it wants us to wait."""

    words: str = ""
    retry_after: float | None = None


class Http:
    """Calls one host of one vendor.

    `explain` reads the vendor's error body. `throttle` is called before every request and waits until it may go.
    Redirects are not followed: they would carry the token to another host.
    """

    def __init__(
        self,
        vendor: str,
        base_url: str,
        headers: Mapping[str, str],
        *,
        explain: Callable[[Any], Refusal],
        throttle: Callable[[], None] = lambda: None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self.vendor = vendor
        self._base_url = base_url
        self._explain = explain
        self._throttle = throttle
        self._timeout = (CONNECT_SECONDS, read_seconds)
        self._session = requests.Session()
        self._session.headers.update({"Accept": "application/json", "User-Agent": "kommo-relay", **headers})
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=POOL_SIZE))

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def get(self, path: str, query: Sequence[tuple[str, object]] = ()) -> Any:
        """Return the parsed answer of a GET, or None for 204."""
        return self._request("GET", path, query)

    def post(self, path: str, body: object) -> Any:
        """Post JSON and return the parsed answer, or None if there is none."""
        return self._request("POST", path, body=body)

    def patch(self, path: str, body: object) -> Any:
        """Patch with JSON and return the parsed answer, or None if there is none."""
        return self._request("PATCH", path, body=body)

    def _request(
        self, method: str, path: str, query: Sequence[tuple[str, object]] = (), body: object = None
    ) -> Any:
        self._throttle()
        began = time.monotonic()
        try:
            response = self._session.request(
                method,
                self._base_url + path + _query(query),
                json=body,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self._unanswered(error, method, path) from error
        log.debug(
            "call",
            vendor=self.vendor,
            method=method,
            path=path,
            status=response.status_code,
            milliseconds=round((time.monotonic() - began) * 1000),
        )
        if response.status_code >= 300:
            raise self._refused(response, method, path)
        return self._parsed(response, method, path)

    def _parsed(self, response: requests.Response, method: str, path: str) -> Any:
        if not response.content:
            return None
        try:
            return response.json()
        except requests.JSONDecodeError as error:
            if method != "GET":
                return None  # done; no caller needs the words of a write's answer
            raise ApiError(
                f"{self.vendor}: {method} {path} answered {response.status_code} with something that is not JSON: "
                f"{response.text[:100]!r}",
                fault=Fault.PASSING,
                status=response.status_code,
            ) from error

    def _unanswered(self, error: requests.RequestException, method: str, path: str) -> ApiError:
        # A connection that never came about has carried nothing; anything later may have.
        unsent = isinstance(error, requests.ConnectTimeout) or "NewConnectionError" in repr(error)
        words = "no connection" if unsent else "no answer"
        if isinstance(error, requests.Timeout):
            words += " in time"
        return ApiError(
            f"{self.vendor}: {words} to {method} {path} ({type(error).__name__})",
            fault=Fault.PASSING,
            ambiguous=not unsent,
        )

    def _refused(self, response: requests.Response, method: str, path: str) -> ApiError:
        status = response.status_code
        try:
            refusal = self._explain(response.json())
        except (requests.JSONDecodeError, LookupError, TypeError, AttributeError):
            # Proxies and block pages answer in HTML, and words outside the vendor's envelope are words too.
            refusal = Refusal(" ".join(response.text.split())[:100])
        wait = refusal.retry_after
        if wait is None:
            wait = _retry_after(response.headers.get("Retry-After"))
        return ApiError(
            f"{self.vendor}: {method} {path} answered {status}: {refusal.words[:WORDS_KEPT] or response.reason}",
            fault=_fault(status),
            status=status,
            retry_after=wait,
            # A gateway's time-out says nothing of what happened behind it.
            ambiguous=status >= 500,
        )


def _fault(status: int) -> Fault:
    if status >= 500 or status in PASSING:
        return Fault.PASSING
    if status in LOCKED_OUT or status < 400:
        return Fault.LOCKED_OUT
    return Fault.REFUSED


def _query(pairs: Sequence[tuple[str, object]]) -> str:
    """Return a query string whose keys keep their brackets: encoded, 250 ids would not fit a request line."""
    return "?" + "&".join(f"{key}={quote(str(value), safe='')}" for key, value in pairs) if pairs else ""


def _retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header: a number, whole or not, or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
