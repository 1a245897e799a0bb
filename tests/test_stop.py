"""How the service goes: what is under way is answered, and nobody waits in front of a closed door."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from support import FORM, Service, eventually, stage_hook

from sandbox.town import Town

LEAD = 41_500_011


def is_closed(service: Service) -> bool:
    """Say whether connections are refused; one that is accepted by nobody is dropped here."""
    with (
        suppress(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))),
    ):
        return False
    return True


def test_the_door_is_closed_before_the_last_request_is_answered(service: Service, town: Town) -> None:
    town.kommo.faults.add(seconds=1.2)  # within the reply budget
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(service.post, "kommo", stage_hook(LEAD), FORM)
        eventually(lambda: town.kommo._server.busy)
        service.process.terminate()
        eventually(lambda: is_closed(service))
        assert not under_way.done()
        assert under_way.result().status_code == 200
    assert service.process.wait(60) == 0
