"""What the email platforms say of a person, in our words."""

from __future__ import annotations

import re

from app.addresses import clean_email
from app.events import FoundPerson

PEOPLE_A_READ = 100  # neither platform documents how many it takes
LARGEST_ID = 2**63 - 1


def found_person(email: object, *lead_ids: object) -> FoundPerson:
    """Return a person as it was read; of the values that may be the deal's id, the first that is one counts."""
    return FoundPerson(
        email=clean_email(email) if isinstance(email, str) else None,
        lead_id=next(filter(None, map(_id, lead_ids)), None),
    )


def _id(value: object) -> int | None:
    """Return a positive whole number of at most 64 bits, be it a number or text."""
    digits = re.fullmatch(r"\s*([0-9]{1,19})\s*", str(value))
    return number if digits and 0 < (number := int(digits[1])) <= LARGEST_ID else None
