"""The journal: the only SQL of the service."""

from app.journal.errors import JournalError
from app.journal.history import EventStory, JobStory, Search
from app.journal.recording import Recorded
from app.journal.standing import Calls, Death, Pause, Queue, Standing
from app.journal.store import Journal, Progress, Settlement

__all__ = [
    "Calls",
    "Death",
    "EventStory",
    "JobStory",
    "Journal",
    "JournalError",
    "Pause",
    "Progress",
    "Queue",
    "Recorded",
    "Search",
    "Settlement",
    "Standing",
]
