"""How the web server waits for callers: not for ever.

gunicorn's threads read a request for as long as its sender likes, so that a few connections that stall in the midst
of one hold all threads for good. And when it closes a connection, the one thread that accepts all others waits for
the other side. Where a proxy stands in front that reads requests whole, neither comes up; this is for where none
does, or where the proxy itself is cut off.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

REQUEST_SECONDS = 10.0  # from a request's first byte to its last
FIRST_BYTE_SECONDS = 0.1  # that a thread waits for it on a new connection; then the poller does, which holds none
REST_SECONDS = 0.1  # for the rest of a body that nobody wants to read; then the connection is closed
CLOSE_SECONDS = 0.3  # that the other side may take to close; cut off at once, it might not get the answer
ANSWER_SECONDS = 30.0  # that the caller may take to receive a part of an answer


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's threads, with a limit to their patience."""

    def enqueue_req(self, conn: Any) -> None:
        """Have a thread take up a connection that is, or may be, readable."""
        if not isinstance(conn.sock, Sender):
            conn.sock = Sender(fileno=conn.sock.detach())
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """Answer one request, unless none has begun to come."""
        if not (conn.initialized or conn.wait_for_data(FIRST_BYTE_SECONDS)):
            return gthread._DEFER
        kept = super().handle(conn)
        if not kept:  # in this thread: the one that accepts would do it next
            util.close_graceful(conn.sock, timeout=CLOSE_SECONDS)
        return kept

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Say whether the connection can be used again: if what was refused unread has come as a whole."""
        return keepalive and bool(conn.parser.finish_body(deadline=time.monotonic() + REST_SECONDS))

    def set_accept_enabled(self, enabled: bool) -> None:
        """Begin or end to accept connections; when it is to stop, close the door at once.

        gunicorn closes it when the last request is answered. Until then whoever knocks would wait in front of it,
        also a proxy that could ask another replica.
        """
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                listener.close()

    def _cap_keepalive(self, deadline: float) -> None:
        """Let a stop wait neither for connections that are kept, nor for those that have never said a word."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)


class Sender(socket.socket):
    """The connection of a caller who is cut off after a while, as if they had gone."""

    _until = 0.0

    def setblocking(self, flag: bool) -> None:
        """Begin to wait for a request; or wait for nothing any more, as when it is closed."""
        if self.fileno() < 0:
            return
        self._until = time.monotonic() + REQUEST_SECONDS
        self.settimeout(REQUEST_SECONDS if flag else 0.0)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return what has come. Raises ConnectionResetError when the time for the whole request is over."""
        patience, left = self.gettimeout(), self._until - time.monotonic()
        if not patience:
            return super().recv(size, flags)
        if left > 0:
            self.settimeout(min(patience, left))
            try:
                return super().recv(size, flags)
            except TimeoutError:
                if time.monotonic() < self._until:  # whoever reads the rest of a body has less patience
                    raise
        raise ConnectionResetError(errno.ECONNRESET, f"the request took longer than {REQUEST_SECONDS:g} s")

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of it, within a time of its own."""
        self.settimeout(ANSWER_SECONDS)
        super().sendall(data, flags)
