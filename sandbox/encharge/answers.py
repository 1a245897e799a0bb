"""Answers that both hosts give."""

from __future__ import annotations

from flask import Response, request
from markupsafe import escape

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Error</title>
</head>
<body>
<pre>Cannot {method} {path}</pre>
</body>
</html>
"""


def cannot() -> Response:
    """Return the HTML page with which Express answers unknown paths and verbs."""
    page = _PAGE.format(method=request.method, path=escape(request.path))
    return Response(page, 404, content_type="text/html; charset=utf-8")


def nothing(status: int) -> Response:
    """Return an answer without a body."""
    response = Response(status=status)
    del response.headers["Content-Type"]
    return response
