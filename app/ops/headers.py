"""What browsers are told about every answer: to keep, load, frame and guess nothing.

That they are to come by HTTPS only (Strict-Transport-Security) is for the proxy to say: only it knows its name.
"""

from __future__ import annotations

from flask import Response

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": NOTHING,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def protect(response: Response) -> Response:
    """Put the headers on an answer; what the page needs of its own stands there already."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    # A static file comes with `no-cache`, which would let it be kept.
    response.headers["Cache-Control"] = HEADERS["Cache-Control"]
    return response


def allow_page(response: Response) -> Response:
    """Let a page load what is our own."""
    response.headers["Content-Security-Policy"] = PAGE
    return response
