"""Kommo Relay: carries deal stages from Kommo to Encharge and Ortto, and email activity back."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import cast

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from app import logs, mapping, settings
from app.access import LOGIN, KeyWatch, KommoAccess, LongLived, OAuthAccess
from app.alerts import Alerts
from app.backfill import Audience, Backfill, Order
from app.cli import (
    backfill,
    backup,
    broadcasts,
    doctor,
    events,
    explain,
    login,
    people,
    reconcile,
    setup,
    stages,
    work,
)
from app.cli.desk import Desk
from app.cli.options import is_command_wanted
from app.clients.alerts import AlertClient
from app.clients.encharge import EnchargeClient
from app.clients.errors import LoginNeededError
from app.clients.http import Observe, Wire, unobserved
from app.clients.kommo import KommoClient
from app.clients.kommo_oauth import KommoOAuth
from app.clients.platform import Platform, Teller, connect
from app.clients.rehearsal import Rehearsal
from app.clients.relay import RelayClient
from app.clients.throttle import Priority, Throttle
from app.dispatcher import Dispatcher
from app.doctor import Doctor, Group, configuration, state, vendors
from app.events import Access, Lane, Source
from app.explain import Explainer
from app.flows import Flow
from app.flows.email_activity import EmailActivityFlow
from app.flows.resolve import Considered, ResolveFlow
from app.flows.stage_changes import CurrentStages, EnchargeFlow, TellerFlow
from app.guardian import Answers, Guardian
from app.journal import Inspection, Journal, JournalError, inspect
from app.lease import Lease, NoLease
from app.logs import Veil
from app.mapping import MappingError, Rules
from app.ops import health
from app.ops import metrics as ops_metrics
from app.ops import routes as page_routes
from app.ops.forms import Forms
from app.ops.headers import protect
from app.ops.masks import Mask
from app.ops.metrics import Metrics
from app.ops.page import Page
from app.reconcile import Reconciler
from app.rounds import Rounds
from app.seal import Seal
from app.settings import ACCESS, Settings, SettingsError, Survey
from app.strangers import Strangers
from app.webhooks import kommo, routes
from app.webhooks.readers import reader
from app.webhooks.routes import Receiver, Route

__version__ = "0.1.0"
EXTENSION = "kommo-relay"


def create_app(configured: Settings | None = None) -> Flask:
    """Build the service; without settings, from the environment.

    Raises SystemExit with a sentence for each thing that is wrong in the settings, the mapping file or the journal.
    """
    parts = make_parts(configured)
    told = parts.told
    app = make_command_app(lambda: parts, lambda: make_desk(Survey(told, ())))
    app.config["MAX_CONTENT_LENGTH"] = routes.LARGEST_BODY
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions[EXTENSION] = parts.dispatcher
    ways = make_routes(told)
    strangers = Strangers(observe=parts.metrics.refused)
    receiver = Receiver(
        ways,
        parts.rules,
        parts.dispatcher,
        budget=told.reply_budget_seconds,
        to_kommo=Answers().answered,
        observe=parts.metrics.answered,
        strangers=strangers,
        clean=Veil(told.hidden, emails="full").words,
    )
    app.register_blueprint(routes.make_blueprint(receiver, ways))
    app.register_blueprint(
        health.make_blueprint(
            parts.journal, parts.vendors, oldest=told.overdue_minutes * 60.0, access=parts.access.standing
        )
    )
    app.register_blueprint(ops_metrics.make_blueprint(parts.metrics, told.ops_tokens, strangers))
    page = make_page(told, parts.rules, parts.flows, parts.journal)
    app.register_blueprint(
        page_routes.make_blueprint(page_routes.Desk(page, Forms(told.ops_tokens)), told.ops_tokens, strangers)
    )
    app.register_error_handler(HTTPException, as_json)
    app.after_request(protect)
    if told.trusted_proxies:
        # Host and prefix are not taken: no answer of ours depends on them.
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=told.trusted_proxies, x_proto=told.trusted_proxies, x_host=0, x_port=0, x_prefix=0
        )
    return app


def create_command_line() -> Flask:
    """Build the app for `flask …`: its commands are there whatever is wrong with the settings.

    What a command works with is made when it runs, and it stops as the service would. Those that help to configure
    make do with what is there. Nothing is read or opened for the sake of a command's name or help.
    """
    if is_command_wanted():
        return make_command_app(cache(make_parts), lambda: make_desk(settings.survey()))
    return create_app()  # for Flask's own commands, which want the whole service


def make_command_app(parts: Callable[[], Parts], desk: Callable[[], Desk]) -> Flask:
    """Return an app with all commands and nothing else.

    What they work with is asked for when they run: the `parts` of the service, or a `desk`, which is there before
    the settings are complete.
    """
    app = Flask(__name__)
    for command in (
        work.make_command(lambda: parts().dispatcher),
        *events.make_commands(lambda: parts().journal, lambda: parts().retention),
        backup.make_command(lambda: desk().survey.settings.database_url),
        *people.make_commands(lambda: parts().journal),
        broadcasts.make_command(lambda: parts().clients.encharge),
        backfill.make_command(lambda: parts().rules.stages, lambda *order: make_backfill(parts(), *order)),
        reconcile.make_command(lambda: parts().reconciler, lambda: parts().retention),
        doctor.make_command(lambda: make_doctor(desk().survey)),
        explain.make_command(lambda: parts().rules.stages, lambda: make_explainer(parts())),
        setup.make_command(desk),
        stages.make_command(desk),
        login.make_commands(desk),
    ):
        app.cli.add_command(command)
    return app


@dataclass(frozen=True)
class Parts:
    """What the service is made of."""

    told: Settings
    rules: Rules
    journal: Journal
    access: KommoAccess
    clients: Clients
    flows: Mapping[Lane, tuple[str, Flow]]
    reconciler: Reconciler
    dispatcher: Dispatcher
    vendors: Mapping[Lane, str]
    metrics: Metrics

    @property
    def retention(self) -> float:
        """Return for how many seconds finished events are kept."""
        return self.told.retention_days * 86400.0


def make_parts(configured: Settings | None = None) -> Parts:
    """Put the service together, not yet at work; without settings, from the environment.

    Raises SystemExit with a sentence for each thing that is wrong in the settings, the mapping file or the journal.
    """
    try:
        told = configured or settings.load()
        logs.configure(told.log_level, told.log_format, make_veil(told))
        rules = mapping.load(told.mapping_file, told.mapping_variables)
        journal = Journal(told.database_url)
    except (SettingsError, MappingError, JournalError) as error:
        sys.exit(f"Kommo Relay cannot start:\n{error}")
    metrics = Metrics(__version__)
    leases = {lane: Lease() for lane in Lane}
    access = make_access(told, lambda: journal, make_throttle(told, journal), metrics.called)
    clients = make_clients(told, journal, access, leases, metrics.called)
    # What nobody waits for must not stand in the way of what somebody does, nor does it wait for a lane's lease.
    watching = make_clients(told, journal, access, dict.fromkeys(Lane, NoLease()), metrics.called).backfill
    reconciler = Reconciler(journal, watching, rules)
    flows = make_flows(told, rules, clients)
    vendors = {lane: vendor for lane, (vendor, _) in flows.items()}
    metrics.watch(journal, vendors.values(), told.kommo_rate_limit, access.standing)
    dispatcher = Dispatcher(
        journal,
        flows,
        leases=leases,
        chores=make_chores(told, journal, vendors, reconciler, watching, access, metrics),
        # The other half of the threads stays free to write down what comes in.
        places=told.web_threads // 2,
        retention=told.retention_days * 86400.0,
        observe=metrics.settled,
    )
    return Parts(told, rules, journal, access, clients, flows, reconciler, dispatcher, vendors, metrics)


def make_veil(told: Settings) -> Veil:
    """Return what cleans log lines."""
    return Veil(told.hidden, emails=told.log_emails)


def make_throttle(told: Settings, journal: Journal, priority: Priority = Priority.TASKS) -> Throttle:
    """Return what keeps Kommo's limit, for calls that hurry so much."""
    return Throttle(journal, "kommo", told.kommo_rate_limit, priority)


