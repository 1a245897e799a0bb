"""A person's consent goes back and forth in bodies that hold no id and no time: nothing of it is swallowed."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

EMAIL = "back.and.forth@consent.example"
BODIES: dict[str, Any] = {
    "encharge": lambda event: {"event": event, "email": EMAIL},
    "ortto": lambda event: {"type": event, "person": {"fields": {"str::email": EMAIL}}},
}


@pytest.mark.parametrize("vendor", BODIES)
def test_consent_is_a_repeat_only_of_what_was_said_last(client: FlaskClient, vendor: str) -> None:
    words = ("unsubscribed", "unsubscribed", "resubscribed", "unsubscribed", "unsubscribed")

    answers = [client.post(f"/webhooks/{vendor}", json=BODIES[vendor](word)).json for word in words]

    assert all(answers)
    repeats = [answer["events"][0]["status"] == "duplicate" for answer in answers if answer]
    assert repeats == [False, True, False, False, True]
