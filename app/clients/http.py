"""The only file that knows the HTTP library: session, timeouts, errors, rate."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, ClassVar, Protocol, Self, TypedDict

import requests
import structlog
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError

from app import hush
from app.clients.errors import ApiError, Fault
from app.clients.rehearsal import Rehearsal, WireCall

log = structlog.get_logger("relay.http")

CONNECT_SECONDS = 3.05
READ_SECONDS = 10.0
POOL_SIZE = 36  # connections kept open: a lane's own, and Encharge's events at once
WORDS_KEPT = 300  # of a vendor's error text
RAW_WORDS_KEPT = 100  # of one that is not in the vendor's own form
BLOCK_SECONDS = 30.0  # how long a block is waited out before the next look, if it does not say
LARGEST_ANSWER = 32 * 1024 * 1024  # bytes, unpacked; 250 deals with all their fields are some 2 MB
ANSWER_SECONDS = 60.0  # for a whole body: one that drips holds its lane
PIECE = 65536  # bytes of a body that are read, and unpacked, at once
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # NUL cannot be stored; terminals obey the rest
LONGEST_WAIT_SECONDS = 86400.0  # a vendor whose clock is wrong must not be left alone for weeks

PASSING = frozenset({408, 423, 425, 429})
LOCKED_OUT = frozenset({401, 402, 403})
NO_SUCH_PLACE = frozenset({404, 405})
UNREADABLE = (ValueError, RecursionError)  # not JSON; a number of thousands of digits; nested without end


@dataclass(frozen=True)
class Refusal:
    """What a vendor's error body says: its words, and how long it wants us to wait, both as it wrote them."""

    words: object = ""
    retry_after: object = None


@dataclass(frozen=True)
class Call:
    """A request that went out, for whoever counts them. `status`: None without an answer."""

    vendor: str  # in lower case
    method: str
    path: str  # without the query
    status: int | None
    seconds: float


Observe = Callable[[Call], None]


def unobserved(call: Call) -> None:
    """Take no notice of a call."""


class Wire(TypedDict, total=False):
    """What a client is given to make its calls with: see Http."""

    may_write: Callable[[], bool]
    observe: Observe
    rehearsal: Rehearsal | None


class Access(Protocol):
    """What lets us in as a bearer, and may change from call to call."""

    def token(self) -> str:
        """Return the token of the next call. Raises ApiError if there is none."""

    def another(self, refused: str) -> str | None:
        """Return another token, for one more try, when the vendor answered 401 to this one; None: there is none."""


