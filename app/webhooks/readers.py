"""How a platform's webhooks are read: by the module of its name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Protocol, cast

from app.events import EmailActivity, Kind, Reading, Source, Webhook


class Reader(Protocol):
    """The module of a platform's reader."""

    def read(self, webhook: Webhook, *, now: float, event: str | None = None) -> Reading:
        """Return what the body says; `event` is the name in the webhook's URL. Raises BodyError."""

    def pretended(self, kind: Kind, activity: EmailActivity) -> Mapping[str, object]:
        """Return the body that the platform sends of an email activity, without a time."""


def reader(platform: Source) -> Reader:
    """Return a platform's reader: app/webhooks/<its name>.py."""
    return cast(Reader, import_module(f"app.webhooks.{platform}"))
