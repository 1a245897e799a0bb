"""What the email platforms say of a person, in our words."""

from __future__ import annotations

from app.addresses import clean_email
from app.events import FoundPerson
from app.ids import as_id

PEOPLE_A_READ = 100  # neither platform documents how many it takes


def found_person(email: object, *lead_ids: object) -> FoundPerson:
    """Return a person as it was read; of the values that may be the deal's id, the first that is one counts."""
    return FoundPerson(
        email=clean_email(email) if isinstance(email, str) else None,
        lead_id=next(filter(None, map(as_id, lead_ids)), None),
    )
