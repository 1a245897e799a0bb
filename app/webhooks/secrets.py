"""What a request presents as the secret of its route."""

from __future__ import annotations

from flask import Request


def presented(request: Request, in_path: str) -> list[str]:
    """Return what stands in each of the places where a vendor can put the secret.

    A header, Bearer or Basic auth, `?secret=`, or the last part of the path: Kommo can send nothing but a URL.
    """
    said = request.authorization
    places = [request.headers.get("X-Webhook-Secret"), request.args.get("secret"), in_path]
    if said is not None:
        places += [said.token, said.password]
    return [value for value in places if value]
