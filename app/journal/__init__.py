"""The journal: the only SQL of the service."""

from app.journal.errors import JournalError
from app.journal.figures import Figures, Hour, LaneFigures
from app.journal.history import Attempt, EventStory, JobStory, Search, WholeStory
from app.journal.recording import Recorded
from app.journal.standing import Calls, Death, Pause, Queue, Standing
from app.journal.store import Journal, Progress, Settlement

__all__ = [
    "Attempt",
    "Calls",
    "Death",
    "EventStory",
    "Figures",
    "Hour",
    "JobStory",
    "Journal",
    "JournalError",
    "LaneFigures",
    "Pause",
    "Progress",
    "Queue",
    "Recorded",
    "Search",
    "Settlement",
    "Standing",
    "WholeStory",
]
