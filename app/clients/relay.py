"""Kommo Relay itself, as others reach it."""

from __future__ import annotations

from typing import Any

from app.clients.errors import ApiError, Fault
from app.clients.http import Http, Refusal, understanding

NO_SECRET = "The webhook's secret is missing or wrong"  # noqa: S105 - how our own refusal begins
NOTHING: dict[str, dict[str, list[object]]] = {
    "contacts": {"update": []}
}  # a webhook that says nothing that we act on, and is not written down


class RelayClient:
    """The calls to a Kommo Relay at its public address; none of them changes anything there."""

    def __init__(self, url: str, secret: str) -> None:
        self._open = Http("PUBLIC_URL", url, {}, explain=_explain)
        self._secret = Http("PUBLIC_URL", url, {"X-Webhook-Secret": secret}, explain=_explain)

    def is_alive(self) -> bool:
        """Say whether the address answers as a Kommo Relay does. Raises ApiError."""
        with understanding("PUBLIC_URL", "GET /healthz"):
            return bool(self._open.get("/healthz") == {"status": "ok"}) and self._asks_for_the_secret()

    def _asks_for_the_secret(self) -> bool:
        try:
            self._open.ask("/webhooks/kommo", NOTHING)
        except ApiError as error:
            if error.status is None or error.fault == Fault.PASSING:
                raise
            return error.status == 401 and NO_SECRET in str(error)
        return False

    def takes_our_secret(self) -> bool:
        """Say whether webhooks with our secret are let in there. Raises ApiError."""
        try:
            self._secret.ask("/webhooks/kommo", NOTHING)
        except ApiError as error:
            if error.status != 401:
                raise
            return False
        return True


def _explain(body: Any) -> Refusal:
    return Refusal(body["error"])
