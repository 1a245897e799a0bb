"""The fake Kommo's OAuth: consent, codes, pairs of tokens, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from sandbox.courier import Courier
from sandbox.kommo import Kommo
from sandbox.kommo.oauth import CLIENT_ID, CLIENT_SECRET, REDIRECT_URI

DAY = 86_400
INTEGRATION = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "redirect_uri": REDIRECT_URI}


class Account:
    """A Kommo on a clock of its own, and its integration."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0
        self.kommo = Kommo(Courier(), lambda: self.now)
        self.kommo.start()

    def consent(self, **query: str) -> requests.Response:
        asked = {"client_id": CLIENT_ID, "state": "s-1", "mode": "popup", **query}
        return requests.get(f"{self.kommo.url}/oauth", params=asked, allow_redirects=False, timeout=30)

    def code(self) -> str:
        return parse_qs(urlsplit(self.consent().headers["Location"]).query)["code"][0]

    def ask(self, **body: str) -> requests.Response:
        url = f"{self.kommo.url}/oauth2/access_token"
        return requests.post(url, json={**INTEGRATION, **body}, timeout=30)

    def log_in(self) -> dict[str, Any]:
        answer = self.ask(grant_type="authorization_code", code=self.code())
        assert answer.status_code == 200
        return dict(answer.json())

    def renew(self, refresh: str) -> requests.Response:
        return self.ask(grant_type="refresh_token", refresh_token=refresh)

    def use(self, access: str) -> int:
        headers = {"Authorization": f"Bearer {access}"}
        return requests.get(f"{self.kommo.url}/api/v4/account", headers=headers, timeout=30).status_code


@pytest.fixture
def account() -> Iterator[Account]:
    made = Account()
    made.kommo.switch(rate=0)
    yield made
    made.kommo.stop()


def refusal(answer: requests.Response) -> tuple[int, str | None]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"].endswith("OAuthProblemJson")
    return answer.status_code, answer.json().get("hint")


def test_consent_sends_the_browser_to_the_redirect_address(account: Account) -> None:
    answer = account.consent()
    where = urlsplit(answer.headers["Location"])
    told = {name: values[0] for name, values in parse_qs(where.query).items()}
    assert (answer.status_code, f"{where.scheme}://{where.netloc}{where.path}") == (302, REDIRECT_URI)
    assert told.pop("code")
    assert told == {"state": "s-1", "client_id": CLIENT_ID, "referer": "examplebakery.kommo.com"}


@pytest.mark.parametrize("query", [{"client_id": "another"}, {"mode": "window"}])
def test_no_consent_for_an_unknown_integration_or_mode(account: Account, query: dict[str, str]) -> None:
    assert account.consent(**query).status_code == 404


def test_a_code_becomes_a_pair_and_its_access_token_lets_in_for_a_day(account: Account) -> None:
    pair = account.log_in()
    assert (pair["token_type"], pair["expires_in"]) == ("Bearer", DAY)
    account.now += DAY - 1
    assert account.use(pair["access_token"]) == 200
    account.now += 1
    assert account.use(pair["access_token"]) == 401
    assert account.use(account.kommo.token) == 200
    bare = requests.get(
        f"{account.kommo.url}/api/v4/account", headers={"Authorization": account.kommo.token}, timeout=30
    )
    assert bare.status_code == 401


def test_a_code_counts_once_and_for_twenty_minutes(account: Account) -> None:
    code, late = account.code(), account.code()
    assert account.ask(grant_type="authorization_code", code=code).status_code == 200
    again = account.ask(grant_type="authorization_code", code=code)
    assert refusal(again) == (400, "Authorization code has been revoked")
    account.now += 20 * 60
    expired = account.ask(grant_type="authorization_code", code=late)
    assert refusal(expired) == (400, "Authorization code has expired")
    unknown = account.ask(grant_type="authorization_code", code="x")
    assert refusal(unknown) == (400, "Cannot decrypt the authorization code")


@pytest.mark.parametrize("name", INTEGRATION)
def test_only_the_integration_itself_gets_tokens(account: Account, name: str) -> None:
    answer = account.ask(grant_type="authorization_code", code=account.code(), **{name: "another"})
    assert refusal(answer) == (401, None)
    assert answer.json()["detail"] == "Client authentication failed"


def test_another_grant_is_refused(account: Account) -> None:
    assert refusal(account.ask(grant_type="password")) == (400, "Check the `grant_type` parameter")
    assert refusal(account.renew("x")) == (401, "Cannot decrypt the refresh token")


def test_a_refresh_token_rotates_and_counts_again_until_the_new_pair_is_used(account: Account) -> None:
    first = account.log_in()
    lost = account.renew(first["refresh_token"]).json()
    second = account.renew(first["refresh_token"]).json()
    assert len({pair["refresh_token"] for pair in (first, lost, second)}) == 3
    assert account.use(first["access_token"]) == 200
    assert account.use(second["access_token"]) == 200
    assert refusal(account.renew(first["refresh_token"])) == (401, "Token has been revoked")
    assert account.renew(second["refresh_token"]).status_code == 200


def test_without_the_grace_it_counts_once(account: Account) -> None:
    account.kommo.switch(refresh_grace=False)
    first = account.log_in()
    assert account.renew(first["refresh_token"]).status_code == 200
    assert refusal(account.renew(first["refresh_token"])) == (401, "Token has been revoked")


def test_a_refresh_token_ends_after_three_months(account: Account) -> None:
    pair = account.log_in()
    account.now += 90 * DAY - 1
    pair = account.renew(pair["refresh_token"]).json()
    account.now += 90 * DAY
    assert refusal(account.renew(pair["refresh_token"])) == (401, "Token has expired")


def test_a_removed_integration_lets_nobody_in(account: Account) -> None:
    pair = account.log_in()
    account.kommo.oauth.revoke()
    assert account.use(pair["access_token"]) == 401
    assert account.renew(pair["refresh_token"]).status_code == 401


def test_calls_for_tokens_count_as_calls(account: Account) -> None:
    account.kommo.switch(rate=1.0)
    codes = [account.renew("x").status_code for _ in range(3)]
    assert codes == [401, 429, 429]
