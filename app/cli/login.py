"""`flask kommo login`, `status`, `logout`: the way into Kommo by OAuth."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import click

from app.access import OAuthAccess
from app.advice import advice
from app.cli.desk import Desk
from app.cli.options import as_time
from app.clients.errors import ApiError, LoginNeededError
from app.clients.kommo_oauth import TokenRefusedError
from app.journal import JournalError
from app.settings import KOMMO_ACCESS, KOMMO_OAUTH

AGAIN = "Run `flask kommo login` again, and paste the address within 20 minutes: a code counts once."
NO_OAUTH = f"There is nothing to log in with: set {', '.join(KOMMO_OAUTH)}. KOMMO_ACCESS_TOKEN needs no login."


def make_commands(ask_desk: Callable[[], Desk]) -> click.Group:
    """Build the group of commands."""

    @click.group("kommo")
    def kommo() -> None:
        """Log in to Kommo by OAuth, and see how long Kommo lets us in.

        With a long-lived token (KOMMO_ACCESS_TOKEN) there is nothing to log in to, and `status` says when it ends.

        \b
        flask kommo login
        flask kommo status
        flask kommo logout
        """

    @kommo.command("login")
    @click.option("--code", help="The address with the code, or the code alone, for scripts: nothing is asked.")
    def login(code: str | None) -> None:
        """Let the service into your Kommo account.

        Prints an address to open in a browser where you are logged in to Kommo as an administrator. Choose the
        account and agree. The browser is then sent to your redirect address, which need not show anything: copy it
        from the address bar and paste it here. The tokens are kept in the journal, encrypted. The running service
        takes them up at once, and renews them by itself.

        \b
        flask kommo login
        flask kommo login --code "https://relay.example.com/kommo?code=def502…&referer=acme.kommo.com"
        """
        _log_in(ask_desk(), code)

    @kommo.command("status")
    def status() -> None:
        """Show what lets us into Kommo, until when, and when it was last renewed; no token is shown.

        The exit code is 1 if a person must act now.

        \b
        flask kommo status
        """
        _show_status(ask_desk())

    @kommo.command("logout")
    @click.confirmation_option("--yes", prompt="The service will not get into Kommo any more. Log out?")
    def logout() -> None:
        """Forget the tokens. To take the right away in Kommo too, remove the integration there.

        \b
        flask kommo logout
        """
        _log_out(ask_desk())

    return kommo


def _log_in(desk: Desk, said: str | None) -> None:
    access = _oauth(desk)
    try:
        desk.make_journal()
    except JournalError as error:
        raise click.ClickException(f"The tokens could not be kept: {error}.") from error
    code = _ask_code(access, desk) if said is None else _code(said, desk, None)
    try:
        access.log_in(code)
    except TokenRefusedError as error:
        raise click.ClickException(f"{error}.\n{AGAIN}") from error
    except ApiError as error:
        raise click.ClickException(f"{advice(error)}\n{AGAIN}") from error
    except JournalError as error:
        raise click.ClickException(f"The tokens could not be kept: {error}.\n{AGAIN}") from error
    click.echo("Logged in: the tokens are in the journal.")
    _greet(desk)


def _ask_code(access: OAuthAccess, desk: Desk) -> str:
    state = secrets.token_urlsafe(24)
    click.echo("Open this address, logged in to Kommo as an administrator, and agree:\n")
    click.echo(f"    {access.kommo.consent_address(state)}\n")
    click.echo("Then paste the address to which the browser was sent, within 20 minutes.")
    return _code(str(click.prompt("Address")), desk, state)


def _show_status(desk: Desk) -> None:
    _refuse_faults(desk)
    assert desk.access  # noqa: S101 - nothing is wrong with the settings
    try:
        standing = desk.access.standing()
    except JournalError as error:
        raise click.ClickException(f"{error}.") from error
    now = time.time()
    _show("way", "OAuth" if isinstance(desk.access, OAuthAccess) else "long-lived token")
    _show("until", f"{as_time(standing.ends)} UTC" if standing.ends else "unknown")
    if standing.renewed:
        _show("renewed", f"{as_time(standing.renewed)} UTC")
    if standing.level(now):
        words = f"{standing.words(now)}: {standing.todo}."
        if standing.over(now):
            raise click.ClickException(words)
        _show("mind", words)


def _log_out(desk: Desk) -> None:
    try:
        gone = _oauth(desk).log_out()
    except LoginNeededError:
        gone = False
    except JournalError as error:
        raise click.ClickException(f"{error}.") from error
    click.echo("Logged out: the tokens are wiped from the journal." if gone else "Nobody was logged in.")


def _refuse_faults(desk: Desk) -> None:
    if faults := desk.survey.faults_of((*KOMMO_ACCESS, "DATABASE_URL")):
        raise click.ClickException("\n".join(fault.sentence for fault in faults))


def _oauth(desk: Desk) -> OAuthAccess:
    _refuse_faults(desk)
    if not isinstance(desk.access, OAuthAccess):
        raise click.ClickException(NO_OAUTH)
    return desk.access


def _code(said: str, desk: Desk, state: str | None) -> str:
    """Return the code in an address, if it is an answer to us; or a bare code, about which nobody can tell."""
    said = said.strip().strip("'\"")
    if "://" not in said and "?" not in said:
        if not said or not said.isascii() or not said.isprintable() or " " in said:
            raise click.ClickException("That is neither an address nor a code: copy it again, and nothing else.")
        return said
    told = {name: values[0] for name, values in parse_qs(urlsplit(said).query).items()}
    if error := told.get("error"):
        raise click.ClickException(
            f"Kommo says {error!r}: nobody agreed. Run `flask kommo login` again, and agree."
        )
    if "code" not in told:
        raise click.ClickException(
            "There is no code in that address: copy the one to which the browser was sent after you agreed."
        )
    if state is not None and not hmac.compare_digest(told.get("state", "").encode(), state.encode()):
        raise click.ClickException(
            "That address is not the answer to this login (its state differs). Open the address that was printed "
            "last, and paste the one to which the browser is sent then."
        )
    _check_account(told.get("referer", ""), desk)
    return told["code"]


def _check_account(referer: str, desk: Desk) -> None:
    """Refuse a code of another account: it is of no use at ours."""
    host, told = referer.partition("://")[2] or referer, desk.survey.settings
    ours, name = urlsplit(told.kommo_api_url).netloc, told.kommo_subdomain
    elsewhere = name is not None and not ours.startswith(f"{name}.")  # by KOMMO_API_URL
    if host in ("", ours) or (elsewhere and host.startswith(f"{name}.")):
        return
    account = name or ours
    raise click.ClickException(
        f"That is the account {host}, and the settings say {account}: choose {account} in Kommo, or correct "
        "KOMMO_SUBDOMAIN or KOMMO_DOMAIN."
    )


def _greet(desk: Desk) -> None:
    """Say whose account it is; that it cannot be asked now takes nothing away."""
    assert desk.kommo  # noqa: S101 - it is there with its access
    try:
        account = desk.kommo.account()
    except ApiError as error:
        click.echo(f"It could not be tried: {advice(error)}", err=True)
    else:
        click.echo(f"{account.name} ({account.subdomain}) lets us in.")


def _show(name: str, words: str) -> None:
    click.echo(f"{name:<8} {words}")