class FixedAccess:
    """One token, which does not change."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token(self) -> str:
        """Return it."""
        return self._token

    def another(self, refused: str) -> str | None:
        """Return None: there is no other."""
        return None


class Http:
    """Calls one host of one vendor.

    `access` is asked for a token before every request, and once more after a 401. `secrets` are kept out of what is
    told of calls, as are headers, tokens and what was learned (hush.py). `explain` reads the vendor's error body.
    `throttle` is called before every request and waits until it may go.
    `refused` hears of a 429, with the seconds that the vendor asks us to wait, if it does.
    `is_block` tells by status and body a passing block for too many calls from a refused key. `may_write` is asked
    at the last moment before anything but a read goes out. `observe` hears of every request that went out.
    `rehearsal` hears of every call, and catches what writes: that is not sent, and counts as done.
    Redirects are not followed: they would carry the token to another host. Nor is a password taken from `.netrc`.
    """

    def __init__(
        self,
        vendor: str,
        base_url: str,
        headers: Mapping[str, str],
        *,
        explain: Callable[[Any], Refusal],
        access: Access | None = None,
        secrets: Sequence[str] = (),
        throttle: Callable[[], None] = lambda: None,
        refused: Callable[[float | None], None] = lambda retry_after: None,
        is_block: Callable[[int, str], bool] = lambda status, body: False,
        may_write: Callable[[], bool] = lambda: True,
        observe: Observe = unobserved,
        rehearsal: Rehearsal | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self.vendor = vendor
        self._key = vendor.split()[0].lower()
        self._is_block = is_block
        self._may_write = may_write
        self._observe = observe
        self._rehearsal = rehearsal
        self._base_url = base_url
        self._explain = explain
        self._throttle = throttle
        self._hear_refusal = refused
        self._timeout = (CONNECT_SECONDS, read_seconds)
        self._session = requests.Session()
        self._access = access
        fixed = (access.token(),) if isinstance(access, FixedAccess) else ()
        named = (value.rpartition(" ")[2] for value in headers.values())  # Bearer, Basic
        self._secrets = [secret for secret in (*named, *secrets, *fixed) if secret]
        self._session.headers.update({"Accept": "application/json", "User-Agent": "kommo-relay", **headers})
        # Proxies and certificates as the environment has them now: to look them up is a fifth of a call's work.
        around = self._session.merge_environment_settings(base_url, {}, None, None, None)
        self._session.proxies, self._session.verify = around["proxies"], around["verify"]
        self._session.trust_env = False
        self._about_to = threading.local()  # what a thread is about to send: is it a write?
        adapter = HTTPAdapter(pool_maxsize=POOL_SIZE)
        adapter.poolmanager.pool_classes_by_scheme = _pools(self._check_lease)
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, adapter)

    def paced(self, throttle: Callable[[], None], refused: Callable[[float | None], None]) -> Self:
        """Return one that makes its calls at another pace, over the same connections."""
        made = copy.copy(self)
        made._throttle, made._hear_refusal = throttle, refused
        return made

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def get(self, path: str, query: Sequence[tuple[str, str | int]] = ()) -> Any:
        """Return the parsed answer of a GET, or None for 204."""
        return self._request("GET", path, query, writes=False)

    def post(self, path: str, body: object) -> Any:
        """Post JSON and return the parsed answer, or None if there is none."""
        return self._request("POST", path, body=body)

    def ask(self, path: str, body: object) -> Any:
        """Post JSON that only asks: nothing is written by it, so it needs no leave to write."""
        return self._request("POST", path, body=body, writes=False)

    def patch(self, path: str, body: object) -> Any:
        """Patch with JSON and return the parsed answer, or None if there is none."""
        return self._request("PATCH", path, body=body)

    def delete(self, path: str, body: object) -> None:
        """Delete what a JSON body names."""
        self._request("DELETE", path, body=body)

    def _request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str | int]] = (),
        body: object = None,
        *,
        writes: bool = True,
    ) -> Any:
        request = requests.Request(method, self._base_url + path, params=list(query), json=body)
        if self._access is None:
            return self._send(request, path, "", writes=writes)
        token = self._access.token()
        try:
            return self._send(request, path, token, writes=writes)
        except ApiError as error:
            # Nothing was done: whoever knocked is let in first.
            if error.status != HTTPStatus.UNAUTHORIZED or not (other := self._access.another(token)):
                raise
        return self._send(request, path, other, writes=writes)

    def _send(self, request: requests.Request, path: str, token: str, *, writes: bool) -> Any:
        method = request.method or ""
        if writes and self._rehearsal:
            self._rehearsal.hear(self._on_the_wire(self._prepared(request, token), caught=True))
            return None
        self._throttle()
        began = time.monotonic()
        self._about_to.write = writes
        prepared = None
        try:
            self._check_lease()
            prepared = self._prepared(request, token)
            response = self._session.send(prepared, timeout=self._timeout, allow_redirects=False, stream=True)
            text = _text(response)
        except _LeaseOverError as error:
            raise ApiError(
                f"{self.vendor}: {method} {path} was not sent: another process may have taken over",
                fault=Fault.OURS,
                vendor=self._key,
            ) from error
        except requests.RequestException as error:
            self._tell(method, path, None, began)
            unanswered = self._unanswered(error, method, path)
            if self._rehearsal and prepared is not None:
                self._rehearsal.hear(self._on_the_wire(prepared, trouble=str(unanswered)))
            raise unanswered from error
        self._tell(method, path, response.status_code, began)
        if self._rehearsal:
            date = response.headers.get("Date")
            self._rehearsal.hear(self._on_the_wire(prepared, status=response.status_code, ahead=_ahead(date)))
        if response.status_code >= 300:
            raise self._refused(response, text, method, path)
        return self._parsed(response, text, method, path)

    def _check_lease(self) -> None:
        if self._about_to.write and not self._may_write():
            raise _LeaseOverError

    def _tell(self, method: str, path: str, status: int | None, began: float) -> None:
        seconds = time.monotonic() - began
        log.debug(
            "call", vendor=self._key, method=method, path=path, code=status, milliseconds=round(seconds * 1000)
        )
        self._observe(Call(self._key, method, path, status, seconds))

    def _prepared(self, request: requests.Request, token: str) -> requests.PreparedRequest:
        """Return a request as it goes out, to the last byte."""
        prepared = self._session.prepare_request(request)
        if token:
            prepared.headers["Authorization"] = f"Bearer {token}"
        return prepared

    def _on_the_wire(
        self,
        prepared: requests.PreparedRequest,
        *,
        caught: bool = False,
        status: int | None = None,
        trouble: str = "",
        ahead: float | None = None,
    ) -> WireCall:
        body = prepared.body or b""
        return WireCall(
            self.vendor,
            str(prepared.method),
            str(prepared.url),
            {name: self._hide(str(value)) for name, value in prepared.headers.items()},
            body if isinstance(body, str) else body.decode(),
            caught,
            status,
            trouble,
            ahead,
        )

    def _parsed(self, response: requests.Response, text: str, method: str, path: str) -> Any:
        if not text:
            return None
        try:
            return _storable(json.loads(text))
        except UNREADABLE as error:
            if method != "GET" and not text.lstrip().startswith("<"):
                return None  # done; no caller needs the words of a write's answer
            # A page of HTML comes from a proxy or a maintenance page: nobody knows what became of a write.
            raise ApiError(
                f"{self.vendor}: {method} {path} answered {response.status_code} with something that is not JSON: "
                f"{self._raw(text)!r}",
                fault=Fault.PASSING,
                vendor=self._key,
                status=response.status_code,
                ambiguous=method != "GET",
            ) from error

    def _unanswered(self, error: requests.RequestException, method: str, path: str) -> ApiError:
        unsent = _unsent(error)
        words = "no connection" if unsent else "no answer"
        if isinstance(error, requests.Timeout):
            words += " in time"
        why = error if isinstance(error, _EndlessError) else type(error).__name__
        return ApiError(
            f"{self.vendor}: {words} to {method} {path} ({why})",
            fault=Fault.PASSING,
            vendor=self._key,
            ambiguous=not unsent,
        )

    def _refused(self, response: requests.Response, text: str, method: str, path: str) -> ApiError:
        status = response.status_code
        try:
            refusal = self._explain(json.loads(text))
        except (*UNREADABLE, LookupError, TypeError, AttributeError):
            refusal = Refusal()
        # Proxies and block pages answer in HTML, and words outside the vendor's form are words too.
        words = _cut(self._hide(refusal.words), WORDS_KEPT) if isinstance(refusal.words, str) else ""
        if not words and 300 <= status < 400:
            words = "a redirect, which is not followed; is the address of the API right?"
        wait = _seconds(refusal.retry_after)
        if wait is None:
            wait = _seconds(response.headers.get("Retry-After"))
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self._hear_refusal(wait)
        blocked = self._is_block(status, text)
        told = words or self._raw(text) or self._hide(response.reason)
        return ApiError(
            f"{self.vendor}: {method} {path} answered {status}: {told}",
            fault=Fault.PASSING if blocked else _fault(status, text),
            vendor=self._key,
            status=status,
            retry_after=BLOCK_SECONDS if blocked and wait is None else wait,
            # A gateway's time-out says nothing of what happened behind it.
            ambiguous=status >= 500,
        )

    def _raw(self, text: str) -> str:
        return _cut(self._hide(" ".join(text.split())), RAW_WORDS_KEPT)

    def _hide(self, words: str) -> str:
        """Return a vendor's words without our keys, which a debug page may echo."""
        words = _storable(words)
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return hush.covered(words, "***")


