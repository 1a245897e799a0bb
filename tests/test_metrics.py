"""/metrics of a service that really runs, after real traffic; the alert rules and dashboard that ask for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from databases import run_sql
from prometheus_client.parser import text_string_to_metric_families
from support import FORM, JSON, QUALIFIED, ROOT, Service, add_deals, environment, eventually, in_the_end, stage_hook

from sandbox.kommo.oauth import json_web_token
from sandbox.town import Town

TOKEN = "ops-token-of-the-tests-0123456789"
DOCS = ROOT / "docs"
TOKEN_ENDS = 4_000_000_000  # the long-lived token for Kommo
ALERTS: dict[str, Any] = yaml.safe_load((DOCS / "prometheus-alerts.yml").read_text(encoding="utf-8"))
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
LEAD = 41_500_011

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def ask(service: Service, **headers: str) -> requests.Response:
    return requests.get(f"{service.url}/metrics", headers=headers, timeout=30)


def text(service: Service) -> str:
    answer = ask(service, Authorization=f"Bearer {TOKEN}")
    assert answer.status_code == 200
    return answer.text


def scrape(service: Service) -> Samples:
    """Return every sample as Prometheus would take it, by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text(service))
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"kommo_relay_{name}", frozenset(labels.items())))


def click(email: str, **more: object) -> bytes:
    body = {"event": "email_link_clicked", "email": email, "broadcastName": "Pricing"}
    return json.dumps({**body, **more}).encode()


