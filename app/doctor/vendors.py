"""Checks of the vendors' accounts: that they let us in, and have what we write to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from app import accounts, guardian
from app.access import KommoAccess
from app.accounts import Need
from app.clients.encharge import EnchargeClient
from app.clients.errors import ApiError
from app.clients.fields import Field
from app.clients.kommo import Hook, KommoClient, Pipeline
from app.clients.ortto import OrttoClient
from app.clients.platform import Platform, Teller
from app.clients.rehearsal import Rehearsal
from app.clients.relay import RelayClient
from app.doctor.lines import Line, green, grey, red, yellow
from app.doctor.rounds import Check, in_turn
from app.events import Source
from app.mapping import Rules, Stage
from app.settings import Settings

WRONG_CLOCK_SECONDS, SUSPECT_CLOCK_SECONDS = 300.0, 30.0
NOT_YET = "not looked at: the settings above come first"
LOCAL = ("http://127.0.0.1", "http://localhost", "http://[::1]")
STAGES_NAMED = 12  # that are not mapped, in one line


# -- Kommo --


def kommo(
    access: KommoAccess | None, client: KommoClient | None, told: Settings, rules: Rules | None
) -> Iterator[Line]:
    """Look at the Kommo account; None: the settings do not say how."""
    if access:
        yield from _access(access)
    if client is None:
        yield grey("kommo account", NOT_YET)
        return
    users = rules.activities.users if rules else ()
    checks: list[Check] = [
        ("kommo account", lambda: _kommo_account(client, told)),
        ("kommo webhook", lambda: _hooks(client.webhooks(), told)),
        ("kommo fields", lambda: _deal_fields(client, told, rules)),
    ]
    if rules:
        mapped = rules.stages
        checks.append(("kommo stages", lambda: _stages(client.pipelines(), mapped)))
    if users:
        checks.append(("kommo users", lambda: _users(client, users)))
    yield from in_turn(checks)


def _access(access: KommoAccess) -> Iterator[Line]:
    standing, now = access.standing(), time.time()
    if standing.level(now):
        line = red if standing.over(now) else yellow
        yield line("kommo token", standing.words(now), f"{standing.todo[:1].upper()}{standing.todo[1:]}.")
    elif standing.ends is not None:
        again = ", and renewed each day" if standing.renewed else ""
        date = time.strftime("%Y-%m-%d", time.gmtime(standing.ends))
        yield green("kommo token", f"{standing.way} is good until {date}{again}")


def _kommo_account(client: KommoClient, told: Settings) -> Iterator[Line]:
    account = client.account()
    ours = told.kommo_subdomain
    if ours and account.subdomain and ours != account.subdomain:
        yield red(
            "kommo account",
            f"the token is of {account.subdomain!r}, and KOMMO_SUBDOMAIN says {ours!r}: webhooks would be ignored",
            f"Set KOMMO_SUBDOMAIN={account.subdomain}, or take a token of {ours!r}.",
        )
    else:
        yield green("kommo account", f"{account.name} ({account.subdomain}) lets us in")


def _hooks(hooks: Sequence[Hook], told: Settings) -> Iterator[Line]:
    ours = guardian.ours(hooks, told.kommo_webhook_secrets)
    strangers = [hook for hook in hooks if hook not in ours and "/webhooks/kommo" in hook.destination]
    if not ours and strangers:
        yield red(
            "kommo webhook",
            "the one that leads to /webhooks/kommo has another secret than KOMMO_WEBHOOK_SECRET: it is refused",
            "Run `flask setup`, and delete that one in Kommo, Settings, Integrations.",
        )
        return
    away = [hook for hook in ours if told.public_url and not hook.destination.startswith(f"{told.public_url}/")]
    if ours and len(away) == len(ours):
        host = away[0].destination.partition("/webhooks/")[0]
        yield red(
            "kommo webhook",
            f"leads to {host}, and PUBLIC_URL is {told.public_url}",
            "Run `flask setup`, or correct PUBLIC_URL.",
        )
        return
    here = [hook for hook in ours if hook not in away]
    if fault := guardian.fault(here):
        what, _, todo = fault.partition(": ")
        unseen = "" if here else " If a Digital Pipeline sends it, nobody can see that from here."
        yield red("kommo webhook", what, f"Run `flask setup`, or {todo}{unseen}")
    else:
        yield green("kommo webhook", "there, switched on, with our events and our secret")


def _deal_fields(client: KommoClient, told: Settings, rules: Rules | None) -> Iterator[Line]:
    yield from _needs("kommo fields", accounts.kommo_needs(rules, told.mapping_variables), client.deal_fields())


def _stages(pipelines: Sequence[Pipeline], mapped: Sequence[Stage]) -> Iterator[Line]:
    live = {
        (pipeline.id, stage.id): f"{pipeline.name}: {stage.name}"
        for pipeline in pipelines
        if not pipeline.archived
        for stage in pipeline.stages
        if not stage.incoming
    }
    gone = [stage for stage in mapped if not any(_is_of(stage, pair) for pair in live)]
    for stage in gone:
        where = f"pipeline {stage.pipeline_id}" if stage.pipeline_id else "any pipeline"
        yield red(
            "kommo stages",
            f"{stage.name}: Kommo has no live stage {stage.status_id} in {where}",
            "Correct it in the mapping file: `flask stages` lists what there is.",
        )
    if not gone:
        yield green("kommo stages", f"all {len(mapped)} of the mapping file are there")
    ignored = [name for pair, name in live.items() if not any(_is_of(stage, pair) for stage in mapped)]
    if ignored:
        more = f" and {len(ignored) - STAGES_NAMED} more" if len(ignored) > STAGES_NAMED else ""
        named = ", ".join(ignored[:STAGES_NAMED]) + more
        yield green("kommo stages", f"not in the mapping file, so nothing comes of them: {named}")


def _is_of(stage: Stage, pair: tuple[int, int]) -> bool:
    pipeline_id, status_id = pair
    return stage.status_id == status_id and stage.pipeline_id in (None, pipeline_id)


def _users(client: KommoClient, wanted: Iterable[int]) -> Iterator[Line]:
    known = {user.id: user for user in client.users()}
    faults = []
    for user_id in sorted(wanted):
        user = known.get(user_id)
        if user is None or not user.active:
            faults.append(
                red(
                    "kommo users",
                    f"assign_to names user {user_id}, who {'is switched off' if user else 'is not'} in Kommo",
                    "Name another one in the mapping file (actions): "
                    + ", ".join(f"{one.id} {one.name}" for one in known.values() if one.active),
                )
            )
    yield from faults
    if not faults:
        yield green("kommo users", "all that the mapping file names are there")


# -- the email platforms --


def platform(name: Source, client: Platform | None, rules: Rules | None) -> Iterator[Line]:
    """Look at a platform's account; None: the settings do not say how."""
    if client is None:
        yield grey(f"{name} account", NOT_YET)
    elif isinstance(client, EnchargeClient):
        yield from in_turn(_of_encharge(client, rules))
    elif isinstance(client, OrttoClient):
        yield from in_turn([("ortto account", lambda: _ortto_account(client, rules))])
    else:
        topic, teller = f"{name} account", cast(Teller, client)
        yield from in_turn([(topic, lambda: [green(topic, teller.check())])])


