"""The token of the page and how it is sent."""

from __future__ import annotations

from base64 import b64encode

TOKEN = "ops-token-0123456789"
AUTH = {"Authorization": f"Basic {b64encode(f'anybody:{TOKEN}'.encode()).decode()}"}
