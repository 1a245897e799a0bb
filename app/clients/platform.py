"""What the client of every email platform can do, and how one is made: by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Protocol, Unpack, cast

from app.clients.http import Wire
from app.events import Access, FoundPerson, Source, StageNews, StageNotice


class Platform(Protocol):
    """The calls to one account. Every method raises ApiError."""

    def upsert(self, news: Sequence[StageNews]) -> Iterable[str] | None:
        """Create or update persons; may return why each was refused ("" = taken). Fields not sent stay."""

    def find_people(self, ids: Sequence[str]) -> Mapping[str, FoundPerson]:
        """Return the persons with these ids of the platform's own; unknown ones are missing."""


class Teller(Platform, Protocol):
    """A platform that takes many stage changes in a call, and knows one that it is told again by its key."""

    CHANGES_A_CALL: int

    def tell(self, changes: Sequence[StageNotice]) -> Iterable[str] | None:
        """Upsert the persons and record the events; may return why each was refused ("" = taken)."""

    def check(self) -> str:
        """Return how the account stands, for people; it is only read."""


class _Module(Protocol):
    """The module of a platform's client."""

    def connect(self, access: Access, **wire: Unpack[Wire]) -> Platform:
        """Return the client."""


def connect(platform: Source, access: Access, **wire: Unpack[Wire]) -> Platform | None:
    """Return a platform's client, from app/clients/<its name>.py; None if it is off."""
    if not access.api_key:
        return None
    module = cast(_Module, import_module(f"app.clients.{platform}"))
    return module.connect(access, **wire)
