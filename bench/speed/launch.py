"""Starts gunicorn with the service as it is, but without Kommo's limit: the settings allow 50 calls a second."""

from __future__ import annotations

import sys

from gunicorn.app.wsgiapp import run

from app.clients.throttle import Throttle

Throttle.wait = lambda self: None  # type: ignore[method-assign]  # inherited by the worker, which is forked

if __name__ == "__main__":
    sys.argv[0] = "gunicorn"
    run()
