"""Tokens that change by themselves, sealed. One process changes them at a time, and what it began is on disk.

`version` counts the pairs of tokens. Who changes one says which version it came from: a process that was frozen
meanwhile, and is late, changes nothing that is newer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, insert, select, update

from app.journal.tables import logins


@dataclass(frozen=True)
class Login:
    """A pair of tokens as the journal keeps it; times in Unix seconds.

    `host`: whose they are. `issued_at`, `expires_at`: of the access token; the refresh token came with it. `fault`:
    why no further pair could be had at `fault_at`, or ''. `begun`: somebody began to change the pair, and has not
    said how it ended.
    """

    host: str
    sealed: str = field(repr=False)
    issued_at: float
    expires_at: float
    version: int = 0
    fault: str = ""
    fault_at: float = 0.0
    begun: bool = False


def read(connection: Connection, vendor: str) -> Login | None:
    """Return the pair of a vendor; None if nobody has logged in."""
    row = connection.execute(select(logins).where(logins.c.vendor == vendor)).first()
    if row is None or not row.sealed:
        return None
    return Login(
        host=row.host,
        sealed=row.sealed,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        version=row.version,
        fault=row.fault,
        fault_at=row.fault_at,
        begun=row.holder is not None,
    )


def save(connection: Connection, vendor: str, login: Login) -> None:
    """Write the pair of somebody who has logged in, in place of whatever is there."""
    values = {**_values(login), "version": logins.c.version + 1}
    if connection.execute(update(logins).where(logins.c.vendor == vendor).values(values)).rowcount == 0:
        connection.execute(insert(logins).values(vendor=vendor, **_values(login), version=1))


def begin(
    connection: Connection, vendor: str, version: int, holder: str, seconds: float, now: float, *, take_over: bool
) -> bool:
    """Note that a pair is about to be changed; False if it is no more, or if somebody else is at it."""
    row = connection.execute(select(logins).where(logins.c.vendor == vendor, logins.c.version == version)).first()
    if row is None or not row.sealed:
        return False
    # A lease that ends further ahead was taken by a clock that was wrong.
    held = row.holder is not None and (now < row.lease_until <= now + seconds or not take_over)
    if held:
        return False
    connection.execute(
        update(logins).where(logins.c.vendor == vendor).values(holder=holder, lease_until=now + seconds)
    )
    return True


def end(connection: Connection, vendor: str, version: int, login: Login) -> bool:
    """Write the pair that came of the one with this version; False if another one came of it meanwhile."""
    mine = update(logins).where(logins.c.vendor == vendor, logins.c.version == version)
    return connection.execute(mine.values(**_values(login), version=version + 1)).rowcount == 1


def end_in_vain(connection: Connection, vendor: str, version: int, holder: str, fault: str, now: float) -> bool:
    """Note that no pair came of the one with this version, and why none ever will; '': perhaps another time.

    False if somebody else has taken over meanwhile.
    """
    mine = update(logins).where(logins.c.vendor == vendor, logins.c.version == version, logins.c.holder == holder)
    told = {"fault": fault, "fault_at": now} if fault else {}
    return connection.execute(mine.values(holder=None, lease_until=0.0, **told)).rowcount == 1


def forget(connection: Connection, vendor: str) -> bool:
    """Wipe the tokens; False if there were none. The version goes on: who is late must not write them again."""
    there = update(logins).where(logins.c.vendor == vendor, logins.c.sealed != "")
    wiped = {"sealed": "", "holder": None, "fault": "", "version": logins.c.version + 1}
    return connection.execute(there.values(wiped)).rowcount == 1


def _values(login: Login) -> dict[str, object]:
    return {
        "host": login.host,
        "sealed": login.sealed,
        "issued_at": login.issued_at,
        "expires_at": login.expires_at,
        "holder": None,
        "lease_until": 0.0,
        "fault": "",
        "fault_at": 0.0,
    }
