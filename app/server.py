"""How the web server waits for callers: not for ever.

gunicorn's threads read a request for as long as its sender likes, so that a few connections that stall in the midst
of one hold all threads for good. And when it closes a connection, the one thread that accepts all others waits for
the other side. Where a proxy stands in front that reads requests whole, neither comes up; this is for where none
does, or where the proxy itself is cut off.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from app import one_cpu

# Threads that answer let go of Python's lock at each call of the system, those that carry out jobs seldom do: with
# turns of 5 ms, the default, a webhook that comes meanwhile is answered half a second late.
TURN_SECONDS = 0.0005

REQUEST_SECONDS = 10.0  # from a request's first byte to its last
FIRST_BYTE_SECONDS = 0.1  # that a thread waits for it on a new connection; then the poller does, which holds none
REST_SECONDS = 0.1  # for the rest of a body that nobody wants to read; then the connection is closed
CLOSE_SECONDS = 0.3  # that the other side may take to close; cut off at once, it might not get the answer
ANSWER_SECONDS = 30.0  # that the caller may take to receive a part of an answer


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's threads, with a limit to their patience."""

    def init_process(self) -> None:
        """Begin, in the new process; it ends in another way than by returning."""
        sys.setswitchinterval(TURN_SECONDS)
        threading.Thread(target=one_cpu.stay, name="one-cpu", daemon=True).start()
        super().init_process()

    def accept(self, listener: Any) -> None:
        """Take in a connection. gunicorn's own, but for the kind of socket."""
        try:
            plain, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has gone again
            return
        self.nr_conns += 1
        sender = Sender(plain.family, plain.type, plain.proto, plain.detach())
        self.enqueue_req(gthread.TConn(self.cfg, sender, address, listener.getsockname()))

    def handle(self, conn: Any) -> Any:
        """Answer one request, unless none has begun to come."""
        conn.data_ready = conn.data_ready or conn.initialized or conn.sock.speaks(FIRST_BYTE_SECONDS)
        if not conn.data_ready:
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
    """The connection of a caller who is cut off after a while, as if they had gone.

    It is the kernel that waits no longer than it is told to (SO_RCVTIMEO, SO_SNDTIMEO). Python's own timeouts cost
    a dozen calls of the system more for each request, and at each of them all threads fight for Python's lock.
    """

    _until = 0.0  # the end of the time for a request
    _patience: float | None = None  # as Python's timeout, if that is shorter

    def __init__(self, family: int, kind: int, proto: int, number: int) -> None:
        """Take over the connection with this number."""
        super().__init__(family, kind, proto, number)
        self._let_wait(socket.SO_SNDTIMEO, ANSWER_SECONDS)

    def setblocking(self, flag: bool) -> None:
        """Begin to wait for a request. gunicorn's poller needs no change: it reads nothing itself."""
        self._until = time.monotonic() + REQUEST_SECONDS
        self._patience = None

    def settimeout(self, value: float | None) -> None:
        """Have each `recv` wait for so many seconds at most; None: for the rest of the request's time."""
        self._patience = value

    def gettimeout(self) -> float | None:
        """Return what was set; None: nothing was."""
        return self._patience

    def speaks(self, seconds: float) -> bool:
        """Wait until something has come, or the caller has gone; False if neither was so in time."""
        self._let_wait(socket.SO_RCVTIMEO, seconds)
        try:
            with suppress(ConnectionError):  # `recv` says it again
                super().recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        return True

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return what has come. Raises ConnectionResetError when the time for the whole request is over."""
        left = self._until - time.monotonic()
        if left > 0:
            self._let_wait(socket.SO_RCVTIMEO, left if self._patience is None else min(self._patience, left))
            try:
                return super().recv(size, flags)
            except BlockingIOError as error:
                if time.monotonic() < self._until:  # whoever reads the rest of a body has less patience
                    raise TimeoutError("nothing has come") from error
        raise ConnectionResetError(errno.ECONNRESET, f"the request took longer than {REQUEST_SECONDS:g} s")

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of it. Raises ConnectionResetError if the caller takes nothing for too long."""
        try:
            super().sendall(data, flags)
        except BlockingIOError as error:
            raise ConnectionResetError(
                errno.ECONNRESET, f"the caller took nothing for {ANSWER_SECONDS:g} s"
            ) from error

    def _let_wait(self, option: int, seconds: float) -> None:
        """Tell the kernel how long `recv` or `send` may wait; of no time at all it would make for ever."""
        whole, rest = divmod(max(seconds, 1e-6), 1)
        self.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(whole), int(rest * 1e6)))
