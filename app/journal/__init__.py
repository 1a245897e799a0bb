"""The journal: the only SQL of the service."""

from app.journal.errors import JournalError
from app.journal.store import Journal, Pause, Recorded, Settlement

__all__ = ["Journal", "JournalError", "Pause", "Recorded", "Settlement"]
