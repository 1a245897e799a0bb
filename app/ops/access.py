"""Who may look: the routes of ops want OPS_TOKEN, as Bearer or as the password of Basic auth."""

from __future__ import annotations

import hmac

from flask import Blueprint, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import NotFound, Unauthorized

OFF = "This route is off: set OPS_TOKEN to use it."
REFUSED = "The token is missing or wrong: send OPS_TOKEN as Authorization: Bearer or as the password of Basic auth."


def guard(blueprint: Blueprint, token: str | None) -> None:
    """Let nobody without the token reach a blueprint's routes; without a token to compare, they do not exist."""

    @blueprint.before_request
    def check() -> None:
        if token is None:
            raise NotFound(OFF)
        if not allowed(token):
            # Basic, so that a browser asks for it.
            raise Unauthorized(REFUSED, www_authenticate=WWWAuthenticate("basic", {"realm": "Kommo Relay"}))


def allowed(token: str) -> bool:
    """Say whether the request carries the token; compared so that the time taken tells nothing."""
    said = request.authorization
    presented = (said.token or said.password or "") if said is not None else ""
    return hmac.compare_digest(presented.encode(), token.encode())
