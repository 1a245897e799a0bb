"""Log lines: structured, to standard output, one per webhook and one per delivery.

Whatever is written, by us or by a library, goes through the same hands: our secrets and the secret of a webhook's
path are taken out, addresses are masked, and nothing that comes from outside can begin a line of its own.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from app import hush
from app.events import Source

SHORTEST_HIDDEN = 6  # what is shorter is a word
_LOCAL = r"[^\s@\"<>(),;:\[\]\\]"  # rather too much is masked than too little
_HOST = r"[\w.-]*"  # it may be cut off
EMAIL = re.compile(rf'(?:"[^"@\n]*"|(?<!{_LOCAL}){_LOCAL}++)@{_HOST}')
ENCODED_EMAIL = re.compile(rf"(?<!{_LOCAL})(?:(?!%40){_LOCAL})++%40{_HOST}")
FIRST = re.compile(r"\W*\w?")
WEBHOOK_PATH = re.compile(rf"(/webhooks/(?:kommo/stage|{'|'.join(Source)}))[/?](?!<)[^\s\"'<>)]*")
QUERY = re.compile(r"((?<![A-Z])[A-Z]++ /[^\s?\"]*+)\?[^\s\"]*")  # of a request line in an access log
# What a terminal obeys, what some readers of logs take for the end of a line, and what turns the order of letters.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# JSON's own rules leave these as they are.
UNESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Veil:
    """Takes out of a line what must not be seen: `hidden` words, what was learned, secrets in webhooks' paths.

    `emails`: `masked`; or `full`, as they are; or `none`, where not even their domains may be seen. `mark`: what
    stands in the place of a hidden word.
    """

    def __init__(self, hidden: Collection[str] = (), *, emails: str = "masked", mark: str = "***") -> None:
        words = sorted((word for word in hidden if len(word) >= SHORTEST_HIDDEN), key=len, reverse=True)
        self._hidden = re.compile("|".join(map(re.escape, words))) if words else None
        self._emails = emails
        self._mark = mark
        self._masked: Callable[[re.Match[str]], str] = _no_address if emails == "none" else _masked

    def __call__(self, _logger: WrappedLogger, _name: str, line: EventDict) -> EventDict:
        """Clean every value of a line."""
        return {key: self._clean(value) for key, value in line.items()}

    def words(self, words: str) -> str:
        """Return words that may be seen."""
        if len(words) < SHORTEST_HIDDEN and "@" not in words:
            return words
        if self._hidden:
            words = self._hidden.sub(self._mark, words)
        words = hush.covered(words, self._mark)
        if "/webhooks/" in words:
            words = WEBHOOK_PATH.sub(r"\1/…", words)
        if self._emails == "full":
            return words
        if "@" in words:
            words = EMAIL.sub(self._masked, words)
        return ENCODED_EMAIL.sub(self._masked, words) if "%40" in words else words

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.words(value)
        if isinstance(value, Mapping):
            return {self._clean(key): self._clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(item) for item in value]
        return value if isinstance(value, int | float | None) else self.words(str(value))


_processors: list[Processor] = []  # one list, changed in place: loggers that were used already follow it too


def configure(level: str, form: str, veil: Veil | None = None) -> None:
    """Set up the log lines of the service, and of the libraries it uses; `form` is `json` or `console`."""
    _processors[:] = [*_begin(), *_finish(form, veil or Veil())]
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = _Lines()
    handler.setFormatter(formatter(form, veil))
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not isinstance(other, _Lines)), handler]
    # Not below a warning, whatever the level: at DEBUG some of them write whole addresses and headers.
    root.setLevel(logging.WARNING)
    logging.getLogger("werkzeug").setLevel(logging.INFO)  # where `flask run` says on which port it listens


class _Lines(logging.StreamHandler[Any]):
    """Writes to standard output, whatever that is at the time."""

    @property
    def stream(self) -> Any:
        """Return standard output."""
        return sys.stdout

    @stream.setter
    def stream(self, _stream: Any) -> None:
        """Leave it as it is."""


def formatter(form: str, veil: Veil | None = None) -> logging.Formatter:
    """Return what makes our kind of line of a library's: of gunicorn's, Flask's, Werkzeug's."""
    first: list[Processor] = [structlog.stdlib.add_logger_name, *_begin()]
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_query]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=first, processors=[*last, *_finish(form, veil or Veil())]
    )


def _begin() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _finish(form: str, veil: Veil) -> list[Processor]:
    if form == "json":
        return [
            structlog.processors.format_exc_info,
            veil,
            structlog.processors.JSONRenderer(ensure_ascii=False),
            _escape_rest,
        ]
    return [
        structlog.processors.format_exc_info,
        veil,
        _one_line,
        structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _masked(found: re.Match[str]) -> str:
    first = FIRST.match(found[0])
    return f"{first[0] if first else ''}…@{re.split('@|%40', found[0])[-1]}"


def _no_address(_found: re.Match[str]) -> str:
    return "(an email address)"


def _without_query(_logger: WrappedLogger, _name: str, line: EventDict) -> EventDict:
    """Cut the query off a request line: it may hold anything."""
    line["event"] = QUERY.sub(r"\1", str(line.get("event", "")))
    return line


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _escape_rest(_logger: WrappedLogger, _name: str, line: Any) -> str:
    """Escape in JSON what breaks lines and moves cursors elsewhere; it can only stand inside of texts."""
    return UNESCAPED.sub(_escaped, str(line))


def _one_line(_logger: WrappedLogger, _name: str, line: EventDict) -> EventDict:
    """Keep every value on its line; a traceback's lines are indented, so that none looks like a line of ours."""
    traceback = line.pop("exception", None)
    shown = {key: _flat(value) for key, value in line.items()}
    if traceback is not None:
        shown["exception"] = "\n".join(f"    {CONTROL.sub(_escaped, row)}" for row in str(traceback).split("\n"))
    return shown


def _flat(value: Any) -> Any:
    if isinstance(value, str):
        return CONTROL.sub(_escaped, value)
    return [_flat(item) for item in value] if isinstance(value, list) else value