class _LeaseOverError(Exception):
    """This process may not write to the vendor any more."""


class _EndlessError(requests.RequestException):
    """An answer that is larger, or takes longer, than any that a vendor has reason to give; says which."""


def _text(response: requests.Response) -> str:
    """Return an answer's body, unpacked: no more of it than is reasonable. Raises _EndlessError.

    A few packed bytes can become a flood, and one that drips byte by byte never runs into a time-out.
    """
    body, began = bytearray(), time.monotonic()
    with response:
        try:
            while piece := response.raw.read1(PIECE, decode_content=True):
                body += piece
                if len(body) > LARGEST_ANSWER:
                    raise _EndlessError(f"more than {LARGEST_ANSWER >> 20} MiB")
                if time.monotonic() - began > ANSWER_SECONDS:
                    raise _EndlessError(f"not whole after {ANSWER_SECONDS:g} s")
        except ReadTimeoutError as error:
            raise requests.ReadTimeout(error) from error
        except HTTPError as error:
            raise requests.ConnectionError(error) from error
    return body.decode(json.detect_encoding(body), "replace")


class _InOnePiece(HTTPConnection):
    """Sends a request's headers and body together, once `check` has let them.

    A process that is frozen between the two, and thaws when another has taken over, would else send the rest of a
    request that is out of date by then.
    """

    check: ClassVar[Callable[[], None]]
    _held: list[bytes] | None = None

    def request(self, *args: Any, **more: Any) -> None:
        """Gather what the request is made of, and send it."""
        self._held = []
        try:
            super().request(*args, **more)
            whole = b"".join(self._held)
        finally:
            self._held = None
        if self.sock is None:
            self.connect()
        type(self).check()
        self.send(whole)

    def send(self, data: Any) -> None:
        """Hold back while a request is gathered."""
        if self._held is None:
            super().send(data)
        else:
            self._held.append(data)


