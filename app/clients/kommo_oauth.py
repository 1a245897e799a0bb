"""Kommo's OAuth: from a code, or from a refresh token, to a pair of tokens.

Reference: https://developers.kommo.com/docs/oauth-20
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

from app import hush
from app.clients.errors import ApiError, Fault
from app.clients.http import Http, Observe, Refusal, understanding, unobserved
from app.clients.kommo import is_block

PATH = "/oauth2/access_token"
SHORTEST_SECONDS = 60.0  # of an access token's life: a shorter one would be renewed with every call
REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY)
UNKNOWN_CLIENT = "KOMMO_CLIENT_ID, KOMMO_CLIENT_SECRET or KOMMO_REDIRECT_URI is not that of the integration"


@dataclass(frozen=True)
class Tokens:
    """A pair of tokens, and for how many seconds the access token is good."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    seconds: float


class TokenRefusedError(ApiError):
    """Kommo will never make tokens of what it was given. The message is what it said, or what that means."""


class KommoOAuth:
    """The calls about tokens to one account's host, which alone is told the client secret."""

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        redirect_uri: str,
        *,
        may_write: Callable[[], bool] = lambda: True,
        observe: Observe = unobserved,
    ) -> None:
        self.host = urlsplit(url).netloc
        self._url = url
        self._integration = {
            "client_id": client_id,
            "client_secret": client_secret,
            "redirect_uri": redirect_uri,
        }
        self._http = Http(
            "Kommo",
            url,
            {},
            explain=_explain,
            secrets=(client_secret,),
            is_block=is_block,
            may_write=may_write,
            observe=observe,
        )

    def paced(self, throttle: Callable[[], None], refused: Callable[[float | None], None]) -> KommoOAuth:
        """Return one that makes its calls at another pace, over the same connections."""
        made = copy.copy(self)
        made._http = self._http.paced(throttle, refused)
        return made

    def consent_address(self, state: str) -> str:
        """Return the address at which a user lets us in; the browser is then sent to the redirect address."""
        # Not popup's counterpart: with post_message, another window than the one that is looked at is sent there.
        query = urlencode({"client_id": self._integration["client_id"], "state": state, "mode": "popup"})
        domain = self.host.partition(".")[2]
        www = f"https://www.{domain}" if domain in ("kommo.com", "amocrm.com", "amocrm.ru") else self._url
        return f"{www}/oauth?{query}"

    def exchange(self, code: str) -> Tokens:
        """Return the first pair. Raises ApiError; TokenRefusedError if the code is of no use (any more)."""
        return self._ask("authorization_code", "code", code)

    def renew(self, refresh: str) -> Tokens:
        """Return the next pair. Raises ApiError; TokenRefusedError if the refresh token is of no use (any more)."""
        return self._ask("refresh_token", "refresh_token", refresh)

    def _ask(self, grant_type: str, name: str, secret: str) -> Tokens:
        # Reference: https://developers.kommo.com/reference/get-token
        hush.learn(secret)
        try:
            answer = self._http.post(PATH, {**self._integration, "grant_type": grant_type, name: secret})
        except ApiError as error:
            if error.status not in REFUSALS:
                raise
            raise TokenRefusedError(
                str(error), fault=Fault.LOCKED_OUT, vendor="kommo", status=error.status
            ) from error
        with understanding("Kommo", f"POST {PATH}"):
            seconds = max(float(answer["expires_in"]), SHORTEST_SECONDS)
            tokens = Tokens(str(answer["access_token"]), str(answer["refresh_token"]), seconds)
        hush.learn(tokens.access, tokens.refresh)
        return tokens


def _explain(body: Any) -> Refusal:
    # `hint` tells the cases apart; without one it is the integration that Kommo does not know.
    if hint := body.get("hint"):
        return Refusal(hint)
    if body.get("status") == HTTPStatus.UNAUTHORIZED:
        return Refusal(f"{body.get('detail') or body.get('title')} ({UNKNOWN_CLIENT})")
    return Refusal(body.get("detail") or body.get("title"), body.get("retry_after"))