def make_access(
    told: Settings,
    ask_journal: Callable[[], Journal],
    throttle: Throttle | None = None,
    observe: Observe = unobserved,
) -> KommoAccess:
    """Return what lets us into Kommo. `ask_journal` raises JournalError; it is asked only where it is needed."""
    integration = told.kommo_app
    if integration is None:
        return LongLived(told.kommo_access_token)

    def make_oauth(may_ask: Callable[[], bool]) -> KommoOAuth:
        url, app = told.kommo_api_url, integration
        made = KommoOAuth(
            url, app.client_id, app.client_secret, app.redirect_uri, may_write=may_ask, observe=observe
        )
        return made.paced(throttle.wait, throttle.refused) if throttle else made

    return OAuthAccess(ask_journal, make_oauth, Seal(integration.client_secret))


def make_chores(
    told: Settings,
    journal: Journal,
    vendors: Mapping[Lane, str],
    reconciler: Reconciler,
    kommo: KommoClient,
    access: KommoAccess,
    metrics: Metrics,
) -> dict[str, Callable[[threading.Event], None]]:
    """Return what runs beside the lanes, by name; what is switched off is not there."""
    chores: dict[str, Callable[[threading.Event], None]] = {"kommo access": KeyWatch(access).run}
    hook_stands: Callable[[str], None] = lambda fault: None  # noqa: E731 - unless somebody wants to hear it
    if told.alert_webhook_url:
        alerts = Alerts(
            journal,
            AlertClient(told.alert_webhook_url, observe=metrics.called),
            vendors,
            overdue=told.overdue_minutes * 60.0,
            watches_hook=bool(told.reconcile_minutes),
            access=access.standing,
            link=f"{told.public_url}/ops" if told.public_url else "",
            clean=Veil(told.hidden, emails="none").words,
        )
        chores["alerts"], hook_stands = alerts.run, alerts.hook_stands
    if told.reconcile_minutes:
        guardian = Guardian(kommo, told.kommo_webhook_secrets, told.public_url, heard=hook_stands)
        seconds = told.reconcile_minutes * 60.0
        chores["rounds"] = Rounds(journal, reconciler, guardian, seconds=seconds, found=metrics.reconciled).run
    return chores


