"""What of this Ortto can be switched: behaviour that sources disagree on, and limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

CHOICES: dict[str, tuple[Any, ...]] = {
    "reply": ("queued", "ingested"),
    "duplicate_field_status": (400, 423),
    "size_status": (400, 413),
}


@dataclass
class Switches:
    """The switches in force."""

    reply: str = "queued"
    """How activities/create answers: "queued" as recorded, "ingested" as documented."""
    partial: bool = False
    """A batch of activities with an invalid one: refuse all of it, or only that one."""
    rate: float = 0
    """Calls a second that the plan allows; 0 = any number."""
    ban: bool = False
    """Ban an address for 15 s after 15 bad requests in 15 s."""
    async_seconds: float = 0
    """How long after its answer a queued call is applied."""
    send_activity: bool = False
    """The data source's checkbox "Send activity payload": journey webhooks carry the activity too."""
    duplicate_field_status: int = 423
    """Status for a custom field that exists."""
    size_status: int = 400
    """Status for a body above 2 MB."""
    try_in_seconds: int = 1
    """What an injected 429 tells the caller to wait."""
    disconnected: bool = False
    """The key was disconnected in the UI."""
    echo: bool = False
    """Unsubscribes and resubscribes made through the API are synced to the webhook too."""
    merge_limit: int = 0
    """How many sync merges by a merge key may run at once; 0 = any number."""
    merge_seconds: float = 0
    """How long such a merge lasts."""

    def set(self, **changes: Any) -> None:
        """Set switches; nothing is set if one name or value is wrong."""
        for name, value in changes.items():
            _check(name, value, self)
        for name, value in changes.items():
            setattr(self, name, value)

    def restore(self) -> None:
        """Set every switch to its default."""
        self.set(**asdict(Switches()))


def _check(name: str, value: Any, switches: Switches) -> None:
    if name not in asdict(switches):
        raise ValueError(f"no such switch: {name}")
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(map(str, CHOICES[name]))}")
        return
    if isinstance(getattr(switches, name), bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false")
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{name} must be a number of at least 0")
