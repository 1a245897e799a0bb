"""A web server for the fakes: HTTP/1.1 over kept-alive connections, as the vendors speak it, and quick.

Werkzeug's development server closes every connection after one answer. This one does not, and serves all apps of
the process in one thread: threads that take turns would cost more than the calls themselves.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from flask import Flask

DELAY, DROP = "sandbox.delay", "sandbox.drop"
"""What an app may put into its environ: answer so many seconds later; close the connection without an answer."""
SHARED = "sandbox.shared"
"""What an app finds in its environ: whether it runs in the thread of all, where it must not sleep."""

Environ = dict[str, Any]
T = TypeVar("T")


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="sandbox", daemon=True).start()
    return loop


def _run(what: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(what, _loop()).result(30)


class Server:
    """Serves one app from the moment it is made; while `may_sleep` says so, each request in a thread of its own."""

    def __init__(
        self,
        host: str,
        port: int,
        app: Flask,
        may_sleep: Callable[[], bool] = lambda: False,
        ahead: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`ahead`: by how many seconds the clock that its answers show is ahead."""
        self.app = app
        self.ahead = ahead
        self.may_sleep = may_sleep
        self.connections: set[asyncio.Transport] = set()
        self.busy: set[Connection] = set()
        """Those whose request is being answered, be their callers still there or not."""
        self._server = _run(_loop().create_server(lambda: Connection(self), host, port, backlog=1024))
        self.url = f"http://{host}:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Stop listening, and close what is open: nobody is to be served by a vendor that is gone."""
        _run(self._stop())

    async def _stop(self) -> None:
        self._server.close()
        for transport in self.connections:
            transport.close()


class Connection(asyncio.Protocol):
    """Reads one request after the other and answers each before the next."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""
        self._busy = False
        self._continued = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it, so that it can be closed."""
        self._transport = transport
        self._server.connections.add(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it."""
        self._server.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is complete."""
        self._buffer += data
        if not self._busy:
            self._advance()

    def _advance(self) -> None:
        try:
            environ = self._request()
        except ValueError:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
            return
        if environ is None:
            return
        self._busy = True
        self._server.busy.add(self)
        environ[SHARED] = not self._server.may_sleep()
        if environ[SHARED]:
            self._work(environ)
        else:
            threading.Thread(target=self._work, args=(environ,), daemon=True).start()

    def _request(self) -> Environ | None:
        """Take a request from what has come; None if it is not complete. Raises ValueError if it is none."""
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        environ = _environ(head, self._transport)
        if environ.get("HTTP_EXPECT", "").lower() == "100-continue" and not body and not self._continued:
            self._continued = True
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
            dechunked = _dechunk(body)
            if dechunked is None:
                return None
            content, self._buffer = dechunked
            del environ["HTTP_TRANSFER_ENCODING"]
            environ["CONTENT_LENGTH"] = str(len(content))
        else:
            length = int(environ["CONTENT_LENGTH"] or 0)
            if len(body) < length:
                return None
            content, self._buffer = body[:length], body[length:]
        self._continued = False
        environ["wsgi.input"] = BytesIO(content)
        return environ

    def _work(self, environ: Environ) -> None:
        """Let the app answer; in the server's thread or in one of its own."""
        lines = [f"Date: {formatdate(time.time() + self._server.ahead(), usegmt=True)}"]

        def start(status: str, headers: list[tuple[str, str]], error: object = None) -> Callable[[bytes], object]:
            lines[:] = [f"HTTP/1.1 {status}", lines[-1], *(f"{name}: {value}" for name, value in headers)]
            return lambda data: None  # what WSGI demands and Flask never calls

        chunks = self._server.app(environ, start)
        body = b"".join(chunks)
        chunks.close()  # type: ignore[attr-defined]  # Werkzeug's have it
        answer = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        loop = _loop()
        loop.call_soon_threadsafe(loop.call_later, environ.get(DELAY, 0.0), self._answer, environ, answer)

    def _answer(self, environ: Environ, answer: bytes) -> None:
        self._server.busy.discard(self)
        if not environ.get(DROP):
            self._transport.write(answer)
        last = environ["SERVER_PROTOCOL"] == "HTTP/1.0" or environ.get("HTTP_CONNECTION", "").lower() == "close"
        if environ.get(DROP) or last:
            self._transport.close()
            return
        self._busy = False
        if self._buffer:
            self._advance()


def _environ(head: bytes, transport: asyncio.Transport) -> Environ:
    """Return WSGI's environ of a request's head. Raises ValueError if it is none."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    path, _, query = target.partition("?")
    host, port = transport.get_extra_info("sockname")[:2]
    environ: Environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "REMOTE_ADDR": transport.get_extra_info("peername")[0],
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": version,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for line in lines:
        name, _, value = line.partition(":")
        key = "HTTP_" + name.upper().replace("-", "_")
        environ[key] = f"{environ[key]},{value.strip()}" if key in environ else value.strip()
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        environ[key] = environ.pop(f"HTTP_{key}", "")
    return environ


def _dechunk(body: bytes) -> tuple[bytes, bytes] | None:
    """Return a chunked body and what follows it; None if it is not complete. Raises ValueError if it is none."""
    content = b""
    while True:
        size, found, body = body.partition(b"\r\n")
        if not found:
            return None
        length = int(size.split(b";")[0], 16)
        if len(body) < length + 2:
            return None
        content, body = content + body[:length], body[length + 2 :]
        if not length:
            return content, body
