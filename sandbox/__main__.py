"""Run the sandbox: `python -m sandbox`."""

from __future__ import annotations

import argparse
import signal
import threading

from sandbox.courier import Target
from sandbox.town import Town

SECRET = "sandbox-webhook-secret"
PORT = 9100


def main() -> None:
    """Run until stopped."""
    options = parse()
    town = Town().start(options.host, options.port)
    if options.new:
        town.forget_relay()
    if options.relay:
        connect(town, options.relay.rstrip("/"), options.secret)
    print(f"The sandbox runs. Look at {town.url}/ (state, calls, deliveries, levers).\n")
    print("Settings for a service that is to talk to it:\n")
    for name, value in town.environment().items():
        print(f"{name}={value}")
    for vendor in ("KOMMO", "ENCHARGE", "ORTTO"):
        print(f"{vendor}_WEBHOOK_SECRET={options.secret}")
    if options.relay:
        print(f"\nWebhooks go to {options.relay}.")
    else:
        print("\nNo webhooks are sent: say where to with --relay http://127.0.0.1:8000.")
    print("Ctrl-C stops it.", flush=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    town.stop()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox",
        description="Fake Kommo, Encharge and Ortto as real HTTP servers with state, for trying and testing.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=int,
        default=PORT,
        help="port of the control server; the vendors take the next ones (0 = any)",
    )
    parser.add_argument(
        "--new", action="store_true", help="accounts in which nothing is set up yet: try flask setup"
    )
    parser.add_argument("--relay", metavar="URL", help="base URL of the service: the vendors send webhooks there")
    parser.add_argument("--secret", default=SECRET, help="webhook secret of the service (default: %(default)s)")
    return parser.parse_args()


def connect(town: Town, relay: str, secret: str) -> None:
    """Set up at each vendor what its user would: webhooks to the service, with the secret."""
    town.kommo.hook(f"{relay}/webhooks/kommo/{secret}")
    town.encharge.target = Target(f"{relay}/webhooks/encharge?secret={secret}")
    town.ortto.target = Target(f"{relay}/webhooks/ortto", {"X-Webhook-Secret": secret})


if __name__ == "__main__":
    main()
