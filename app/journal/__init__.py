"""The journal: the only SQL of the service."""

from app.journal.errors import JournalError
from app.journal.history import EventStory, JobStory, Search
from app.journal.recording import Recorded
from app.journal.store import Journal, Pause, Progress, Settlement

__all__ = [
    "EventStory",
    "JobStory",
    "Journal",
    "JournalError",
    "Pause",
    "Progress",
    "Recorded",
    "Search",
    "Settlement",
]
