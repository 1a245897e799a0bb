"""Kommo Relay: carries deal stages from Kommo to Encharge and Ortto, and email activity back."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from app import logs, mapping, settings
from app.cli import events, reconcile, work
from app.clients.encharge import ArticleEnchargeClient, EnchargeClient
from app.clients.kommo import KommoClient
from app.clients.ortto import OrttoClient
from app.clients.throttle import Throttle
from app.dispatcher import Dispatcher
from app.events import Lane, Source
from app.flows import Flow
from app.flows.email_activity import EmailActivityFlow
from app.flows.resolve import ResolveFlow
from app.flows.stage_changes import CurrentStages, EnchargeFlow, OrttoFlow
from app.guardian import Answers, Guardian
from app.journal import Journal, JournalError
from app.lease import Lease
from app.mapping import MappingError, Rules
from app.ops import health
from app.reconcile import Reconciler
from app.rounds import Rounds
from app.settings import Settings, SettingsError
from app.webhooks import encharge, kommo, ortto, routes
from app.webhooks.routes import Receiver, Route

EXTENSION = "kommo-relay"


def create_app(configured: Settings | None = None) -> Flask:
    """Build the service; without settings, from the environment.

    Raises SystemExit with a sentence for each thing that is wrong in the settings, the mapping file or the journal.
    """
    try:
        told = configured or settings.load()
        rules = mapping.load(told.mapping_file, told.mapping_variables)
        logs.configure(told.log_level, told.log_format)
        journal = Journal(told.database_url)
    except (SettingsError, MappingError, JournalError) as error:
        sys.exit(f"Kommo Relay cannot start:\n{error}")
    leases = {lane: Lease() for lane in Lane}
    retention = told.retention_days * 86400.0
    # A client of its own: what nobody waits for must not stand in the way of what somebody does.
    watching = KommoClient(
        told.kommo_api_url,
        told.kommo_access_token,
        throttle=Throttle(journal, "kommo", told.kommo_rate_limit).wait,
    )
    reconciler = Reconciler(journal, watching, rules)
    guardian = Guardian(watching, told.kommo_webhook_secrets, told.public_url)
    rounds = Rounds(journal, reconciler, guardian, seconds=told.reconcile_minutes * 60.0)
    dispatcher = Dispatcher(
        journal,
        make_flows(told, rules, journal, leases),
        leases=leases,
        chores={"rounds": rounds.run} if told.reconcile_minutes else {},
        # The other half of the threads stays free to write down what comes in.
        places=told.web_threads // 2,
        retention=retention,
    )
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = routes.LARGEST_BODY
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions[EXTENSION] = dispatcher
    ways = make_routes(told)
    receiver = Receiver(ways, rules, dispatcher, budget=told.reply_budget_seconds, to_kommo=Answers().answered)
    app.register_blueprint(routes.make_blueprint(receiver, ways))
    app.register_blueprint(health.make_blueprint(journal))
    for command in (
        work.make_command(dispatcher),
        reconcile.make_command(reconciler, retention),
        *events.make_commands(journal, retention),
    ):
        app.cli.add_command(command)
    app.register_error_handler(HTTPException, explain)
    return app


def make_flows(
    told: Settings, rules: Rules, journal: Journal, leases: Mapping[Lane, Lease]
) -> dict[Lane, tuple[str, Flow]]:
    """Return each lane's vendor and flow; a destination without a key has no lane."""
    crm = KommoClient(
        told.kommo_api_url,
        told.kommo_access_token,
        throttle=Throttle(journal, "kommo", told.kommo_rate_limit).wait,
        may_write=leases[Lane.KOMMO].holds,
    )
    stages = CurrentStages(crm, rules)
    flows: dict[Lane, tuple[str, Flow]] = {Lane.KOMMO: ("kommo", EmailActivityFlow(crm))}
    if told.encharge_api_key:
        flavour = ArticleEnchargeClient if told.encharge_dialect == "article" else EnchargeClient
        encharge_client = flavour(
            told.encharge_api_url,
            told.encharge_ingest_url,
            told.encharge_api_key,
            told.encharge_write_key,
            may_write=leases[Lane.ENCHARGE].holds,
        )
        flows[Lane.ENCHARGE] = (
            "encharge",
            EnchargeFlow(
                encharge_client,
                stages,
                by_tag=told.encharge_events == "tag",
                latest_only=Lane.ENCHARGE in rules.latest_only,
            ),
        )
    if told.ortto_api_key:
        ortto_client = OrttoClient(told.ortto_api_url, told.ortto_api_key, may_write=leases[Lane.ORTTO].holds)
        flows[Lane.ORTTO] = (
            "ortto",
            OrttoFlow(ortto_client, stages, latest_only=Lane.ORTTO in rules.latest_only),
        )
    return {Lane.RESOLVE: ("kommo", ResolveFlow(crm, rules, list(flows))), **flows}


def make_routes(told: Settings) -> dict[Source, Route]:
    """Return each vendor's way in."""
    account = told.kommo_subdomain
    return {
        route.source: route
        for route in (
            Route(
                Source.KOMMO,
                told.kommo_webhook_secrets,
                lambda webhook, now, event: kommo.read(webhook, now=now, subdomain=account),
                "KOMMO_WEBHOOK_SECRET",
            ),
            Route(
                Source.ENCHARGE,
                told.encharge_webhook_secrets,
                lambda webhook, now, event: encharge.read(webhook, now=now, event=event),
                "ENCHARGE_WEBHOOK_SECRET",
            ),
            Route(
                Source.ORTTO,
                told.ortto_webhook_secrets,
                lambda webhook, now, event: ortto.read(webhook, now=now, event=event),
                "ORTTO_WEBHOOK_SECRET",
            ),
        )
    }


def explain(error: HTTPException) -> ResponseReturnValue:
    """Answer every HTTP error as JSON."""
    return jsonify(error=error.description), error.code or 500
