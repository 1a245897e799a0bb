"""What lets us into Kommo: a long-lived token, or tokens of OAuth, which are changed for new ones in good time.

Kommo makes a new refresh token with each access token. It says both that the one before is out of date then, and
that it counts until the new one is used, in case an answer is lost (https://developers.kommo.com/docs/oauth-20). So
that nothing is lost wherever we stop:

- That a change begins is on disk before Kommo is asked. One process changes the tokens, the others read what came.
- The new pair is on disk, in one commit, before it is used. Until then the old one is tried again: by this process,
  or by another one if this one is dead.
- A pair is written only in place of the one that it came from: who was frozen and is late changes nothing.

If Kommo refuses the old one all the same, only a person can help: `flask kommo login`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from app import hush
from app.clients import http
from app.clients.errors import ApiError, Fault, LoginNeededError
from app.clients.kommo import token_expiry
from app.clients.kommo_oauth import KommoOAuth, TokenRefusedError, Tokens
from app.clock import ClockWatch
from app.journal import Journal, JournalError, Login
from app.lease import Lease
from app.seal import Seal, SealError

log = structlog.get_logger("relay.access")

VENDOR = "kommo"
DAY = 86_400.0
REFRESH_DAYS = 90  # a refresh token is good for three months: https://developers.kommo.com/docs/oauth-20
LAST_PART = 0.1  # of an access token's life, in which it is changed: the last 2.4 hours of a day
SKEW_SECONDS = 300.0  # by which the clocks of two machines may differ; what was issued later is of a clock set back
FRESH_SECONDS = 300.0  # a token so new that is refused is not the reason
AGAIN_SECONDS = 3600.0  # a refusal may be Kommo's mistake: it is asked again

LEASE_SECONDS = 60.0
WAIT_SECONDS = 20.0  # for another process that changes the tokens, where none is good any more
POLL_SECONDS = 0.2

LOOK_SECONDS = 60.0
WARN_DAYS = (30, 7, 1)  # before the end

LOGIN = "run `flask kommo login`"
NEW_TOKEN = "make a new long-lived token (Kommo: Settings, Integrations, Keys and scopes): KOMMO_ACCESS_TOKEN"  # noqa: S105


@dataclass(frozen=True)
class Standing:
    """How long we are let in. `ends`: when a person must have acted, Unix seconds; None: nobody knows.

    `fault`: why a person must act now, or ''. `renewed`: when the present tokens were made.
    """

    way: str
    ends: float | None
    todo: str
    fault: str = ""
    renewed: float | None = None

    def level(self, now: float) -> int:
        """Return how bad it is: 0 for well or unknown, one more for each of WARN_DAYS, at the end, for a fault."""
        if self.fault:
            return len(WARN_DAYS) + 2
        if self.ends is None:
            return 0
        return sum(self.ends - now <= days * DAY for days in (*WARN_DAYS, 0))

    def over(self, now: float) -> bool:
        """Say whether we are let in no more, or will be no more by ourselves."""
        return self.level(now) > len(WARN_DAYS)

    def words(self, now: float) -> str:
        """Return what is wrong, or when it ends, for people."""
        if self.fault or self.ends is None:
            return self.fault
        date = time.strftime("%Y-%m-%d", time.gmtime(self.ends))
        days = (self.ends - now) / DAY
        if days <= 0:
            return f"{self.way} expired on {date}"
        left = f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"
        return f"{self.way} expires on {date}, in {left}"


UNKNOWN = Standing("", None, "")


class KommoAccess(http.Access, Protocol):
    """What lets us into Kommo, and can say for how long."""

    def standing(self) -> Standing:
        """Return how long it does. Raises JournalError."""

    def keep_up(self) -> None:
        """Do what is to be done in good time. Raises ApiError and JournalError."""


class LongLived(http.FixedAccess):
    """A private integration's token. Reference: https://developers.kommo.com/docs/long-lived-token"""

    def standing(self) -> Standing:
        """Return when it ends, if it says so."""
        return Standing("the long-lived token", token_expiry(self._token), NEW_TOKEN)

    def keep_up(self) -> None:
        """Do nothing: it cannot be changed for another."""


@dataclass(frozen=True)
class _Pair:
    """The tokens as the journal keeps them, opened."""

    login: Login
    access: str = field(repr=False)
    refresh: str = field(repr=False)

    def good(self, now: float) -> bool:
        """Say whether the access token lets us in by our clock."""
        return self.login.issued_at - SKEW_SECONDS <= now < self.login.expires_at

    def due(self, now: float) -> bool:
        """Say whether it is time to change them."""
        life = self.login.expires_at - self.login.issued_at
        return not self.good(now + LAST_PART * life)


