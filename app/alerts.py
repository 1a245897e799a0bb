"""Tells people, by one message to a chat, when something needs them; and by another one when it is over.

What was told stands in the journal: a restart tells nothing again, and of several replicas one tells.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import structlog

from app.access import UNKNOWN, Standing
from app.clients.alerts import AlertClient
from app.clients.errors import ApiError
from app.events import Lane
from app.journal import Death, Journal, JournalError

log = structlog.get_logger("relay.alerts")

LOOK_SECONDS = 5.0
TURN = "alerts"
TURN_SECONDS = 60.0
SEND_SECONDS = 15.0
AGAIN_SECONDS = (10.0, 600.0)  # after a message that was not taken: at first, and at most

LONG_PAUSE_SECONDS = 60.0  # a vendor that merely fails is asked again sooner: it wants a person, or much patience
OUTAGE_SECONDS = 600.0  # one that has failed for so long without a break
OVERDUE_SECONDS = 60.0  # it must be so for so long: after a pause all that waited is due
CALM_SECONDS = 60.0  # what has not been seen for so long is over; between two pauses a vendor is asked once

GATHER_SECONDS = 20.0  # for so long, deaths become one message
DEATHS_APART_SECONDS = 600.0  # between two messages of deaths
LATE_SECONDS = 120.0  # so much later a death may be seen than it says, by another machine's clock
EXAMPLES = 5
LONGEST_WORDS = 300

HOOK, OVERDUE, PAUSED = "hook", "overdue", "paused:"
ACCESS = "access"
STATE, HOOK_FAULT = "alerts", "alerts:hook"  # keys in the journal
NEEDS_A_PERSON = ("answered 401", "answered 402", "answered 403")


@dataclass(frozen=True)
class Incident:
    """Something that is wrong `since` a time, and was last `seen` so; `told`: people know, of this `level`."""

    since: float
    seen: float
    told: bool = False
    level: int = 0


@dataclass(frozen=True)
class Deaths:
    """What died. `looked`: up to when; `known`: the jobs around that time, each with when it died.

    `count` and `events` gather what is not told yet, since the time `first`. `told`: when people were told last;
    `open`: and not yet that it is over.
    """

    looked: float = 0.0
    known: tuple[tuple[int, float], ...] = ()
    count: int = 0
    events: tuple[int, ...] = ()
    first: float = 0.0
    told: float = 0.0
    open: bool = False

    def with_new(self, deaths: Sequence[Death], now: float) -> Deaths:
        """Return it with the deaths that are not known yet."""
        known = set(self.known)
        new = [death for death in deaths if (death.job_id, death.at) not in known]
        return replace(
            self,
            looked=now,
            known=tuple((death.job_id, death.at) for death in deaths),
            count=self.count + len(new),
            events=tuple(dict.fromkeys((*self.events, *(death.event_id for death in new))))[:EXAMPLES],
            first=self.first if self.count else now,
        )

    def ripe(self, now: float) -> bool:
        """Say whether what was gathered is to be told."""
        apart = now - self.told >= DEATHS_APART_SECONDS
        return bool(self.count) and apart and now - self.first >= GATHER_SECONDS


@dataclass(frozen=True)
class State:
    """All that is kept from look to look."""

    deaths: Deaths = Deaths()
    incidents: Mapping[str, Incident] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> State:
        """Return what `text` holds."""
        stored: dict[str, Any] = json.loads(text)
        deaths = stored["deaths"]
        known = tuple((int(job_id), float(at)) for job_id, at in deaths["known"])
        return cls(
            Deaths(**{**deaths, "known": known, "events": tuple(deaths["events"])}),
            {name: Incident(**incident) for name, incident in stored["incidents"].items()},
        )

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    def having(self, name: str, incident: Incident | None) -> State:
        """Return it with one incident changed, or without it."""
        others = {other: one for other, one in self.incidents.items() if other != name}
        return replace(self, incidents=others if incident is None else {**others, name: incident})


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong now. `patience`: seconds for which it must be so before people hear of it.

    `level`: how bad it is; people hear again of what gets worse.
    """

    words: str
    patience: float = 0.0
    level: int = 0


