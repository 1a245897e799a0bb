"""Whether a request carries the secret of its route."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from flask import Request


def allowed(request: Request, secrets: Sequence[str], in_path: str) -> bool:
    """Say whether the request carries one of the secrets, in any of the places a vendor can put one.

    A header, Bearer or Basic auth, `?secret=`, or the last part of the path: Kommo can send nothing but a URL.
    """
    presented = [request.headers.get("X-Webhook-Secret", ""), request.args.get("secret", ""), in_path]
    if request.authorization is not None:
        presented += [request.authorization.token or "", request.authorization.password or ""]
    # Every pair is compared, so that the time taken tells nothing.
    matches = [hmac.compare_digest(one.encode(), other.encode()) for one in presented if one for other in secrets]
    return any(matches)