@dataclass(frozen=True)
class Clients:
    """A client of each vendor that is on. Kommo's share its limit by how much their calls hurry."""

    kommo: KommoClient  # tasks: somebody waits for them
    reader: KommoClient  # what stage changes need to know
    backfill: KommoClient  # what nobody waits for
    platforms: Mapping[Source, Platform]

    @property
    def encharge(self) -> EnchargeClient | None:
        """Return Encharge's, None if it is off."""
        found = self.platforms.get(Source.ENCHARGE)
        return found if isinstance(found, EnchargeClient) else None


def make_clients(
    told: Settings,
    journal: Journal,
    access: KommoAccess,
    leases: Mapping[Lane, Lease],
    observe: Observe = unobserved,
    rehearsal: Rehearsal | None = None,
) -> Clients:
    """Return the clients, each of which writes only while this process holds its lane, and in a rehearsal never.

    `observe` hears of every call.
    """
    budget = partial(make_throttle, told, journal)

    def wire(lane: Lane) -> Wire:
        return Wire(may_write=leases[lane].holds, observe=observe, rehearsal=rehearsal)

    tasks, stages, rest = map(budget, (Priority.TASKS, Priority.STAGES, Priority.BACKFILL))
    crm = KommoClient(
        told.kommo_api_url,
        access,
        throttle=tasks.wait,
        refused=tasks.refused,
        **wire(Lane.KOMMO),
    )
    return Clients(
        kommo=crm,
        reader=crm.paced(stages.wait, stages.refused),
        backfill=crm.paced(rest.wait, rest.refused),
        platforms={
            platform: client
            for platform, access in told.platforms.items()
            if (client := connect(platform, access, **wire(Lane(platform))))
        },
    )