@pytest.fixture(scope="module")
def busy(running_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has seen a bit of everything: done, ignored, refused, told twice, tried again, given up."""
    town = running_town
    town.reset()
    town.encharge.target = town.ortto.target = None
    folder = tmp_path_factory.mktemp("metrics")
    told = {"OPS_TOKEN": TOKEN, "REPLY_BUDGET_SECONDS": "1.5"}
    usual, town.kommo.token = town.kommo.token, json_web_token({"exp": TOKEN_ENDS})
    service = Service(
        {**environment(town, folder), **told}, folder / "service.log", {"app.strangers.WAIT_SECONDS": 0}
    )
    service.wait_until_ready()
    hook = stage_hook(LEAD, at=1_790_000_000)
    in_the_end(service, service.post("kommo", hook, FORM))
    service.post("kommo", hook, FORM)
    service.post("kommo", stage_hook(LEAD, status=1), FORM)
    service.post("kommo", b"contacts[update][0][id]=5", FORM)
    service.post("kommo", b"leads[status][0][id]=x", FORM)
    in_the_end(service, service.post("encharge", click("zoe@example.com"), JSON))
    in_the_end(service, service.post("ortto", click("nobody@example.test"), JSON))
    requests.post(f"{service.url}/webhooks/kommo", timeout=30)
    town.ortto.faults.add(status=422, times=1)
    in_the_end(service, service.post("kommo", stage_hook(LEAD, status=QUALIFIED + 1, at=1_790_000_100), FORM))
    town.encharge.ingest.faults.add(status=503, times=1)
    service.post("kommo", stage_hook(LEAD, status=QUALIFIED + 2, at=1_790_000_200), FORM)
    eventually(lambda: not run_sql(service.variables["DATABASE_URL"], "SELECT 1 FROM jobs WHERE state = 'pending'"))
    yield service
    service.kill()
    town.kommo.token = usual


# -- who may look -------------------------------------------------------------------------------------------------


def test_nobody_sees_it_without_the_token(busy: Service) -> None:
    refused = [
        ask(busy),
        ask(busy, Authorization="Bearer wrong"),
        ask(busy, Authorization=f"Bearer {TOKEN}x"),
        ask(busy, Authorization="Basic ???"),
        requests.get(f"{busy.url}/metrics?token={TOKEN}", timeout=30),
        requests.get(f"{busy.url}/metrics", auth=(TOKEN, "wrong"), timeout=30),
        requests.get(f"{busy.url}/metrics", auth=("x", ""), timeout=30),
    ]
    assert {answer.status_code for answer in refused} == {401}
    assert [answer.text for answer in refused if "kommo_relay" in answer.text] == []
    assert refused[0].headers["WWW-Authenticate"] == 'Basic realm="Kommo Relay"'
    assert requests.get(f"{busy.url}/metrics", auth=("anybody", TOKEN), timeout=30).status_code == 200


def test_without_a_token_there_is_no_such_route(service: Service) -> None:
    answer = ask(service, Authorization="Bearer ")
    assert (answer.status_code, answer.json()) == (404, {"error": "This route is off: set OPS_TOKEN to use it."})


# -- what it tells ------------------------------------------------------------------------------------------------


def test_events_are_counted_by_what_became_of_them(busy: Service) -> None:
    found = {
        (labels["source"], labels["kind"], labels["outcome"]): number
        for (name, pairs), number in scrape(busy).items()
        if name == "kommo_relay_events_total"
        for labels in [dict(pairs)]
    }
    accepted = sum(number for (_, _, outcome), number in found.items() if outcome in ("accepted", "dead"))
    assert (
        found.items()
        >= {
            ("kommo", "stage_changed", "duplicate"): 1,
            ("kommo", "stage_changed", "ignored"): 1,
            ("kommo", "other", "ignored"): 1,
            ("kommo", "other", "refused"): 1,
            ("ortto", "email_clicked", "skipped"): 1,
        }.items()
    )
    assert accepted >= 1  # the one that was given up, and the one that was tried again
    assert sum(found.values()) == 9


def test_webhooks_jobs_and_calls_are_counted(busy: Service) -> None:
    samples = scrape(busy)
    codes = {code: value(samples, "webhooks_total", route="kommo", code=code) for code in ("200", "400", "401")}
    assert codes == {"200": 6, "400": 1, "401": 1}
    assert value(samples, "webhook_duration_seconds_count", route="kommo") == 8
    lanes = {lane: value(samples, "deliveries_total", lane=lane, outcome="done") for lane in ("kommo", "encharge")}
    assert lanes == {"kommo": 1, "encharge": 3}
    assert value(samples, "deliveries_total", lane="ortto", outcome="dead") == 1
    assert value(samples, "deliveries_total", lane="resolve", outcome="skipped") == 1
    assert value(samples, "retries_total", lane="encharge") == 1
    assert value(samples, "retries_total", lane="ortto") == 0
    assert value(samples, "delivery_delay_seconds_count", lane="encharge") == 3
    calls = "vendor_calls_total"
    assert value(samples, calls, vendor="ortto", operation="POST /activities/create", code="422") == 1
    assert value(samples, calls, vendor="encharge", operation="POST /", code="503") == 1
    read = value(samples, calls, vendor="kommo", operation="GET /leads/{id}", code="200")
    assert read
    assert value(samples, "vendor_call_duration_seconds_count", vendor="kommo", operation="GET /leads/{id}") == read


def test_no_label_has_a_value_from_outside(busy: Service) -> None:
    labels = {
        (name, word) for (sample, pairs) in scrape(busy) for name, word in pairs if sample.startswith("kommo_relay")
    }
    free = {(name, word) for name, word in labels if name not in ("le", "version", "python")}
    assert [word for name, word in free if "@" in word or re.search(r"\d{4}", word)] == []
    assert {name for name, _ in free} == {
        *("source", "kind", "outcome", "route", "code"),
        *("lane", "vendor", "operation", "door", "tried"),
    }
    assert len([word for name, word in free if name == "kind"]) <= 8


def test_what_the_journal_knows_is_told(busy: Service, running_town: Town) -> None:
    samples = scrape(busy)
    assert value(samples, "journal_up") == 1
    assert (value(samples, "journal_size_bytes") or 0) > 50_000
    assert value(samples, "jobs_dead", lane="ortto") == 1
    assert value(samples, "jobs_waiting", lane="ortto") == 0
    assert value(samples, "oldest_waiting_job_seconds", lane="ortto") == 0
    assert value(samples, "vendor_paused", vendor="ortto") == 0
    assert value(samples, "kommo_calls_per_second_limit") == value(samples, "kommo_calls_per_second") == 7


def test_what_waits_and_who_is_paused_is_seen_from_every_replica(
    start_service: Callable[..., Service], database_url: str, town: Town
) -> None:
    """One replica is locked out and slowed down; the other one, which did nothing, tells the same."""
    first, second = (start_service(OPS_TOKEN=TOKEN, DATABASE_URL=database_url) for _ in range(2))
    town.ortto.faults.add(status=401)
    town.kommo.faults.add(status=429, times=1, body="slow down", headers={"Retry-After": "1"})
    deals = add_deals(town, 3)
    first.post("kommo", stage_hook(*deals, at=1_790_000_000), FORM)

    def told(service: Service) -> dict[str, float | None]:
        samples = scrape(service)
        return {
            "waiting": value(samples, "jobs_waiting", lane="ortto"),
            "paused": value(samples, "vendor_paused", vendor="ortto"),
            "kommo": value(samples, "vendor_paused", vendor="kommo"),
        }

    wanted = {"waiting": 3, "paused": 1, "kommo": 0}
    eventually(lambda: told(first) == told(second) == wanted)
    for service in (first, second):
        samples = scrape(service)
        assert 200 < (value(samples, "vendor_pause_remaining_seconds", vendor="ortto") or 0) <= 300
        assert 0 < (value(samples, "oldest_waiting_job_seconds", lane="ortto") or 0) < 120
        assert (value(samples, "kommo_calls_per_second") or 9) < 5
        assert (value(samples, "journal_size_bytes") or 0) > 50_000
    did = [value(scrape(service), "webhooks_total", route="kommo", code="200") for service in (first, second)]
    assert did == [1, None]


def test_a_journal_that_cannot_be_read_is_told_and_counts_go_on(start_service: Callable[..., Service]) -> None:
    service = start_service(OPS_TOKEN=TOKEN)
    file = Path(service.variables["DATABASE_URL"].removeprefix("sqlite:///"))
    run_sql(service.variables["DATABASE_URL"], "ALTER TABLE jobs RENAME TO lost")
    samples = scrape(service)
    run_sql(service.variables["DATABASE_URL"], "ALTER TABLE lost RENAME TO jobs")
    assert file.exists()
    assert value(samples, "journal_up") == 0
    assert value(samples, "jobs_waiting", lane="kommo") is None
    assert value(samples, "deliveries_total", lane="kommo", outcome="done") == 0
    assert value(scrape(service), "journal_up") == 1


def test_when_the_token_for_kommo_ends_is_told(busy: Service) -> None:
    samples = scrape(busy)
    assert value(samples, "kommo_access_expires_timestamp_seconds") == TOKEN_ENDS
    assert value(samples, "kommo_access_needs_a_person") == 0


# -- the documents ------------------------------------------------------------------------------------------------


def names_in(expression: str) -> set[str]:
    """Return the metrics that a PromQL expression asks for."""
    return set(re.findall(r"\b(?:kommo_relay|process)_[a-z_]+", expression))


def families(service: Service) -> dict[str, Any]:
    """Return what /metrics has, by name; counters under the name they are scraped by."""
    found = list(text_string_to_metric_families(text(service)))
    return {f"{family.name}_total" if family.type == "counter" else family.name: family for family in found}


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [*panels, *(rule["expr"] for rule in RULES)]


def test_every_metric_of_the_alert_rules_and_the_dashboard_exists(busy: Service) -> None:
    there = {sample for sample, _ in scrape(busy)}
    asked = set().union(*map(names_in, expressions()))
    assert len(asked) > 20
    assert asked - there == set()


def test_every_label_of_the_alert_rules_and_the_dashboard_exists(busy: Service) -> None:
    labels: dict[str, set[str]] = {}
    for sample, pairs in scrape(busy):
        labels.setdefault(sample, set()).update(name for name, _ in pairs)
    for expression in expressions():
        for name, matchers in re.findall(r"\b(kommo_relay_[a-z_]+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)(?:=~|!=|=)", matchers)) - {"job", "instance"}
            assert used <= labels[name], expression


def test_each_metric_is_on_the_dashboard_or_in_a_rule(busy: Service) -> None:
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for expr in expressions() for name in names_in(expr)}
    ours = {name for name in families(busy) if name.startswith("kommo_relay")}
    assert ours - asked == set()


def test_the_table_of_metrics_is_what_there_is(busy: Service) -> None:
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(kommo_relay_\w+)` \| (.*?) \|", page, re.MULTILINE))
    there = {
        name: {label for sample in family.samples for label in sample.labels} - {"le"}
        for name, family in families(busy).items()
        if name.startswith("kommo_relay")
    }
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows.items()} == there


def test_names_and_words_are_as_prometheus_wants_them(busy: Service) -> None:
    for name, family in families(busy).items():
        assert family.documentation, name
        if not name.startswith("kommo_relay"):
            continue
        assert family.documentation.endswith((".", ":")) or "KOMMO_RATE_LIMIT" in family.documentation, name
        assert (family.type == "counter") == name.endswith("_total"), name
        if family.type == "histogram":
            assert name.endswith("_seconds"), name


def test_the_alert_rules_are_whole() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 10
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 15
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "job"}
