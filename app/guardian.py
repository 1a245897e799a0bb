"""Watches our webhook in Kommo: that it is there, sends what we need, and is not switched off.

Kommo switches a webhook off after more than 100 answers that it does not take, within 2 hours, and says so to
administrators only. Reference: https://developers.kommo.com/docs/webhooks-general
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Remedy:
    """How our webhook is to stand; `hook`: as it stands now, None if there is none."""

    hook: Hook | None
    destination: str
    settings: tuple[str, ...]

    @property
    def verb(self) -> str:
        """Return what has to be done: make, switch on, complete."""
        if self.hook is None:
            return "make"
        return "switch on" if self.hook.disabled else "complete"


def ours(hooks: Sequence[Hook], secrets: Sequence[str]) -> list[Hook]:
    """Return the webhooks that lead to our route, wherever that is, with one of our secrets."""
    return [hook for hook in hooks if _is_ours(hook, secrets)]


def remedy(hooks: Sequence[Hook], secrets: Sequence[str], public_url: str) -> Remedy | None:
    """Return what is to be done about our webhook, None if all is well with it."""
    known = ours(hooks, secrets)
    wanted = f"{public_url}{PATHS[0]}/{secrets[0]}"
    hook = next((hook for hook in known if hook.destination == wanted), None)
    if hook is None:
        # One with the secret of before, or of another path, will do; one at another address is not reached.
        hook = next((hook for hook in known if hook.destination.startswith(f"{public_url}/")), None)
    if hook is None:
        return Remedy(None, wanted, WANTED)
    if not _lacks(hook):
        return None
    return Remedy(hook, hook.destination, tuple(dict.fromkeys((*hook.settings, *WANTED))))


def mend(kommo: KommoClient, needed: Remedy) -> Hook | None:
    """Make, complete or switch on our webhook; return it as it stands then, None if Kommo does not say it."""
    made = kommo.set_webhook(needed.destination, needed.settings)
    if made and made.disabled:
        # Nobody says that setting it again switches it on. What happens in between, the log tells.
        kommo.delete_webhook(needed.destination)
        made = kommo.set_webhook(needed.destination, needed.settings)
    return made


def fault(hooks: Sequence[Hook], otherwise: str = "") -> str:
    """Return what is wrong with our webhooks and what a person has to do, '' if one is as it should be."""
    if any(not _lacks(hook) for hook in hooks):
        return ""
    sending = next((hook for hook in hooks if not hook.disabled), None)
    if not hooks:
        what = "Kommo has no webhook that leads here with our secret"
        todo = f"add <our address>{PATHS[0]}/<KOMMO_WEBHOOK_SECRET>"
    elif sending is None:
        what, todo = "Kommo has switched our webhook off", "save it again"
    else:
        what, todo = f"Our webhook in Kommo does not send {', '.join(_lacks(sending))}", "choose it"
    return f"{what}: {todo} in Kommo, Settings, Integrations{otherwise}."


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
            words = self._mend(self._kommo.webhooks())
        except ApiError as error:
            certain = error.fault in (Fault.LOCKED_OUT, Fault.REFUSED)
            words = self._hide(f"Kommo's webhook cannot be looked after: {error}.")
            if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                words += " KOMMO_ACCESS_TOKEN must be an administrator's."
        self._say(words)
        if certain:
            self._heard(words)
        return words

    def _mend(self, hooks: Sequence[Hook]) -> str:
        if self._public_url is None:
            return fault(ours(hooks, self._secrets), ", or set PUBLIC_URL, and it is done for you")
        needed = remedy(hooks, self._secrets, self._public_url)
        if needed is None:
            return ""
        made = mend(self._kommo, needed)
        log.warning("Kommo's webhook was " + ("switched on again" if needed.hook else "made"), at=self._public_url)
        return fault([made]) if made else ""

    def _hide(self, words: str) -> str:
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words

    def _say(self, words: str) -> None:
        """Log a fault when it is new, and again every hour; and once that it is over."""
        said, at = self._said
        if words == said and (not words or self._clock() - at < SAID_AGAIN_SECONDS):
            return
        self._said = (words, self._clock())
        if words:
            log.error("Kommo's webhook", fault=words)
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


def _is_ours(hook: Hook, secrets: Sequence[str]) -> bool:
    """Say whether an address leads to our route, with one of our secrets."""
    parts = urlsplit(hook.destination)
    path = parts.path.rstrip("/")
    if any(path.endswith(f"{route}/{secret}") for route in PATHS for secret in secrets):
        return True
    said = parse_qs(parts.query).get("secret", [])
    return path.endswith(PATHS) and any(secret in said for secret in secrets)