class Alerts:
    """One process's looks at what may need a person."""

    def __init__(
        self,
        journal: Journal,
        client: AlertClient,
        vendors: Mapping[Lane, str],
        *,
        overdue: float,
        watches_hook: bool,
        access: Callable[[], Standing] = lambda: UNKNOWN,
        link: str = "",
        clean: Callable[[str], str] = str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`vendors`: whom each lane needs. `overdue`: seconds; a job due for longer is not being carried out.

        `watches_hook`: somebody tells us how Kommo's webhook stands. `access`: what lets us into Kommo. `link`:
        where to look. `clean` takes secrets and addresses out of words.
        """
        self._journal = journal
        self._client = client
        self._vendors = vendors
        self._overdue = overdue
        self._watches_hook = watches_hook
        self._access = access
        self._link = f" {link}" if link else ""
        self._clean = clean
        self._clock = clock
        self._taken = ""  # the last text that the address took
        self._sender: threading.Thread | None = None
        self._refused = 0  # messages in a row that were not taken
        self._not_before = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Look every few seconds until the process stops."""
        while not stopping.wait(LOOK_SECONDS):
            try:
                self.look(stopping)
            except JournalError as error:
                log.warning("not looked for what needs a person", error=str(error))
            except Exception:
                # Whatever happens, the next look must come.
                log.exception("look for what needs a person failed")
        try:
            self._journal.end_turn(TURN)
        except JournalError as error:
            log.warning("another process has to wait for its turn to tell", error=str(error))

    def hook_stands(self, fault: str) -> None:
        """Hear what is wrong with Kommo's webhook, or '': whichever process has the turn tells it."""
        if fault != (self._journal.bookmark(HOOK_FAULT) or ""):
            self._journal.keep(HOOK_FAULT, fault)

    def look(self, stopping: threading.Event) -> None:
        """Look once, and tell what is new and what is over, if this process has the turn."""
        if not self._has_turn():
            return
        now = self._clock()
        kept = self._journal.bookmark(STATE)
        state = State.read(kept) if kept else State(Deaths(looked=now))
        away = now - state.deaths.looked > CALM_SECONDS / 2
        deaths = state.deaths.with_new(self._journal.died_since(state.deaths.looked - LATE_SECONDS), now)
        if not kept:  # what died before anybody wanted to hear of it is not told
            deaths = replace(deaths, count=0, events=())
        troubles = self._troubles(now)
        state = replace(state, deaths=deaths, incidents=_seen(state.incidents, troubles, now, away=away))
        self._journal.keep(STATE, state.text())
        for text, after in self._messages(state, troubles, now):
            if not self._has_turn() or not self._send(text, stopping):
                return
            state = after(state)
            self._journal.keep(STATE, state.text())

    def _has_turn(self) -> bool:
        return self._journal.take_turn(TURN, TURN_SECONDS, now=self._clock())

    def _troubles(self, now: float) -> dict[str, Trouble]:
        """Return what is wrong now, by the name of its incident."""
        troubles: dict[str, Trouble] = {}
        for vendor, pause in self._journal.pauses(now=now).items():
            words = f"{vendor.capitalize()} is paused: {self._shown(pause.reason)}. What is owed waits."
            if any(status in pause.reason for status in NEEDS_A_PERSON):
                words += " A key, a plan or its rights need you."
            patience = 0.0 if pause.until - now > LONG_PAUSE_SECONDS else OUTAGE_SECONDS
            troubles[f"{PAUSED}{vendor}"] = Trouble(words, patience)
        due = self._journal.oldest_due(self._vendors, now=now)
        if due is not None and now - due > self._overdue:
            minutes = round(self._overdue / 60)
            words = f"A job has been due for more than {minutes} minutes: is a worker running?"
            troubles[OVERDUE] = Trouble(words, OVERDUE_SECONDS)
        fault = self._journal.bookmark(HOOK_FAULT) if self._watches_hook else ""
        if fault:
            troubles[HOOK] = Trouble(self._shown(fault))
        standing = self._access()
        if level := standing.level(now):
            what = "lets us in no more" if standing.over(now) else "will let us in no more"
            words = f"Kommo {what}: {self._shown(standing.words(now))}: {standing.todo}."
            troubles[ACCESS] = Trouble(words, level=level)
        return troubles

    def _messages(
        self, state: State, troubles: Mapping[str, Trouble], now: float
    ) -> list[tuple[str, Callable[[State], State]]]:
        """Return the texts to send, each with what it makes of the state once it is taken."""
        messages: list[tuple[str, Callable[[State], State]]] = []
        for name, incident in state.incidents.items():
            trouble = troubles.get(name)
            worse = trouble is not None and (not incident.told or trouble.level > incident.level)
            if trouble and worse and now - incident.since >= trouble.patience:
                told = replace(incident, told=True, level=trouble.level)
                messages.append((self._text(trouble.words), _having(name, told)))
            elif not trouble and incident.told and _is_over(name, incident, now):
                messages.append((self._text(_over(name)), _having(name, None)))
        deaths = state.deaths
        if deaths.ripe(now):
            told_deaths = replace(deaths, count=0, events=(), told=now, open=True)
            messages.append((self._text(_died(deaths)), _with_deaths(told_deaths)))
        elif deaths.open and not deaths.count and not self._journal.dead():
            over = self._text("Over: no dead job is left.")
            messages.append((over, _with_deaths(replace(deaths, open=False))))
        return messages

    def _shown(self, words: str) -> str:
        """Return foreign words as a chat may show them: clean, on one line, and no markup."""
        line = " ".join(self._clean(words).split()).rstrip(".")
        if len(line) > LONGEST_WORDS:
            line = f"{line[:LONGEST_WORDS]}…"
        return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    def _text(self, words: str) -> str:
        return f"Kommo Relay: {words}{self._link}"

    def _send(self, text: str, stopping: threading.Event) -> bool:
        """Have a text posted by a thread for which nobody waits for long; say whether it was taken."""
        if self._taken == text:  # after we had stopped to wait for it
            self._taken = ""
            return True
        if (self._sender and self._sender.is_alive()) or time.monotonic() < self._not_before:
            return False
        self._sender = threading.Thread(target=self._post, args=(text,), name="alert", daemon=True)
        self._sender.start()
        deadline = time.monotonic() + SEND_SECONDS
        while self._sender.is_alive() and time.monotonic() < deadline and not stopping.is_set():
            self._sender.join(0.1)
        taken, self._taken = self._taken == text, ""
        if taken:
            self._refused = 0
        elif not stopping.is_set():
            first, longest = AGAIN_SECONDS
            self._not_before = time.monotonic() + min(first * 2 ** min(self._refused, 10), longest)
            self._refused += 1
        return taken

    def _post(self, text: str) -> None:
        try:
            self._client.tell(text)
        except ApiError as error:
            log.warning("an alert was not taken: see ALERT_WEBHOOK_URL", code=error.status, error=str(error))
        else:
            self._taken = text
            log.info("alert", text=text)


def _seen(
    incidents: Mapping[str, Incident], troubles: Mapping[str, Trouble], now: float, *, away: bool
) -> dict[str, Incident]:
    """Return the incidents with what is wrong now; what was never told and is over is forgotten.

    `away`: nobody has looked for a while, so that nobody knows what would have been seen.
    """
    if away:
        incidents = {name: replace(incident, seen=now) for name, incident in incidents.items()}
    lasting = {
        name: incident for name, incident in incidents.items() if incident.told or not _is_over(name, incident, now)
    }
    seen = {
        name: replace(incidents[name], seen=now) if name in incidents else Incident(since=now, seen=now)
        for name in troubles
    }
    return {**lasting, **seen}


def _is_over(name: str, incident: Incident, now: float) -> bool:
    """Say whether it has not been seen for long enough; of the webhook we are told how it stands."""
    return now - incident.seen >= (0.0 if name in (HOOK, ACCESS) else CALM_SECONDS)


def _having(name: str, incident: Incident | None) -> Callable[[State], State]:
    return lambda state: state.having(name, incident)


def _with_deaths(deaths: Deaths) -> Callable[[State], State]:
    return lambda state: replace(state, deaths=deaths)


def _over(name: str) -> str:
    if name == HOOK:
        return "Over: Kommo's webhook is well again."
    if name == ACCESS:
        return "Over: what lets us into Kommo is good again."
    if name == OVERDUE:
        return "Over: no job is overdue any more."
    return f"Over: {name.removeprefix(PAUSED).capitalize()} takes calls again."


def _died(deaths: Deaths) -> str:
    events = ", ".join(map(str, deaths.events))
    what = "A delivery was" if deaths.count == 1 else f"{deaths.count} deliveries were"
    more = ", …" if deaths.count > len(deaths.events) else ""
    remedy = "see `flask events --state dead`; once it is mended, `flask replay`."
    return f"{what} given up (event {events}{more}): {remedy}"