def _of_encharge(client: EnchargeClient, rules: Rules | None) -> list[Check]:
    needs = accounts.encharge_needs(rules)
    return [
        ("encharge account", lambda: _encharge_account(client)),
        ("encharge fields", lambda: _needs("encharge fields", needs, client.person_fields())),
    ]


def _encharge_account(client: EnchargeClient) -> Iterator[Line]:
    account = client.account()
    if account.status in ("canceled", "trialExpired"):
        yield red("encharge account", f"{account.name}: its plan is {account.status}", "Renew it at Encharge.")
    else:
        yield green("encharge account", f"{account.name} lets us in ({account.status or 'it tells no plan'})")


def _ortto_account(client: OrttoClient, rules: Rules | None) -> Iterator[Line]:
    schema = client.schema()
    yield green("ortto account", "lets us in, in this region")
    yield from _needs("ortto fields", accounts.ortto_needs(rules), schema)


def _needs(topic: str, needs: Sequence[Need], fields: Sequence[Field]) -> Iterator[Line]:
    faults = [finding for finding in accounts.findings(needs, fields) if finding.words]
    for finding in faults:
        what, stop, todo = finding.words.partition(": ")
        advice = f"{todo[:1].upper()}{todo[1:]}" if stop else ""
        if finding.need.vendor == accounts.ENCHARGE and finding.standing == accounts.Standing.MISSING:
            yield yellow(topic, what, f"{advice} Without it, Encharge makes it with the first person.")
        elif not finding.need.id:  # its variable is not set: the action is off
            yield yellow(topic, what, advice)
        else:
            yield red(topic, what, advice)
    if not faults:
        yield green(topic, f"all {len(needs)} that we write to are there, with the right types")


