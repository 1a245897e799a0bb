"""The town: all vendors, one courier, and a control server to look at it and to pull its levers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from sandbox.courier import Courier, Target
from sandbox.encharge import Encharge
from sandbox.kommo import Kommo, oauth
from sandbox.ortto import Ortto
from sandbox.server import Server
from sandbox.vendor import Vendor


class Town:
    """Kommo, Encharge (with its ingest host) and Ortto, running on ports of their own.

    Use it as a context manager in tests; `python -m sandbox` runs it for people.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.courier = Courier()
        self.kommo = Kommo(self.courier, clock)
        self.encharge = Encharge(self.courier, clock)
        self.ortto = Ortto(self.courier, clock)
        self.vendors: dict[str, Vendor] = {
            vendor.name: vendor for vendor in (self.kommo, self.encharge, self.encharge.ingest, self.ortto)
        }
        self.control = make_control(self)
        self._server: Server | None = None
        self.url = ""

    def start(self, host: str = "127.0.0.1", port: int = 0) -> Town:
        """Listen: control on `port`, the vendors on the ports after it (0 = any free ones)."""
        for offset, vendor in enumerate(self.vendors.values(), start=1):
            vendor.start(host, port and port + offset)
        self._server = Server(host, port, self.control)
        self.url = self._server.url
        return self

    def stop(self) -> None:
        """Stop all servers and send nothing more."""
        self.courier.stop()
        for vendor in self.vendors.values():
            vendor.stop()
        if self._server:
            self._server.stop()

    def __enter__(self) -> Town:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def urls(self) -> dict[str, str]:
        """Return every server's base URL by name."""
        return {"control": self.url, **{name: vendor.url for name, vendor in self.vendors.items()}}

    def environment(self) -> dict[str, str]:
        """Return the settings with which a service talks to this town instead of the real vendors."""
        return {
            "KOMMO_SUBDOMAIN": self.kommo.subdomain,
            "KOMMO_ACCESS_TOKEN": self.kommo.token,
            "KOMMO_API_URL": self.kommo.url,
            "ENCHARGE_API_KEY": self.encharge.api_key,
            "ENCHARGE_WRITE_KEY": self.encharge.write_key,
            "ENCHARGE_API_URL": f"{self.encharge.url}/v1",
            "ENCHARGE_INGEST_URL": f"{self.encharge.ingest.url}/v1",
            "ORTTO_API_KEY": self.ortto.api_key,
            "ORTTO_API_URL": f"{self.ortto.url}/v1",
        }

    def oauth_environment(self) -> dict[str, str]:
        """Return the settings that take the place of the long-lived token."""
        return {
            "KOMMO_ACCESS_TOKEN": "",
            "KOMMO_CLIENT_ID": oauth.CLIENT_ID,
            "KOMMO_CLIENT_SECRET": oauth.CLIENT_SECRET,
            "KOMMO_REDIRECT_URI": oauth.REDIRECT_URI,
        }

    def forget_relay(self) -> None:
        """Make the accounts those of somebody who has not yet set anything up for a relay.

        Kommo's stages get ids of their own: those of the shipped mapping file are examples to everybody.
        """
        self.kommo.forget_relay()
        self.kommo.renumber_stages()
        self.ortto.forget_relay()

    def reset(self) -> None:
        """Forget everything: state, faults, logs."""
        for vendor in self.vendors.values():
            vendor.reset()
        self.courier.reset()


def make_control(town: Town) -> Flask:  # noqa: C901 - a list of small views
    """Build the control server: state, calls, deliveries, faults, and each vendor's own levers."""
    app = Flask("sandbox.control")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # Encharge's ingest host has no levers of its own.
    for vendor in (town.kommo, town.encharge, town.ortto):
        app.register_blueprint(vendor.control)

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> ResponseReturnValue:
        return jsonify(error=error.description), error.code or 500

    @app.errorhandler(TypeError)
    @app.errorhandler(KeyError)
    @app.errorhandler(ValueError)
    def explain(error: Exception) -> ResponseReturnValue:
        return jsonify(error=f"{type(error).__name__}: {error}"), 400

    @app.get("/")
    def index() -> ResponseReturnValue:
        routes = sorted(
            f"{','.join(sorted(rule.methods - {'HEAD', 'OPTIONS'}))} {rule.rule}"  # type: ignore[operator]
            for rule in app.url_map.iter_rules()
            if rule.endpoint != "static"
        )
        return jsonify(urls=town.urls(), routes=routes)

    @app.get("/state")
    def all_state() -> ResponseReturnValue:
        return jsonify({name: vendor.state() for name, vendor in town.vendors.items()})

    @app.get("/state/<name>")
    def state(name: str) -> ResponseReturnValue:
        return jsonify(town.vendors[name].state())

    @app.get("/calls")
    def calls() -> ResponseReturnValue:
        wanted = request.args.get("vendor")
        return jsonify(
            {
                name: [asdict(call) for call in list(vendor.calls)]
                for name, vendor in town.vendors.items()
                if wanted in (None, name)
            }
        )

    @app.delete("/calls")
    def forget_calls() -> ResponseReturnValue:
        for vendor in town.vendors.values():
            vendor.calls.clear()
        return jsonify({})

    @app.get("/tally")
    def tally() -> ResponseReturnValue:
        return jsonify({name: vendor.tally() for name, vendor in town.vendors.items()})

    @app.route("/latency", methods=["GET", "POST"])
    def latency() -> ResponseReturnValue:
        for name, seconds in (_body() if request.method == "POST" else {}).items():
            town.vendors[name].latency = float(seconds)
        return jsonify({name: vendor.latency for name, vendor in town.vendors.items()})

    @app.get("/deliveries")
    def deliveries() -> ResponseReturnValue:
        return jsonify([asdict(delivery) for delivery in list(town.courier.deliveries)])

    @app.route("/faults/<name>", methods=["GET", "POST", "DELETE"])
    def faults(name: str) -> ResponseReturnValue:
        faults = town.vendors[name].faults
        if request.method == "POST":
            faults.add(**_body())
        elif request.method == "DELETE":
            faults.clear()
        return jsonify(faults.list())

    @app.route("/courier", methods=["GET", "POST"])
    def courier() -> ResponseReturnValue:
        for key, value in (_body() if request.method == "POST" else {}).items():
            if not hasattr(town.courier.switches, key):
                raise ValueError(f"no such switch: {key}")
            setattr(town.courier.switches, key, value)
        if not town.courier.switches.reorder:
            town.courier.flush()
        return jsonify(asdict(town.courier.switches))

    @app.post("/targets/<name>")
    def target(name: str) -> ResponseReturnValue:
        body = _body()
        town.vendors[name].target = Target(body["url"], body.get("headers", {}))  # type: ignore[attr-defined]
        return jsonify(body)

    @app.post("/forget-relay")
    def forget_relay() -> ResponseReturnValue:
        town.forget_relay()
        return jsonify({})

    @app.post("/reset")
    def reset() -> ResponseReturnValue:
        town.reset()
        return jsonify({})

    return app


def _body() -> dict[str, Any]:
    body = request.get_json(force=True)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body
