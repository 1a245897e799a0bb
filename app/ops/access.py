"""Who may look: the routes of ops want OPS_TOKEN, as Bearer or as the password of Basic auth."""

from __future__ import annotations

from collections.abc import Collection

from flask import Blueprint, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import NotFound, Unauthorized

from app.strangers import Strangers, is_ours

OFF = "This route is off: set OPS_TOKEN to use it."
REFUSED = "The token is missing or wrong: send OPS_TOKEN as Authorization: Bearer or as the password of Basic auth."


def guard(blueprint: Blueprint, tokens: Collection[str], strangers: Strangers) -> None:
    """Let nobody without one of the tokens reach a blueprint's routes; without any they do not exist."""

    @blueprint.before_request
    def check() -> None:
        if not tokens:
            raise NotFound(OFF)
        token = _presented()
        if is_ours([token], tokens):
            return
        strangers.refused("ops", request.remote_addr, tried=bool(token))
        if token:  # a browser that was not asked yet sends none
            strangers.keep_waiting()
        # Basic, so that a browser asks for it.
        raise Unauthorized(REFUSED, www_authenticate=WWWAuthenticate("basic", {"realm": "Kommo Relay"}))


def _presented() -> str:
    said = request.authorization
    return (said.token or said.password or "") if said is not None else ""