def make_desk(survey: Survey, rehearsal: Rehearsal | None = None) -> Desk:
    """Return what the commands that help to configure work with; a person waits for it, so it needs no lease."""
    told = survey.settings
    logs.configure(told.log_level, told.log_format, make_veil(told))
    kommo_client = None
    let_in: KommoAccess | None = None
    if not survey.faults_of(ACCESS[Source.KOMMO]):
        let_in = make_access(told, cache(partial(open_journal, told)))
        # Without a journal the limit cannot be shared: never a second call within its share of a second.
        pause = partial(time.sleep, 1 / told.kommo_rate_limit)
        kommo_client = KommoClient(told.kommo_api_url, let_in, throttle=pause, rehearsal=rehearsal)
    platforms = {
        platform: client
        for platform, access in told.platforms.items()
        if not survey.faults_of(ACCESS[platform]) and (client := connect(platform, access, rehearsal=rehearsal))
    }
    return Desk(survey, partial(make_journal, told), let_in, kommo_client, platforms)


def make_journal(told: Settings) -> None:
    """Make the journal, or bring it up to date. Raises JournalError."""
    Journal(told.database_url).close()


def open_journal(told: Settings) -> Journal:
    """Open the journal for a command that needs its tokens; one that is not there, or is older, is left as it is.

    Raises JournalError, and LoginNeededError if there is none.
    """
    found = inspect(told.database_url)
    if not found.exists:
        raise LoginNeededError(f"Kommo: nobody has logged in, there is no journal at {found.place}: {LOGIN}")
    if not found.usable:
        raise JournalError(f"the journal at {found.place} is of another version: start the service, or upgrade it")
    return Journal(told.database_url)


def make_doctor(survey: Survey) -> Doctor:
    """Return who looks whether all is well, whatever is wrong with the settings; its clients write nothing."""
    told, rehearsal = survey.settings, Rehearsal()
    desk = make_desk(survey, rehearsal)
    found = _try_mapping(told)
    rules = None if isinstance(found, MappingError) else found
    inspection, journal = _try_journal(told)
    crm = desk.kommo
    if crm and isinstance(journal, Journal):
        # The service may be at work: its limit is ours too.
        throttle = make_throttle(told, journal, Priority.BACKFILL)
        crm = crm.paced(throttle.wait, throttle.refused)
    secret = next(iter(told.kommo_webhook_secrets), "")
    ingests = told.encharge_events == "ingest" and told.encharge_dialect == "documented"
    groups: dict[str, Group] = {
        "settings": lambda: configuration.settings(survey),
        "secrets": lambda: configuration.secrets(told),
        "mapping file": lambda: configuration.mapping(found),
        "journal": lambda: state.journal(inspection, journal),
    }
    if isinstance(journal, Journal):
        groups["jobs"] = partial(state.work, journal, overdue=told.overdue_minutes * 60.0)
    groups["kommo"] = lambda: vendors.kommo(desk.access, crm, told, rules)
    for platform, access in told.platforms.items():
        if access.api_key or survey.faults_of(ACCESS[platform]):
            groups[platform] = partial(vendors.platform, platform, desk.platforms.get(platform), rules)
            if platform == Source.ENCHARGE:
                groups["encharge events"] = lambda: state.ingest(journal, on=ingests)
    relay = RelayClient(told.public_url, secret) if told.public_url and secret else None
    groups["public url"] = lambda: vendors.public_url(told.public_url, relay)
    close = journal.close if isinstance(journal, Journal) else lambda: None
    return Doctor(groups, lambda: vendors.clock(rehearsal), close)


def _try_mapping(told: Settings) -> Rules | MappingError:
    try:
        return mapping.load(told.mapping_file, told.mapping_variables)
    except MappingError as error:
        return error


def _try_journal(told: Settings) -> tuple[Inspection | JournalError, Journal | JournalError | None]:
    """Return what stands where the journal is to be; and the journal, if opening it changes nothing."""
    try:
        inspection = inspect(told.database_url)
    except JournalError as error:
        return error, None
    if not inspection.usable:
        return inspection, None
    try:
        return inspection, Journal(told.database_url)
    except JournalError as error:
        return inspection, error