class OAuthAccess:
    """The tokens of whoever has logged in. One object serves all threads of a process."""

    def __init__(
        self,
        ask_journal: Callable[[], Journal],
        kommo: Callable[[Callable[[], bool]], KommoOAuth],
        seal: Seal,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ask_journal` raises JournalError if there is none. `kommo`: makes the client, told what lets it ask."""
        self._ask_journal = ask_journal
        self._lease = Lease()
        self._kommo = kommo(self._lease.holds)
        self._seal = seal
        self._clock = clock
        self._watch = ClockWatch()
        self._pair: _Pair | None = None
        self._changing = threading.Lock()
        self._holder = ""  # of the renewal that this process has begun
        self._unsaved: _Pair | None = None  # what Kommo made and the journal did not take
        self._refused_version = 0  # of the pair that Kommo refused to this process

    @property
    def kommo(self) -> KommoOAuth:
        """Return who makes tokens."""
        return self._kommo

    # -- for calls --

    def token(self) -> str:
        """Return an access token. Raises ApiError if there is none and none can be had."""
        pair = self._pair
        if pair is None or not pair.good(self._clock()):
            with self._changing:
                pair = self._readable()
                if not pair.good(self._clock()):
                    pair = self._changed(pair)
        return pair.access

    def another(self, refused: str) -> str | None:
        """Return another access token when one was refused. Raises ApiError if one is needed and cannot be had."""
        with self._changing:
            pair = self._readable()
            if pair.access != refused:
                return pair.access
            if 0 <= self._clock() - pair.login.issued_at < FRESH_SECONDS:
                return None
            return self._changed(pair).access

    # -- in good time --

    def keep_up(self) -> None:
        """Change the tokens if it is time to, unless another process does. Raises ApiError, JournalError."""
        with self._changing:
            pair = self._read()
            if pair and pair.due(self._clock()) and self._may_ask(pair) and self._begin(pair):
                self._carry_out(pair)

    def standing(self) -> Standing:
        """Return how long we are let in. Raises JournalError."""
        try:
            login = self._ask_journal().login(VENDOR)
        except LoginNeededError:
            login = None
        if login is None:
            return Standing("OAuth", None, LOGIN, fault="nobody has logged in")
        ends = login.issued_at + REFRESH_DAYS * DAY
        standing = Standing("the login to Kommo", ends, LOGIN, renewed=login.issued_at)
        try:
            self._open(login)
        except LoginNeededError as error:
            return replace(standing, fault=str(error).removeprefix("Kommo: ").removesuffix(f": {LOGIN}"))
        if login.fault:
            return replace(standing, fault=login.fault, ends=login.expires_at)
        return standing

    # -- for people --

    def log_in(self, code: str) -> None:
        """Get the first pair for a code, and keep it. Raises ApiError; JournalError if it could not be kept."""
        journal = self._ask_journal()
        journal.check()  # a code counts once
        with self._changing:
            self._lease.extend(Lease.begin(), LEASE_SECONDS)
            began = self._clock()
            journal.save_login(VENDOR, self._sealed(self._kommo.exchange(code), began))
            self._read()
        journal.end_pause(VENDOR, now=self._clock())

    def log_out(self) -> bool:
        """Forget the tokens; False if there are none. Raises JournalError."""
        with self._changing:
            self._pair = None
            return self._ask_journal().forget_login(VENDOR)

    # -- inside: all of it while `_changing` is held --

    def _readable(self) -> _Pair:
        """Return the pair in the journal. Raises ApiError if there is none, or if it cannot be read."""
        try:
            pair = self._read()
        except JournalError as error:
            raise ApiError(f"Kommo: not asked: {error}", fault=Fault.PASSING, vendor=VENDOR) from error
        if pair is None:
            raise LoginNeededError(f"Kommo: nobody has logged in: {LOGIN}")
        return pair

    def _read(self) -> _Pair | None:
        self._save_unsaved()
        login = self._ask_journal().login(VENDOR)
        if login is None:
            self._pair = None
        elif self._pair is None or login != self._pair.login:
            self._pair = self._open(login)
        return self._pair

    def _open(self, login: Login) -> _Pair:
        if login.host != self._kommo.host:
            raise LoginNeededError(f"Kommo: the login is to {login.host}, not to {self._kommo.host}: {LOGIN}")
        try:
            opened = json.loads(self._seal.open(login.sealed))
        except SealError as error:
            raise LoginNeededError(
                f"Kommo: the login was made with another KOMMO_CLIENT_SECRET: {LOGIN}"
            ) from error
        hush.learn(opened["access"], opened["refresh"])
        return _Pair(login, opened["access"], opened["refresh"])

    def _sealed(self, tokens: Tokens, began: float) -> Login:
        sealed = self._seal.close(json.dumps({"access": tokens.access, "refresh": tokens.refresh}))
        return Login(self._kommo.host, sealed, issued_at=began, expires_at=began + tokens.seconds)

    def _may_ask(self, pair: _Pair) -> bool:
        """Say whether Kommo may be asked: it has not refused, or long ago, or before this process began."""
        login = pair.login
        away = not 0 <= self._clock() - login.fault_at < AGAIN_SECONDS
        return not login.fault or away or self._refused_version != login.version

    def _changed(self, pair: _Pair) -> _Pair:
        """Return the pair that comes of one, whichever process makes it. Raises ApiError."""
        deadline = time.monotonic() + WAIT_SECONDS
        try:
            while time.monotonic() < deadline:
                if not self._may_ask(pair):
                    raise LoginNeededError(f"Kommo: {pair.login.fault}: {LOGIN}")
                if self._begin(pair):
                    return self._carry_out(pair)
                time.sleep(POLL_SECONDS)
                latest = self._readable()
                if latest.login.version != pair.login.version:
                    return latest
                pair = latest
        except JournalError as error:
            raise ApiError(f"Kommo: not asked: {error}", fault=Fault.PASSING, vendor=VENDOR) from error
        raise ApiError(
            f"Kommo: not asked: another process has been changing the token for {WAIT_SECONDS:.0f} s",
            fault=Fault.PASSING,
            vendor=VENDOR,
        )

    def _begin(self, pair: _Pair) -> bool:
        """Write down that this process changes the tokens; False if another one does, or did."""
        begun = Lease.begin()
        self._watch.look()
        self._holder = uuid.uuid4().hex
        began = self._ask_journal().begin_renewal(
            VENDOR,
            pair.login.version,
            self._holder,
            LEASE_SECONDS,
            now=self._clock(),
            take_over=self._watch.trusted(LEASE_SECONDS),
        )
        if began:
            self._lease.extend(begun, LEASE_SECONDS)
        return began

    def _carry_out(self, pair: _Pair) -> _Pair:
        """Have Kommo make the next pair, keep it, and only then use it. Raises ApiError, JournalError."""
        began, version = self._clock(), pair.login.version
        if pair.login.begun:
            log.warning("the token for Kommo is changed again: whoever began has not said how it ended")
        try:
            tokens = self._kommo.renew(pair.refresh)
        except TokenRefusedError as error:
            return self._refused(version, error)
        except ApiError:
            # It may have made one all the same. The old one counts until that is used, which it never will be.
            self._ask_journal().fail_renewal(VENDOR, version, self._holder, "", now=self._clock())
            raise
        finally:
            self._lease.end()
        self._unsaved = _Pair(replace(self._sealed(tokens, began), version=version), tokens.access, tokens.refresh)
        self._save_unsaved()
        log.info("the token for Kommo was changed for a new one", seconds=round(tokens.seconds))
        return self._readable()

    def _refused(self, version: int, error: TokenRefusedError) -> _Pair:
        """Write down that Kommo refused, unless another process has made of the pair what we could not."""
        fault, holder = f"the token cannot be renewed ({error})", self._holder
        if not self._ask_journal().fail_renewal(VENDOR, version, holder, fault, now=self._clock()):
            latest = self._readable()
            if latest.login.version == version:
                raise ApiError(
                    "Kommo: not asked: another process changes the token", fault=Fault.PASSING, vendor=VENDOR
                )
            return latest
        self._refused_version = version
        log.error("Kommo refuses to renew the token", error=str(error), todo=LOGIN)
        raise LoginNeededError(f"Kommo: {fault}: {LOGIN}") from error

    def _save_unsaved(self) -> None:
        """Write what Kommo made into the journal, if that has not taken it yet. Raises JournalError."""
        if self._unsaved is None:
            return
        login = self._unsaved.login
        if not self._ask_journal().end_renewal(VENDOR, login.version, login):
            log.warning("another token for Kommo was kept: this process was late")
        self._unsaved = None


class KeyWatch:
    """Changes tokens in good time, and warns in the log, daily, before we are let in no more."""

    def __init__(self, access: KommoAccess, clock: Callable[[], float] = time.time) -> None:
        self._access = access
        self._clock = clock
        self._warned = (0, float("-inf"))  # of which level, and when

    def run(self, stopping: threading.Event) -> None:
        """Look now and every minute until the process stops."""
        while not stopping.is_set():
            try:
                self.look()
            except Exception:
                # Whatever happens, the next look must come.
                log.exception("look at the token for Kommo failed")
            stopping.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Look once."""
        try:
            self._access.keep_up()
        except LoginNeededError as error:
            log.debug("no new token for Kommo", error=str(error))  # said once where it happened, and daily below
        except (ApiError, JournalError) as error:
            log.warning("the token for Kommo was not changed: it is tried again", error=str(error))
        try:
            self._warn(self._access.standing())
        except JournalError as error:
            log.warning("nobody knows how long Kommo lets us in", error=str(error))

    def _warn(self, standing: Standing) -> None:
        now = self._clock()
        level, warned_level, warned_at = standing.level(now), *self._warned
        if level == warned_level and time.monotonic() - warned_at < DAY:
            return
        self._warned = (level, time.monotonic())
        if standing.over(now):
            log.error("Kommo lets us in no more", why=standing.words(now), todo=standing.todo)
        elif level:
            log.warning("Kommo will let us in no more", why=standing.words(now), todo=standing.todo)
