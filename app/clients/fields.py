"""What a vendor's account knows: fields, activities and their attributes, in one shape for all vendors."""

from __future__ import annotations

from dataclasses import dataclass

ACTIVITY = "activity"


@dataclass(frozen=True)
class Field:
    """A field of a deal or a person; an activity (its type is ACTIVITY); or an attribute `of` an activity."""

    id: str  # by which values are written
    name: str  # by which people know it
    type: str  # in the vendor's words; one that holds a list ends in []
    options: tuple[str, ...] = ()  # of a choice
    of: str = ""  # the id of the activity