# -- ourselves, and the time --


def public_url(url: str | None, make: RelayClient | None) -> Iterator[Line]:
    """Look whether we can be reached at our public address."""
    topic = "public url"
    if url is None or make is None:
        yield yellow(
            topic,
            "PUBLIC_URL is not set: nobody can look whether we are reached, nor mend Kommo's webhook",
            "Set it to where Kommo reaches this service, like https://relay.example.com.",
        )
        return
    if not url.startswith(("https://", *LOCAL)):
        yield yellow(
            topic, f"{url} is not encrypted: secrets and addresses can be read on the way", "Use https://."
        )
    try:
        if not make.is_alive():
            yield red(topic, f"at {url} something else answers", "Correct PUBLIC_URL, or the reverse proxy.")
        elif not make.takes_our_secret():
            yield red(
                topic,
                f"at {url} a Kommo Relay answers that has another KOMMO_WEBHOOK_SECRET",
                "Set the same one here and there, and start it again; or correct PUBLIC_URL.",
            )
        else:
            yield green(topic, f"{url} leads to us, and takes our secret")
    except ApiError as error:
        yield _unreached(topic, url, error)


def _unreached(topic: str, url: str, error: ApiError) -> Line:
    if error.status and 300 <= error.status < 400:
        advice = "Set PUBLIC_URL to the address that it leads to (https:// perhaps): Kommo follows no redirect."
        return red(topic, f"{url} leads elsewhere ({error.status})", advice)
    if error.status is None:
        advice = "Is the service running, the name known, the port open, the certificate good? Try it from outside."
        return red(topic, f"{url} cannot be reached: {error}", advice)
    return red(topic, f"{url}: {error}", "Look at the reverse proxy: it must pass /webhooks/ and /healthz on.")


def clock(heard: Rehearsal) -> Iterator[Line]:
    """Compare our clock with those of the vendors that answered."""
    ahead = {call.vendor.split()[0]: call.ahead for call in heard.take() if call.ahead is not None}
    if not ahead:
        yield grey("clock", "no vendor told the time")
        return
    worst = max(ahead.values(), key=abs)
    words = ", ".join(f"{vendor} is {seconds:+.0f} s" for vendor, seconds in sorted(ahead.items()))
    todo = "Set this machine's clock (NTP): the order of events and Kommo's log go by it."
    if abs(worst) > WRONG_CLOCK_SECONDS:
        yield red("clock", f"not that of the vendors: {words}", todo)
    elif abs(worst) > SUSPECT_CLOCK_SECONDS:
        yield yellow("clock", f"not that of the vendors: {words}", todo)
    else:
        yield green("clock", f"that of the vendors, within {max(1, round(abs(worst)))} s")
