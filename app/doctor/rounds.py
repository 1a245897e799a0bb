"""Makes the doctor's rounds: groups of checks side by side, each in its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus

import structlog

from app.advice import advice
from app.clients.errors import ApiError, Fault, LoginNeededError
from app.doctor.lines import Line, grey, red, yellow
from app.journal import JournalError

log = structlog.get_logger("relay.doctor")

GROUP_SECONDS = 45.0  # for all checks of one vendor; a call of its own ends after 13

Group = Callable[[], Iterable[Line]]
Check = tuple[str, Group]


class Doctor:
    """Has all checks made.

    `groups`: checks that do not wait for one another, by name. `afterwards`: what is known only after them. `close`
    is called in the end.
    """

    def __init__(
        self,
        groups: Mapping[str, Group],
        afterwards: Group = lambda: (),
        close: Callable[[], None] = lambda: None,
        seconds: float = GROUP_SECONDS,
    ) -> None:
        self._groups = groups
        self._close = close
        self._afterwards = afterwards
        self._seconds = seconds

    def examine(self) -> list[Line]:
        """Return what all checks say, in the order of the groups."""
        rounds = {name: _Round(name, group) for name, group in self._groups.items()}
        deadline = time.monotonic() + self._seconds
        lines: list[Line] = []
        for made in rounds.values():
            lines += made.result(deadline, self._seconds)
        lines += self._afterwards()
        self._close()
        return lines


class _Round:
    """A group of checks in a thread of its own; one that hangs is left behind."""

    def __init__(self, name: str, group: Group) -> None:
        self._name = name
        self._group = group
        self._lines: list[Line] = []
        self._over = threading.Event()
        threading.Thread(target=self._run, name=f"doctor-{name}", daemon=True).start()

    def result(self, deadline: float, seconds: float) -> list[Line]:
        in_time = self._over.wait(max(0.0, deadline - time.monotonic()))
        if in_time:
            return self._lines
        words = f"did not finish within {seconds:.0f} s"
        return [*self._lines, red(self._name, words, "Look whether it answers at all, and try again.")]

    def _run(self) -> None:
        try:
            for line in self._group():
                self._lines.append(line)
        except JournalError as error:
            self._lines.append(red(self._name, f"{error}", "Look at the journal, and try again."))
        except Exception as error:
            # One group must not take the others along.
            log.exception("checks failed", group=self._name)
            fault = f"internal error: {type(error).__name__}: {error}"
            self._lines.append(red(self._name, fault, "This is a fault of Kommo Relay: please report it."))
        finally:
            self._over.set()


def in_turn(checks: Sequence[Check]) -> Iterator[Line]:
    """Make a vendor's checks one after the other, each though others failed, as long as it answers at all."""
    for place, (topic, check) in enumerate(checks):
        try:
            yield from check()
        except ApiError as error:
            yield of_error(topic, error)
            rest = [name for name, _ in checks[place + 1 :]]
            if rest and error.status in (None, HTTPStatus.UNAUTHORIZED, HTTPStatus.PAYMENT_REQUIRED):
                yield grey(rest[0], f"not looked at, nor {', '.join(rest[1:])}" if rest[1:] else "not looked at")
                return


def of_error(topic: str, error: ApiError) -> Line:
    """Return what a call that failed means."""
    if isinstance(error, LoginNeededError):
        return grey(topic, "not looked at: Kommo lets us in no more")  # why, the token's own line says
    if error.fault == Fault.PASSING:
        todo = "The service would try again by itself. Look at the vendor's status page and at your network."
        return red(topic, f"{error}", todo)
    if error.fault == Fault.REFUSED:
        return yellow(topic, f"{error}", "It could not be looked at.")
    todo = advice(error).removeprefix(f"{error}: ")
    return red(topic, f"{error}", todo[:1].upper() + todo[1:])
