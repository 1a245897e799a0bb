"""The production server. Everything that may differ comes from the settings (see .env.example)."""

from __future__ import annotations

import sys
from typing import Any

from app import EXTENSION, create_app, logs, make_veil, settings
from app.server import Worker
from app.settings import SettingsError

try:
    told = settings.load()
except SettingsError as error:
    sys.exit(f"Kommo Relay cannot start:\n{error}")

bind = f"{told.web_host}:{told.web_port}"
worker_class = Worker  # gthread, with a limit to how long it waits for a slow sender
workers = 1  # one process carries the load; PostgreSQL and more replicas are the way to scale out
threads = told.web_threads
worker_connections = 4000  # a bulk action brings a thousand at once, and open ones count
# The reply budget is 1.5 s; a worker that does not move for this long is stuck.
timeout = 60
graceful_timeout = 30
keepalive = 75  # longer than the usual proxy's, so that the proxy and not we close an idle connection
# Whose word counts for the client's address and the scheme is said in one place, TRUSTED_PROXIES. By default the
# server would believe whoever is on this machine.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
# The app writes one line per webhook itself. An access log would show the path, and the path may hold the secret.
accesslog = None
errorlog = "-"
# Its own lines may hold a request's first line, and so the path: they go through the same hands as ours.
logconfig_dict = {
    "formatters": {"relay": {"()": logs.formatter, "form": told.log_format, "veil": make_veil(told)}},
    "handlers": {"relay": {"class": "logging.StreamHandler", "formatter": "relay", "stream": "ext://sys.stderr"}},
    "root": {"level": "WARNING", "handlers": ["relay"]},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["relay"], "propagate": False}},
}
# Its place is in the home directory, where two services of one user would share it.
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Refuse to start with a bad mapping file or journal, before any worker does so again and again."""
    del server
    create_app(told).extensions[EXTENSION].close()


def worker_exit(server: Any, worker: Any) -> None:
    """Finish the batches that are under way."""
    del server
    if hasattr(worker, "wsgi"):  # one that failed to boot has none
        worker.wsgi.extensions[EXTENSION].close()
