"""Watches our webhook in Kommo: that it is there, sends what we need, and is not switched off.

Kommo switches a webhook off after more than 100 answers that it does not take, within 2 hours, and says so to
administrators only. Reference: https://developers.kommo.com/docs/webhooks-general
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import structlog

from app.clients.errors import ApiError, Fault
from app.clients.kommo import Hook, KommoClient

log = structlog.get_logger("relay.guardian")

WANTED = ("status_lead", "add_lead")
PATHS = ("/webhooks/kommo", "/webhooks/kommo/stage")
BAD_ANSWERS = 50  # half of what Kommo bears
BAD_SECONDS = 2 * 3600.0
ANSWER_SECONDS = 2.0  # after which Kommo takes no answer any more
SAID_AGAIN_SECONDS = 3600.0


class Guardian:
    """Looks at our webhook, and mends it where it may: that needs our public URL and an administrator's token."""

    def __init__(
        self,
        kommo: KommoClient,
        secrets: Sequence[str],
        public_url: str | None,
        clock: Callable[[], float] = time.monotonic,
        heard: Callable[[str], None] = lambda fault: None,
    ) -> None:
        """`heard` is told what is wrong, or '', each time that it is certain."""
        self._kommo = kommo
        self._secrets = secrets
        self._public_url = public_url
        self._clock = clock
        self._said = ("", float("-inf"))
        self._heard = heard

    def look(self) -> str:
        """Look, mend what may be mended, log what may not; return what is wrong now, in a sentence, or ''."""
        certain = True
        try:
            fault = self._mend(self._kommo.webhooks())
        except ApiError as error:
            certain = error.fault in (Fault.LOCKED_OUT, Fault.REFUSED)
            fault = self._hide(f"Kommo's webhook cannot be looked after: {error}.")
            if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                fault += " KOMMO_ACCESS_TOKEN must be an administrator's."
        self._say(fault)
        if certain:
            self._heard(fault)
        return fault

    def _mend(self, hooks: Sequence[Hook]) -> str:
        ours = [hook for hook in hooks if self._is_ours(hook)]
        if self._public_url is None:
            return _unmended(ours, ", or set PUBLIC_URL, and it is done for you")
        wanted = f"{self._public_url}{PATHS[0]}/{self._secrets[0]}"
        hook = next((hook for hook in ours if hook.destination == wanted), None)
        if hook is None:
            # One with the secret of before, or of another path, will do; one at another address is not reached.
            hook = next((hook for hook in ours if hook.destination.startswith(f"{self._public_url}/")), None)
        if hook and not _lacks(hook):
            return ""
        destination = hook.destination if hook else wanted
        settings = dict.fromkeys((*(hook.settings if hook else ()), *WANTED))
        made = self._kommo.set_webhook(destination, list(settings))
        if made and made.disabled:
            # Nobody says that setting it again switches it on. What happens in between, the log tells.
            self._kommo.delete_webhook(destination)
            made = self._kommo.set_webhook(destination, list(settings))
        log.warning("Kommo's webhook was " + ("switched on again" if hook else "made"), at=self._public_url)
        return _unmended([made], "") if made else ""

    def _is_ours(self, hook: Hook) -> bool:
        """Say whether an address leads to our route, with one of our secrets."""
        parts = urlsplit(hook.destination)
        path = parts.path.rstrip("/")
        if any(path.endswith(f"{ours}/{secret}") for ours in PATHS for secret in self._secrets):
            return True
        said = parse_qs(parts.query).get("secret", [])
        return path.endswith(PATHS) and any(secret in said for secret in self._secrets)

    def _hide(self, words: str) -> str:
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words

    def _say(self, fault: str) -> None:
        """Log a fault when it is new, and again every hour; and once that it is over."""
        said, at = self._said
        if fault == said and (not fault or self._clock() - at < SAID_AGAIN_SECONDS):
            return
        self._said = (fault, self._clock())
        if fault:
            log.error("Kommo's webhook", fault=fault)
        elif said:
            log.info("Kommo's webhook is well again")


class Answers:
    """Counts what we answered to Kommo and it did not take; this process's answers only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bad: deque[float] = deque()
        self._lock = threading.Lock()
        self._warned = False

    def answered(self, status: int, seconds: float) -> None:
        """Count an answer that took so many seconds; warn when there are too many that Kommo did not take."""
        if status < HTTPStatus.MULTIPLE_CHOICES and seconds <= ANSWER_SECONDS:
            return
        with self._lock:
            now = self._clock()
            self._bad.append(now)
            while self._bad[0] < now - BAD_SECONDS:
                self._bad.popleft()
            count = len(self._bad)
            warn = count >= BAD_ANSWERS and not self._warned
            self._warned = count >= BAD_ANSWERS
        if warn:
            log.warning(
                "Kommo will switch our webhook off after 100 answers in 2 hours that it does not take",
                bad_answers=count,
                last=status if status >= HTTPStatus.MULTIPLE_CHOICES else f"{status} after {seconds:.1f} s",
            )


def _lacks(hook: Hook) -> list[str]:
    return list(WANTED) if hook.disabled else [name for name in WANTED if name not in hook.settings]


def _unmended(hooks: Sequence[Hook], otherwise: str) -> str:
    """Return what a person has to do, or '' if one of the webhooks is as it should be."""
    if any(not _lacks(hook) for hook in hooks):
        return ""
    sending = next((hook for hook in hooks if not hook.disabled), None)
    if not hooks:
        fault = "Kommo has no webhook that leads here with our secret"
        remedy = f"add <our address>{PATHS[0]}/<KOMMO_WEBHOOK_SECRET>"
    elif sending is None:
        fault, remedy = "Kommo has switched our webhook off", "save it again"
    else:
        fault, remedy = f"Our webhook in Kommo does not send {', '.join(_lacks(sending))}", "choose it"
    return f"{fault}: {remedy} in Kommo, Settings, Integrations{otherwise}."