def make_flows(
    told: Settings, rules: Rules, clients: Clients, consider: Callable[[Considered], None] = lambda considered: None
) -> dict[Lane, tuple[str, Flow]]:
    """Return each lane's vendor and flow; a destination without a client has no lane."""
    current = CurrentStages(clients.reader, rules)
    flows: dict[Lane, tuple[str, Flow]] = {Lane.KOMMO: ("kommo", EmailActivityFlow(clients.kommo))}
    for platform, client in clients.platforms.items():
        latest_only = platform in rules.latest_only
        flow: Flow
        if isinstance(client, EnchargeClient):  # which takes one event a call, and does not know a repeat
            by_tag = told.encharge_events == "tag"
            flow = EnchargeFlow(client, current, by_tag=by_tag, latest_only=latest_only)
        else:
            flow = TellerFlow(Lane(platform), cast(Teller, client), current, latest_only=latest_only)
        flows[Lane(platform)] = (platform.value, flow)
    people = {platform: client.find_people for platform, client in clients.platforms.items()}
    resolve = ResolveFlow(clients.reader, rules, list(flows), people, consider=consider)
    return {Lane.RESOLVE: ("kommo", resolve), **flows}


def make_explainer(parts: Parts) -> Explainer:
    """Return who says what would happen: the same flows, with clients that write nothing."""

    rehearsal, considered = Rehearsal(), list[Considered]()
    leases = dict.fromkeys(Lane, NoLease())
    clients = make_clients(parts.told, parts.journal, parts.access, leases, rehearsal=rehearsal)
    # A person waits, but no customer: its reads must not stand in the way of the service's.
    clients = replace(clients, kommo=clients.backfill, reader=clients.backfill)
    ways = make_routes(parts.told)
    return Explainer(
        parts.journal,
        parts.rules,
        clients.kommo,
        make_flows(parts.told, parts.rules, clients, considered.append),
        rehearsal,
        considered,
        {source: way.read for source, way in ways.items()},
        [source for source, way in ways.items() if way.secrets and source != Source.KOMMO],
    )


def make_backfill(parts: Parts, order: Order, audience: Audience) -> Backfill:
    """Return a walk through Kommo's deals; what it writes may be written twice, so it needs no lease."""
    clients = make_clients(parts.told, parts.journal, parts.access, dict.fromkeys(Lane, NoLease()))
    upserts = {Lane(platform): client.upsert for platform, client in clients.platforms.items()}
    return Backfill(clients.backfill, parts.rules, parts.journal, upserts, order, audience)


def make_routes(told: Settings) -> dict[Source, Route]:
    """Return each vendor's way in."""
    account = told.kommo_subdomain
    from_kommo = Route(
        Source.KOMMO,
        told.kommo_webhook_secrets,
        lambda webhook, now, event: kommo.read(webhook, now=now, subdomain=account),
    )
    return {Source.KOMMO: from_kommo} | {
        platform: make_route(platform, access) for platform, access in told.platforms.items()
    }


def make_route(platform: Source, access: Access) -> Route:
    """Return the way in of an email platform."""
    read = reader(platform).read
    return Route(platform, access.webhook_secrets, lambda webhook, now, event: read(webhook, now=now, event=event))


def make_page(told: Settings, rules: Rules, flows: Mapping[Lane, tuple[str, Flow]], journal: Journal) -> Page:
    """Return what shows people what happens; it hides every secret that we know."""
    vendors: dict[str, list[Lane]] = {}
    for lane, (vendor, _) in flows.items():
        vendors.setdefault(vendor, []).append(lane)

    def label(pipeline_id: int | None, status_id: int) -> str | None:
        stage = rules.stage(pipeline_id, status_id)
        return stage.label if stage else None

    kommo_url = told.kommo_api_url if told.kommo_subdomain else None
    return Page(journal, vendors, label, Mask(told.hidden), kommo_url)


def as_json(error: HTTPException) -> ResponseReturnValue:
    """Answer every HTTP error as JSON, with the headers that belong to it."""
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return jsonify(error=error.description), error.code or 500, headers
