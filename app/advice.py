"""What a person can do about a vendor's refusal."""

from __future__ import annotations

from http import HTTPStatus

from app.clients.errors import ApiError, Fault, LoginNeededError

KEY_REFUSED = {
    "kommo": "check KOMMO_ACCESS_TOKEN, and KOMMO_SUBDOMAIN: a token is good for its own account only. With "
    "OAuth, run `flask kommo login` again.",
    "encharge": "check ENCHARGE_API_KEY, and ENCHARGE_DIALECT, which says how it is sent.",
    "ortto": "check ORTTO_API_KEY, and ORTTO_REGION: a key is good in its own region only.",
}
RIGHTS_LACKING = {
    "kommo": "KOMMO_ACCESS_TOKEN must be the token of an administrator.",
    "encharge": "ENCHARGE_API_KEY lacks the right, or your plan does.",
    "ortto": "the account has expired, or whoever made the key is gone from it.",
}
ADDRESSES = {
    "kommo": "KOMMO_SUBDOMAIN, KOMMO_DOMAIN or KOMMO_API_URL",
    "encharge": "ENCHARGE_API_URL",
    "ortto": "ORTTO_REGION or ORTTO_API_URL",
}


def advice(error: ApiError) -> str:
    """Return what a vendor said, and what to do if it is about the key, the rights or the plan."""
    if isinstance(error, LoginNeededError):
        return f"{error}."  # it says what to do
    key = f"{error.vendor.upper()}_API_KEY"
    if error.status == HTTPStatus.UNAUTHORIZED:
        return f"{error}: {KEY_REFUSED.get(error.vendor, f'check {key}.')}"
    if error.status == HTTPStatus.FORBIDDEN and error.fault == Fault.LOCKED_OUT:
        return f"{error}: {RIGHTS_LACKING.get(error.vendor, f'{key} lacks the right.')}"
    if error.status == HTTPStatus.PAYMENT_REQUIRED:
        return f"{error}: the account at {error.vendor.title()} must be paid first."
    if error.fault == Fault.LOCKED_OUT:
        address = ADDRESSES.get(error.vendor, f"{error.vendor.upper()}_API_URL")
        return f"{error}: the address may be wrong; see {address}."
    return f"{error}."
