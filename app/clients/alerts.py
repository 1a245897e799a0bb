"""Where alerts go: an address that takes what Slack's incoming webhooks take."""

from __future__ import annotations

from app.clients.errors import ApiError
from app.clients.http import Http, Observe, Refusal, unobserved

READ_SECONDS = 8.0


class AlertClient:
    """Posts texts to one address, which is a secret."""

    def __init__(self, url: str, *, observe: Observe = unobserved) -> None:
        self._http = Http(
            "Alerts", url, {}, explain=lambda body: Refusal(), observe=observe, read_seconds=READ_SECONDS
        )

    def tell(self, text: str) -> None:
        """Post a text; raises ApiError if it was not taken."""
        # Reference: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
        try:
            self._http.post("", {"text": text})
        except ApiError as error:
            if error.status is None or error.status >= 300:
                raise
            # It was taken, whatever the words of the answer are.
