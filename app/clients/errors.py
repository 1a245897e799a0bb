"""What a call to a vendor can end in, as far as a caller must know."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """Whose fault it is, and so what may help."""

    PASSING = "passing"  # connection, 408, 423, 425, 429, 5xx: try again later
    REFUSED = "refused"  # 400, 404, 409, 422 …: this item will never be taken
    OURS = "ours"  # it was not even asked: this process no longer holds the job
    LOCKED_OUT = "locked out"  # 401, 402, 403, a redirect: nothing will be taken until a person has acted


class ApiError(Exception):
    """A vendor did not do what it was asked.

    `vendor`: whose answer it is, in lower case; '' for a fault of our own. `status`: HTTP status, None without an
    answer. `ambiguous`: it may have done it all the same. `retry_after`: seconds it asked us to wait. The message
    is for people, in the vendor's words if it had any.
    """

    def __init__(
        self,
        message: str,
        *,
        fault: Fault,
        vendor: str = "",
        status: int | None = None,
        retry_after: float | None = None,
        ambiguous: bool = False,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.vendor = vendor
        self.status = status
        self.retry_after = retry_after
        self.ambiguous = ambiguous


class LoginNeededError(ApiError):
    """Nothing was asked: there is no token for Kommo, and only a person can get one."""

    def __init__(self, message: str) -> None:
        super().__init__(message, fault=Fault.LOCKED_OUT, vendor="kommo")
