"""What the commands that help to configure work with: they must run before the settings are complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.access import KommoAccess
from app.clients.kommo import KommoClient
from app.clients.platform import Platform
from app.events import Source
from app.settings import Survey


@dataclass(frozen=True)
class Desk:
    """The settings as far as they could be read, and a client of each vendor that can be called with them.

    None, or missing: it is off, or `survey.faults_of` its access says why it cannot be called. `access`: what lets
    us into Kommo. No journal is opened for it, but for tokens that lie in one. `make_journal` makes it, or brings
    it up to date; raises JournalError.
    """

    survey: Survey
    make_journal: Callable[[], None]
    access: KommoAccess | None
    kommo: KommoClient | None
    platforms: Mapping[Source, Platform]
