"""OAuth's way into the town's Kommo, for tests; run as a program, a process that uses it once.

`python tests/letting_in.py <database URL> <Kommo's URL> [<folder with an order to die>]`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from databases import run_sql

from app import logs
from app.access import OAuthAccess
from app.clients.kommo import KommoClient
from app.clients.kommo_oauth import KommoOAuth
from app.journal import Journal
from app.seal import Seal
from bench.chaos import saboteur
from sandbox.kommo.oauth import CLIENT_ID, CLIENT_SECRET, REDIRECT_URI
from sandbox.town import Town

DAY = 86_400.0
TOKENS = "/oauth2/access_token"


def make_access(
    journal: Journal, url: str, clock: Callable[[], float] = time.time, secret: str = CLIENT_SECRET
) -> OAuthAccess:
    """Return what lets one process into Kommo."""
    return OAuthAccess(
        lambda: journal,
        lambda may_ask: KommoOAuth(url, CLIENT_ID, secret, REDIRECT_URI, may_write=may_ask),
        Seal(secret),
        clock,
    )


def code_of(town: Town) -> str:
    """Return the code that comes of a user's consent."""
    return parse_qs(urlsplit(town.kommo.oauth.authorize()).query)["code"][0]


def pass_days(town: Town, database_url: str, days: float) -> None:
    """Make what was issued older, in Kommo and in the journal; nobody holds a lease any more."""
    seconds = days * DAY
    for pair in town.kommo.oauth.pairs:
        pair.issued_at -= seconds
    older = "UPDATE logins SET issued_at = issued_at - :s, expires_at = expires_at - :s, lease_until = 0"
    run_sql(database_url, older, s=seconds)


def renewals(town: Town) -> list[int]:
    """Return how Kommo answered those who wanted other tokens, but for logins."""
    return [
        call.status
        for call in list(town.kommo.calls)
        if call.path == TOKENS and call.body["grant_type"] == "refresh_token"
    ]


def main() -> None:
    """Get into Kommo, and say into which account."""
    database_url, url, *folder = sys.argv[1:]
    if folder:
        saboteur._watch_commits(Path(folder[0]) / saboteur.KILL)
    logs.configure("CRITICAL", "json")
    journal = Journal(database_url)
    sys.stdout.write(KommoClient(url, make_access(journal, url)).account().subdomain)
    journal.close()


if __name__ == "__main__":
    main()
