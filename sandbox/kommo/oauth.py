"""Kommo's OAuth: a user's consent becomes a code, the code a pair of tokens, and each refresh token the next pair.

https://developers.kommo.com/docs/oauth-20, https://developers.kommo.com/reference/get-token. Its refusals are not
documented; their shape and hints are those that users of amoCRM's libraries met, in English.
"""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from flask import Blueprint, Response, redirect, request

from sandbox.vendor import json_answer

if TYPE_CHECKING:
    from sandbox.kommo.server import Kommo

CODE_SECONDS = 20 * 60
CLIENT_ID = "2f6d0a1e-7b3c-4d58-9c41-0e8a5b7f9d26"
CLIENT_SECRET = "sandboxK0mm0ClientSecret9f3b71c2d84e6a50b1f7c9e2a4d6380517ecb92f"
REDIRECT_URI = "https://relay.example.com/kommo"
BAD_REQUEST = "The request is missing a parameter, or one is invalid"


@dataclass
class Pair:
    """An access token and the refresh token that came with it. `spent`: the refresh token has made another pair.

    `used`: one of the two was used, so that what came before it is over for good.
    """

    access: str
    refresh: str
    issued_at: float
    seconds: float
    spent: bool = False
    used: bool = False
    children: list[Pair] = field(default_factory=list)


class OAuth:
    """One integration of the account, what its user agreed to, and the tokens that follow from it."""

    def __init__(self, kommo: Kommo) -> None:
        self._kommo = kommo
        self._codes: dict[str, tuple[float, bool]] = {}  # when it was made, and whether it was used
        self.pairs: list[Pair] = []

    def authorize(self, state: str = "", *, deny: bool = False) -> str:
        """Agree, as a user does on Kommo's page; return the address to which the browser is sent."""
        told = {"state": state, "client_id": CLIENT_ID, "referer": f"{self._kommo.subdomain}.kommo.com"}
        if deny:
            return f"{REDIRECT_URI}?{urlencode({'error': 'access_denied', **told})}"
        code = f"def502{secrets.token_hex(300)}"
        self._codes[code] = (self._kommo.clock(), False)
        return f"{REDIRECT_URI}?{urlencode({'code': code, **told})}"

    def lets_in(self, access: str) -> bool:
        """Say whether an access token is good, and note that it was used."""
        pair = next((pair for pair in self.pairs if pair.access == access), None)
        if pair is None or self._kommo.clock() >= pair.issued_at + pair.seconds:
            return False
        pair.used = True
        return True

    def revoke(self) -> None:
        """Let nothing count any more, as when an administrator removes the integration."""
        self.pairs.clear()
        self._codes.clear()

    def answer(self, body: dict[str, Any]) -> Response:
        """Return a pair of tokens, or why there is none."""
        if (body.get("client_id"), body.get("client_secret"), body.get("redirect_uri")) != (
            CLIENT_ID,
            CLIENT_SECRET,
            REDIRECT_URI,
        ):
            return _refused(401, "", "Invalid client", "Client authentication failed")
        if body.get("grant_type") == "authorization_code":
            return self._take_code(str(body.get("code", "")))
        if body.get("grant_type") == "refresh_token":
            return self._take_refresh(str(body.get("refresh_token", "")))
        return _refused(400, "Check the `grant_type` parameter")

    def _take_code(self, code: str) -> Response:
        if code not in self._codes:
            return _refused(400, "Cannot decrypt the authorization code")
        made_at, used = self._codes[code]
        if used:
            return _refused(400, "Authorization code has been revoked")
        if self._kommo.clock() >= made_at + CODE_SECONDS:
            return _refused(400, "Authorization code has expired")
        self._codes[code] = (made_at, True)
        return self._made()

    def _take_refresh(self, refresh: str) -> Response:
        pair = next((pair for pair in self.pairs if pair.refresh == refresh), None)
        if pair is None:
            return _refused(401, "Cannot decrypt the refresh token")
        if self._kommo.clock() >= pair.issued_at + self._kommo.refresh_seconds:
            return _refused(401, "Token has expired")
        followed = any(child.used for child in pair.children)
        if pair.spent and (followed or not self._kommo.refresh_grace):
            return _refused(401, "Token has been revoked")
        pair.spent = pair.used = True
        return self._made(pair)

    def _made(self, parent: Pair | None = None) -> Response:
        now, seconds = self._kommo.clock(), self._kommo.access_seconds
        pair = Pair(
            json_web_token(self._claims(now, now + seconds)), f"def50200{secrets.token_hex(300)}", now, seconds
        )
        self.pairs.append(pair)
        if parent:
            parent.children.append(pair)
        return json_answer(
            {
                "token_type": "Bearer",
                "expires_in": int(seconds),
                "server_time": int(now),
                "access_token": pair.access,
                "refresh_token": pair.refresh,
            }
        )

    def _claims(self, now: float, until: float) -> dict[str, Any]:
        return {
            "aud": CLIENT_ID,
            "jti": secrets.token_hex(40),
            "iat": int(now),
            "nbf": int(now),
            "exp": int(until),
            "sub": str(self._kommo.user_id),
            "account_id": self._kommo.account_id,
            "base_domain": "kommo.com",
            "scopes": ["crm", "notifications"],
            "api_domain": "api-c.kommo.com",
        }


def json_web_token(claims: dict[str, Any]) -> str:
    """Return a token in the shape of Kommo's, signed with noise."""
    parts = ({"typ": "JWT", "alg": "RS256"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, secrets.token_urlsafe(256)])


def blueprint(kommo: Kommo) -> Blueprint:
    """Return the routes: the page of consent, where everybody agrees at once, and the tokens."""
    routes = Blueprint("oauth", __name__)

    @routes.get("/oauth")
    def consent() -> Any:
        if request.args.get("client_id") != CLIENT_ID or request.args.get("mode") not in ("popup", "post_message"):
            return Response("Integration not found", 404, content_type="text/html")
        with kommo.lock:
            return redirect(kommo.oauth.authorize(request.args.get("state", "")))

    @routes.post("/oauth2/access_token")
    def access_token() -> Response:
        body = request.get_json(silent=True) if request.is_json else request.form.to_dict()
        with kommo.lock:
            return kommo.oauth.answer(body if isinstance(body, dict) else {})

    return routes


def _refused(status: int, hint: str, title: str = "Bad Request", detail: str = BAD_REQUEST) -> Response:
    body = {
        **({"hint": hint} if hint else {}),
        "title": title,
        "type": "https://developers.kommo.com/v3/errors/OAuthProblemJson",
        "status": status,
        "detail": detail,
    }
    return json_answer(body, status, "application/problem+json")
