"""Forms that only the page itself can have sent."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from urllib.parse import urlsplit

from flask import Request, Response, request
from werkzeug.exceptions import Forbidden

from app.strangers import is_ours

COOKIE = "relay_ops"


class Forms:
    """Signs forms and takes only those that it has signed.

    Browsers send a password that they were told once along with every request, also with one that another site
    makes them send. So the token alone must not be enough to change something: `check` asks for proof that the
    request comes from a page of ours. Each of three things is enough to stop a foreign site; browsers that lack one
    have another:

    - the form's signature, made with the token over a random cookie and over what the form is about. Another site
      can neither read the form nor, as the cookie is SameSite=Strict, have the cookie sent along;
    - `Sec-Fetch-Site`, with which the browser itself says where a request comes from;
    - `Origin`, where there is no `Sec-Fetch-Site` (a proxy may rewrite `Host`, to which it has to be compared).
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        """`tokens`: all that are valid; the first one signs."""
        self._tokens = tokens

    def sign(self, about: str) -> tuple[str, str]:
        """Return the signature for a form and the cookie that it belongs to."""
        cookie = request.cookies.get(COOKIE) or secrets.token_urlsafe(24)
        return _signature(self._tokens[0], cookie, about), cookie

    def check(self, about: str, signature: str) -> None:
        """Raise Forbidden unless the request was sent from a form of ours that is about this."""
        cookie = request.cookies.get(COOKIE, "")
        right = [_signature(token, cookie, about) for token in self._tokens]
        if not is_ours([signature], right) or not _from_here(request):
            raise Forbidden(
                "This form was not sent from a page of its own, or that page is too old: open it again."
            )


def _signature(token: str, cookie: str, about: str) -> str:
    return hmac.new(token.encode(), f"ops form\0{cookie}\0{about}".encode(), "sha256").hexdigest()


def set_cookie(response: Response, cookie: str) -> None:
    """Give the browser the cookie that a form's signature belongs to."""
    https = request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"
    response.set_cookie(COOKIE, cookie, path="/ops", secure=https, httponly=True, samesite="Strict")


def _from_here(request: Request) -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host
