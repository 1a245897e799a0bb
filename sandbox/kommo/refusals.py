"""How Kommo says no: problem bodies, and the lists of validation errors."""

from __future__ import annotations

from typing import Any, Self

TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "ErrInternalServer",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
DETAILS = {
    400: "Request data is invalid",
    401: "Invalid user name or password",
    402: "Account is not paid",
    403: "Access denied",
    404: "Page not found.",
    405: "Method not allowed",
    500: "Internal server error",
}
RETRY_AFTER = 300

BAD_CHOICE = ("NotSupportedChoice", "The value you selected is not a valid choice.")
NOT_EXPECTED = ("FieldNotExpected", "This field was not expected.")
MISSING = ("FieldMissing", "This field is missing.")


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure
    """An answer of status 400 or above."""

    def __init__(self, status: int, detail: str = "", errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors

    def body(self) -> dict[str, Any]:
        """Return the problem; a refused write lists what is wrong with each of its items.

        https://developers.kommo.com/docs/http-codes
        """
        body = problem(self.status, self.detail)
        return {"validation-errors": self.errors, **body} if self.errors else body


class Problems:
    """What is wrong with one item of a write, gathered while it is read."""

    def __init__(self, request_id: str, path: str = "", errors: list[dict[str, str]] | None = None) -> None:
        self.request_id = request_id
        self.errors: list[dict[str, str]] = [] if errors is None else errors
        self._path = path

    def under(self, key: str | int) -> Self:
        """Return a view of the same list for a part of the item."""
        return type(self)(self.request_id, f"{self._path}{key}.", self.errors)

    def add(self, error: tuple[str, str], key: str | int) -> None:
        """Note an error at a key."""
        code, detail = error
        self.errors.append({"code": code, "path": f"{self._path}{key}", "detail": detail})

    def wrong_type(self, key: str | int, wanted: str) -> None:
        """Note a value of the wrong type."""
        self.add(("InvalidType", f"This value should be of type {wanted}."), key)


def problem(status: int, detail: str = "") -> dict[str, Any]:
    """Return the body of a problem answer."""
    body: dict[str, Any] = {
        "title": TITLES.get(status, "Error"),
        "type": f"https://httpstatus.es/{status}",
        "status": status,
        "detail": detail or DETAILS.get(status, TITLES.get(status, "Error")),
    }
    if status == 429:
        body["retry_after"] = RETRY_AFTER
    if status == 500:
        body["trace_id"] = "00000000000000000000000000000000"
    return body


def html(status: int) -> str:
    """Return the page that Kommo's front server answers with when it cuts a caller off."""
    title = f"{status} {TITLES.get(status, 'Error')}"
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )


def refuse_all(problems: list[Problems]) -> None:
    """Refuse the whole write if an item of it is wrong."""
    errors = [{"request_id": item.request_id, "errors": item.errors} for item in problems if item.errors]
    if errors:
        raise Refusal(400, "Request validation failed", errors)
