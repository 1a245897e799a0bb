"""The levers over HTTP: JSON in, JSON out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import jsonify, request
from flask.typing import ResponseReturnValue

if TYPE_CHECKING:
    from sandbox.kommo.server import Kommo


def add_routes(kommo: Kommo) -> None:  # noqa: C901 - a list of small views
    """Add a route for each lever; the body's keys are the lever's arguments."""
    control = kommo.control

    @control.get("/switches")
    def switches() -> ResponseReturnValue:
        return jsonify(kommo.switches())

    @control.post("/switches")
    def switch() -> ResponseReturnValue:
        kommo.switch(**_body())
        return jsonify(kommo.switches())

    @control.post("/hooks")
    def hook() -> ResponseReturnValue:
        return jsonify(id=kommo.hook(**_body()))

    @control.post("/contacts")
    def add_contact() -> ResponseReturnValue:
        return jsonify(id=kommo.add_contact(**_body()))

    @control.post("/companies")
    def add_company() -> ResponseReturnValue:
        return jsonify(id=kommo.add_company(**_body()))

    @control.post("/deals")
    def add_deal() -> ResponseReturnValue:
        return jsonify(id=kommo.add_deal(**_body()))

    @control.post("/crowd")
    def crowd() -> ResponseReturnValue:
        return jsonify(kommo.crowd(**_body()))

    @control.delete("/deals/<int:deal_id>")
    def delete_deal(deal_id: int) -> ResponseReturnValue:
        kommo.delete_deal(deal_id)
        return jsonify({})

    @control.post("/deals/<int:deal_id>/move")
    def move(deal_id: int) -> ResponseReturnValue:
        kommo.move(deal_id, **_body())
        return jsonify({})

    @control.post("/move")
    def move_many() -> ResponseReturnValue:
        kommo.move_many(**_body())
        return jsonify({})


def _body() -> dict[str, Any]:
    body = request.get_json(force=True)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body