def _pools(check: Callable[[], None]) -> dict[str, type[HTTPConnectionPool]]:
    """Return the kinds of connections, by scheme, that ask `check` at the last moment."""

    class Plain(_InOnePiece):
        pass

    class Secure(_InOnePiece, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    Plain.check = Secure.check = staticmethod(check)
    return {"http": PlainPool, "https": SecurePool}


@contextmanager
def understanding(vendor: str, what: str) -> Iterator[None]:
    """Turn what goes wrong in reading an answer of an unexpected shape into ApiError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ApiError(
            f"{vendor}: the answer to {what} has an unexpected shape ({type(error).__name__}: {error})",
            fault=Fault.PASSING,
            vendor=vendor.lower(),
        ) from error


def _cut(words: str, most: int) -> str:
    """Return the beginning of words, cut between two of them: half an address could not be told from a word."""
    if len(words) <= most:
        return words
    return words[: most + 1].rpartition(" ")[0] or words[:most]


def _fault(status: int, body: str) -> Fault:
    if status >= 500 or status in PASSING:
        return Fault.PASSING
    # A web server's own "not found" page: the URL is wrong, or the dialect, and no item is to blame.
    nowhere = status in NO_SUCH_PLACE and body.lstrip().startswith("<")
    if status in LOCKED_OUT or status < 400 or nowhere:
        return Fault.LOCKED_OUT
    return Fault.REFUSED


def _unsent(error: requests.RequestException) -> bool:
    """Say whether no connection came about, so that it has carried nothing; anything later may have."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None  # urllib3's, which names the reason
    return isinstance(getattr(cause, "reason", None), NewConnectionError)


def _storable(value: Any) -> Any:
    """Return parsed JSON without control characters, and without half ones (an emoji that was cut)."""
    if isinstance(value, str):
        return CONTROL.sub("", value).encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value


def _ahead(date: str | None) -> float | None:
    """Return by how many seconds a clock that shows this date is ahead of ours."""
    try:
        shown = parsedate_to_datetime(date or "")
    except (ValueError, TypeError):
        return None
    # It is cut to the second.
    return shown.timestamp() + 0.5 - time.time() if shown.tzinfo else None


def _seconds(said: object) -> float | None:
    """Return how long a vendor wants us to wait: it says a number, whole or not, or a date."""
    text = str(said)
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(0.0, seconds), LONGEST_WAIT_SECONDS)
