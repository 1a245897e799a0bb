"""The journal: the only SQL of the service."""

from app.journal.copying import backup
from app.journal.erasure import Holdings, Unfinished
from app.journal.errors import JournalError
from app.journal.figures import Figures, Hour, LaneFigures
from app.journal.history import Attempt, EventStory, JobStory, Search, WholeStory
from app.journal.inspection import Inspection, inspect
from app.journal.logins import Login
from app.journal.particulars import Particulars
from app.journal.recording import Recorded
from app.journal.standing import Calls, Death, Pause, Queue, Standing
from app.journal.store import Cooldown, Ending, Journal, Progress, Settlement

__all__ = [
    "Attempt",
    "Calls",
    "Cooldown",
    "Death",
    "Ending",
    "EventStory",
    "Figures",
    "Holdings",
    "Hour",
    "Inspection",
    "JobStory",
    "Journal",
    "JournalError",
    "LaneFigures",
    "Login",
    "Particulars",
    "Pause",
    "Progress",
    "Queue",
    "Recorded",
    "Search",
    "Settlement",
    "Standing",
    "Unfinished",
    "WholeStory",
    "backup",
    "inspect",
]
