"""The load generator, in a process of its own: one thread, raw sockets, up to thousands of kept-alive connections.

Reads a plan as JSON from standard input and writes what it saw as JSON to standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any


class Connection(asyncio.Protocol):
    """One connection: sends the next request when the last one is answered."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._sent: tuple[float, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.next()

    def next(self) -> None:
        """Send the next request when its turn comes, or be done."""
        wait = self._load.wait()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._send)
        else:
            self._send()

    def _send(self) -> None:
        assert self._transport
        request = self._load.take()
        if request is None:
            self._load.over(self)
            self._transport.close()
            return
        self._buffer = b""
        self._sent = (time.time(), time.perf_counter())
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        if len(body) < length:
            return
        self._note(int(head.split(b" ", 2)[1]), body)
        if b"connection: close" in lines:
            self._sent = None
            self._load.reconnect(self)
        else:
            self.next()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        if self._sent:
            self._note(0, b"")
            self._load.reconnect(self)

    def _note(self, status: int, body: bytes) -> None:
        assert self._sent
        at, began = self._sent
        self._sent = None
        try:
            word = json.loads(body)["status"] if body else ""
        except (ValueError, LookupError, TypeError):
            word = ""
        self._load.seen.append((at, (time.perf_counter() - began) * 1000, status, word))


class Load:
    """Sends the plan's requests over its connections, and keeps what was answered."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._targets = [target.split(":") for target in plan["targets"]]
        self._seconds: float = plan["seconds"]
        self._patience: float = plan["patience"]
        self._gap = 1 / plan["pace"] if plan["pace"] else 0.0
        self._turn = 0.0
        self._spread: float = plan["spread"]
        self._count: int = plan["connections"]
        self._requests: Iterator[bytes] = (_render(*request, *self._targets[0]) for request in plan["requests"])
        self._open: set[Connection] = set()
        self._opened = 0
        self._done = asyncio.Event()
        self._until = 0.0
        self.seen: list[tuple[float, float, int, str]] = []
        self.unanswered = 0

    def wait(self) -> float:
        """Return in how many seconds the next request may go."""
        now = time.monotonic()
        self._turn = max(self._turn + self._gap, now)
        return self._turn - now

    def take(self) -> bytes | None:
        """Return the next request, or None when there is no more or time is up."""
        if time.monotonic() >= self._until:
            return None
        return next(self._requests, None)

    def over(self, connection: Connection) -> None:
        """Note that a connection has nothing more to do."""
        self._open.discard(connection)
        if not self._open and self._opened >= self._count:
            self._done.set()

    def reconnect(self, connection: Connection) -> None:
        """Open another connection for one that the server has closed."""
        self._open.discard(connection)
        self._opened -= 1
        self._connect()

    def _connect(self) -> None:
        host, port = self._targets[self._opened % len(self._targets)]
        connection = Connection(self)
        self._opened += 1
        self._open.add(connection)
        task = asyncio.ensure_future(
            asyncio.get_running_loop().create_connection(lambda: connection, host, int(port))
        )
        task.add_done_callback(lambda made: self._made(made, connection))

    def _made(self, made: asyncio.Future[Any], connection: Connection) -> None:
        if made.exception():
            self.seen.append((time.time(), 0.0, 0, ""))
            self.over(connection)

    async def run(self) -> None:
        """Send until all is answered, or patience ends."""
        began = time.monotonic()
        self._until = began + self._seconds
        for number in range(self._count):
            if self._spread:
                await asyncio.sleep(max(0.0, began + number * self._spread / self._count - time.monotonic()))
            self._connect()
        try:
            await asyncio.wait_for(self._done.wait(), max(0.0, self._until - time.monotonic()) + self._patience)
        except TimeoutError:
            self.unanswered = len(self._open)


def _render(path: str, content_type: str, secret: str, body: str, host: str, port: str) -> bytes:
    content = body.encode()
    verb = "POST" if content else "GET"
    head = (
        f"{verb} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {content_type}\r\n"
        f"{secret}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def _main() -> None:
    plan = json.load(sys.stdin)
    load = Load(plan)
    used = time.process_time()
    await load.run()
    json.dump(
        {"answers": load.seen, "unanswered": load.unanswered, "cpu_seconds": time.process_time() - used}, sys.stdout
    )


if __name__ == "__main__":
    asyncio.run(_main())
