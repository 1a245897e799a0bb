"""Looks whether all is as it should be, and says what to do where it is not. Nothing is written anywhere."""

from app.doctor.lines import Colour, Line
from app.doctor.rounds import Doctor, Group

__all__ = ["Colour", "Doctor", "Group", "Line"]
