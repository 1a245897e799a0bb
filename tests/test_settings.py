"""Settings: defaults, every refusal in its own words, and no secret in sight."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import (
    DOTENV,
    FILES,
    KOMMO_ACCESS,
    VARIABLES,
    KommoApp,
    Settings,
    SettingsError,
    load,
    survey,
)

SECRET = "kommo-secret-0123456789"
OAUTH = {
    "KOMMO_CLIENT_ID": "client-1",
    "KOMMO_CLIENT_SECRET": "client-secret-1",
    "KOMMO_REDIRECT_URI": "https://relay.example.com/kommo?a=b",
}
NEEDED = {"KOMMO_SUBDOMAIN": "acme", "KOMMO_ACCESS_TOKEN": "token-1", "KOMMO_WEBHOOK_SECRET": SECRET}
ENCHARGE = {
    "ENCHARGE_API_KEY": "e-key",
    "ENCHARGE_WRITE_KEY": "w-key",
    "ENCHARGE_WEBHOOK_SECRET": "encharge-secret-0123",
}
ORTTO = {"ORTTO_API_KEY": "PRV-key", "ORTTO_WEBHOOK_SECRET": "ortto-secret-0123456"}
EXAMPLE = Path(__file__).parent.parent / ".env.example"
EVERY = {
    "KOMMO_DOMAIN": "Acme.amocrm.ru",
    "KOMMO_ACCESS_TOKEN": "  token-1\n",
    "KOMMO_API_URL": "http://127.0.0.1:9001/",
    "KOMMO_WEBHOOK_SECRET": f"{SECRET}, kommo-secret-9876543210,",
    "KOMMO_RATE_LIMIT": "3.5",
    "KOMMO_CF_EMAIL_ACTIVITY": "800301",
    "KOMMO_CF_EMAIL_STATUS": "800302",
    **ENCHARGE,
    "ENCHARGE_DIALECT": "Article",
    "ENCHARGE_EVENTS": "TAG",
    "ENCHARGE_API_URL": "http://127.0.0.1:9002/v1/",
    "ENCHARGE_INGEST_URL": "http://127.0.0.1:9003/v1",
    **ORTTO,
    "ORTTO_REGION": "EU",
    "DATABASE_URL": "postgresql://relay:pass-word@db/relay",
    "MAPPING_FILE": "/etc/relay/mapping.yaml",
    "OPS_TOKEN": "ops-token-0123456789,old-ops-token-9876543210,",
    "REPLY_BUDGET_SECONDS": "0",
    "RETENTION_DAYS": "7",
    "RECONCILE_MINUTES": "0",
    "PUBLIC_URL": "https://relay.example.com/kommo/",
    "LOG_LEVEL": "debug",
    "LOG_FORMAT": "Console",
    "LOG_EMAILS": "Full",
    "ALERT_WEBHOOK_URL": "https://hooks.example.com/services/T0/B0/x?key=1",
    "OVERDUE_MINUTES": "5",
    "WEB_THREADS": "4",
    "HOST": "127.0.0.1",
    "PORT": "8080",
    "TRUSTED_PROXIES": "2",
}


def test_the_needed_settings_are_enough_and_the_rest_has_defaults() -> None:
    assert load(NEEDED) == Settings(
        kommo_api_url="https://acme.kommo.com",
        kommo_subdomain="acme",
        kommo_access_token="token-1",
        kommo_app=None,
        kommo_webhook_secrets=(SECRET,),
        kommo_rate_limit=7.0,
        kommo_cf_email_activity=None,
        kommo_cf_email_status=None,
        encharge_api_key=None,
        encharge_write_key=None,
        encharge_webhook_secrets=(),
        encharge_dialect="documented",
        encharge_events="ingest",
        encharge_api_url="https://api.encharge.io/v1",
        encharge_ingest_url="https://ingest.encharge.io/v1",
        ortto_api_key=None,
        ortto_webhook_secrets=(),
        ortto_api_url="https://api.ap3api.com/v1",
        database_url="sqlite:///data/journal.db",
        mapping_file=Path("config/mapping.yaml"),
        ops_tokens=(),
        reply_budget_seconds=1.5,
        retention_days=30,
        reconcile_minutes=5,
        public_url=None,
        log_level="INFO",
        log_format="json",
        log_emails="masked",
        alert_webhook_url=None,
        overdue_minutes=15,
        web_threads=32,
        web_host="0.0.0.0",  # noqa: S104
        web_port=8000,
        trusted_proxies=0,
    )


def test_every_setting_is_read() -> None:
    assert load(EVERY) == Settings(
        kommo_api_url="http://127.0.0.1:9001",
        kommo_subdomain="acme",
        kommo_access_token="token-1",
        kommo_app=None,
        kommo_webhook_secrets=(SECRET, "kommo-secret-9876543210"),
        kommo_rate_limit=3.5,
        kommo_cf_email_activity=800301,
        kommo_cf_email_status=800302,
        encharge_api_key="e-key",
        encharge_write_key="w-key",
        encharge_webhook_secrets=("encharge-secret-0123",),
        encharge_dialect="article",
        encharge_events="tag",
        encharge_api_url="http://127.0.0.1:9002/v1",
        encharge_ingest_url="http://127.0.0.1:9003/v1",
        ortto_api_key="PRV-key",
        ortto_webhook_secrets=("ortto-secret-0123456",),
        ortto_api_url="https://api.eu.ap3api.com/v1",
        database_url="postgresql://relay:pass-word@db/relay",
        mapping_file=Path("/etc/relay/mapping.yaml"),
        ops_tokens=("ops-token-0123456789", "old-ops-token-9876543210"),
        reply_budget_seconds=0.0,
        retention_days=7,
        reconcile_minutes=0,
        public_url="https://relay.example.com/kommo",
        log_level="DEBUG",
        log_format="console",
        log_emails="full",
        alert_webhook_url="https://hooks.example.com/services/T0/B0/x?key=1",
        overdue_minutes=5,
        web_threads=4,
        web_host="127.0.0.1",
        web_port=8080,
        trusted_proxies=2,
    )


@pytest.mark.parametrize(
    ("region", "url"),
    [
        ("api", "https://api.ap3api.com/v1"),
        ("us", "https://api.ap3api.com/v1"),
        ("api.eu", "https://api.eu.ap3api.com/v1"),
        ("eu", "https://api.eu.ap3api.com/v1"),
        ("api.au", "https://api.au.ap3api.com/v1"),
        ("AU", "https://api.au.ap3api.com/v1"),
    ],
)
def test_an_ortto_region_has_its_own_host(region: str, url: str) -> None:
    assert load({**NEEDED, "ORTTO_REGION": region}).ortto_api_url == url


@pytest.mark.parametrize(
    ("account", "url", "subdomain"),
    [
        pytest.param({"KOMMO_SUBDOMAIN": "acme"}, "https://acme.kommo.com", "acme", id="subdomain"),
        pytest.param({"KOMMO_DOMAIN": "acme.amocrm.com"}, "https://acme.amocrm.com", "acme", id="domain"),
        pytest.param(
            {"KOMMO_SUBDOMAIN": "acme", "KOMMO_DOMAIN": "acme.amocrm.ru"},
            "https://acme.amocrm.ru",
            "acme",
            id="both",
        ),
        pytest.param({"KOMMO_API_URL": "http://localhost:1/"}, "http://localhost:1", None, id="only a URL"),
        pytest.param(
            {"KOMMO_SUBDOMAIN": "acme", "KOMMO_API_URL": "http://[::1]:9/k"},
            "http://[::1]:9/k",
            "acme",
            id="sandbox",
        ),
    ],
)
def test_kommo_is_found_by_any_of_its_names(account: dict[str, str], url: str, subdomain: str | None) -> None:
    settings = load({"KOMMO_ACCESS_TOKEN": "t", "KOMMO_WEBHOOK_SECRET": SECRET, **account})
    assert (settings.kommo_api_url, settings.kommo_subdomain) == (url, subdomain)


URL_ADVICE = (
    " must be a plain http:// or https:// address with a host and nothing after the path, "
    "like https://api.example.com/v1."
)
CHARACTERS = (
    "KOMMO_WEBHOOK_SECRET may hold only letters, digits and . _ ~ - (it can be a part of a URL): "
    "make one with `openssl rand -hex 24`."
)
TOO_SHORT = "KOMMO_WEBHOOK_SECRET is shorter than 16 characters: make one with `openssl rand -hex 24`."
ALERT_ADVICE = (
    "ALERT_WEBHOOK_URL must be an http:// or https:// address with a host, like "
    "https://hooks.slack.com/services/…: copy it again, and nothing else."
)
RATE = "KOMMO_RATE_LIMIT must be more than 0 and at most 50 requests a second; Kommo allows 7."
BUDGET = "REPLY_BUDGET_SECONDS must be between 0 and 1.9: Kommo gives up on an answer after 2 seconds."
DATABASE = "DATABASE_URL must begin with sqlite:/// (and a file's path) or with postgresql://."
IN_MEMORY = (
    "DATABASE_URL must name a file, as in sqlite:///data/journal.db: what is only in memory is lost at a restart."
)
DOMAIN = "KOMMO_DOMAIN must be a host like acme.kommo.com (or ….amocrm.com, ….amocrm.ru), not "

BAD = [
    ({"KOMMO_SUBDOMAIN": " "}, "KOMMO_SUBDOMAIN is not set: write `acme` if your Kommo is at acme.kommo.com."),
    (
        {"KOMMO_SUBDOMAIN": "north.kommo.com"},
        "KOMMO_SUBDOMAIN must be the bare name, not 'north.kommo.com': write `north` for north.kommo.com.",
    ),
    (
        {"KOMMO_SUBDOMAIN": "https://north.kommo.com/leads"},
        "KOMMO_SUBDOMAIN must be the bare name, not 'https://north.kommo.com/leads': "
        "write `north` for north.kommo.com.",
    ),
    (
        {"KOMMO_SUBDOMAIN": "evil.example/"},
        "KOMMO_SUBDOMAIN must be the bare name, not 'evil.example/': write `acme` for acme.kommo.com.",
    ),
    (
        {"KOMMO_DOMAIN": "https://acme.kommo.com"},
        f"{DOMAIN}'https://acme.kommo.com': write no https:// and no path.",
    ),
    (
        {"KOMMO_DOMAIN": "acme.kommo.com.evil.example"},
        f"{DOMAIN}'acme.kommo.com.evil.example': write no https:// and no path.",
    ),
    (
        {"KOMMO_DOMAIN": "other.kommo.com"},
        "KOMMO_SUBDOMAIN is 'acme', but KOMMO_DOMAIN is 'other.kommo.com': they name two accounts; keep one.",
    ),
    (
        {"KOMMO_ACCESS_TOKEN": ""},
        "KOMMO_ACCESS_TOKEN is not set: put the long-lived token of your private integration there "
        "(Kommo: Settings, Integrations, Keys and scopes).",
    ),
    (
        {"KOMMO_ACCESS_TOKEN": "", **OAUTH, "KOMMO_CLIENT_SECRET": ""},
        "KOMMO_CLIENT_SECRET is not set, but KOMMO_CLIENT_ID is: set all of KOMMO_CLIENT_ID, KOMMO_CLIENT_SECRET, "
        "KOMMO_REDIRECT_URI, or none.",
    ),
    (
        {"KOMMO_ACCESS_TOKEN": "", **OAUTH, "KOMMO_REDIRECT_URI": "relay.example.com/kommo"},
        "KOMMO_REDIRECT_URI must be the integration's redirect address, to the letter, like "
        "https://relay.example.com/kommo: copy it from there.",
    ),
    (
        OAUTH,
        "KOMMO_ACCESS_TOKEN is set, and so is KOMMO_CLIENT_ID: nobody could tell which is to be used. Keep the "
        "long-lived token, or KOMMO_CLIENT_ID, KOMMO_CLIENT_SECRET, KOMMO_REDIRECT_URI for `flask kommo login`.",
    ),
    (
        {"KOMMO_ACCESS_TOKEN": "Bearer abc"},
        "KOMMO_ACCESS_TOKEN holds a space or a character that no token has: copy it again, and nothing else.",
    ),
    (
        {"KOMMO_API_URL": "https://acme.kommo.com/api/v4/"},
        "KOMMO_API_URL must not hold /api/v4: drop that part, it is added for each call.",
    ),
    ({"KOMMO_API_URL": "acme.kommo.com"}, f"KOMMO_API_URL{URL_ADVICE}"),
    ({"KOMMO_API_URL": "https://"}, f"KOMMO_API_URL{URL_ADVICE}"),
    ({"KOMMO_API_URL": "https://user:pass@acme.kommo.com"}, f"KOMMO_API_URL{URL_ADVICE}"),
    ({"KOMMO_API_URL": "http://[::1"}, f"KOMMO_API_URL{URL_ADVICE}"),
    (
        {"KOMMO_WEBHOOK_SECRET": ""},
        "KOMMO_WEBHOOK_SECRET is not set: make one with `openssl rand -hex 24` and end the webhook's URL in Kommo "
        "with it, /webhooks/kommo/<secret>; or let `flask setup --write-env` do both.",
    ),
    ({"KOMMO_WEBHOOK_SECRET": "short"}, TOO_SHORT),
    ({"KOMMO_WEBHOOK_SECRET": f"{SECRET},short"}, TOO_SHORT),
    ({"KOMMO_WEBHOOK_SECRET": " , "}, TOO_SHORT),
    ({"KOMMO_WEBHOOK_SECRET": "0123456789/0123456789"}, CHARACTERS),
    ({"KOMMO_WEBHOOK_SECRET": "секрет-секрет-секрет"}, CHARACTERS),
    ({"KOMMO_RATE_LIMIT": "0"}, RATE),
    ({"KOMMO_RATE_LIMIT": "50.1"}, RATE),
    ({"KOMMO_RATE_LIMIT": "nan"}, "KOMMO_RATE_LIMIT must be a number like 7, not 'nan'."),
    (
        {"KOMMO_CF_EMAIL_ACTIVITY": "Email activity"},
        "KOMMO_CF_EMAIL_ACTIVITY must be the id of a deal's custom field, a whole number, not 'Email activity'.",
    ),
    (
        {"KOMMO_CF_EMAIL_STATUS": "0"},
        "KOMMO_CF_EMAIL_STATUS must be the id of a deal's custom field, a whole number, not '0'.",
    ),
    (
        {**ENCHARGE, "ENCHARGE_WEBHOOK_SECRET": ""},
        "ENCHARGE_WEBHOOK_SECRET is not set, but ENCHARGE_API_KEY is: make one with `openssl rand -hex 24` and "
        "send it along with Encharge's webhooks; or let `flask setup --write-env` make it and say where it goes.",
    ),
    (
        {**ORTTO, "ORTTO_WEBHOOK_SECRET": ""},
        "ORTTO_WEBHOOK_SECRET is not set, but ORTTO_API_KEY is: make one with `openssl rand -hex 24` "
        "and send it along with Ortto's webhooks; or let `flask setup --write-env` make it and say where it goes.",
    ),
    (
        {**ENCHARGE, "ENCHARGE_WRITE_KEY": ""},
        "ENCHARGE_WRITE_KEY is not set, but ENCHARGE_API_KEY is: events go through the Ingest API, which wants the "
        "write key. Set it, or set ENCHARGE_EVENTS=tag if your plan has no API events.",
    ),
    (
        {"ENCHARGE_WRITE_KEY": "w"},
        "ENCHARGE_WRITE_KEY is set, but ENCHARGE_API_KEY is not: set both, or neither to leave Encharge off.",
    ),
    ({"ENCHARGE_DIALECT": "artikle"}, "ENCHARGE_DIALECT must be one of documented, article, not 'artikle'."),
    ({"ENCHARGE_EVENTS": "hook"}, "ENCHARGE_EVENTS must be one of ingest, tag, not 'hook'."),
    ({"ENCHARGE_API_URL": "ftp://api.encharge.io"}, f"ENCHARGE_API_URL{URL_ADVICE}"),
    ({"ENCHARGE_INGEST_URL": "https://ingest.encharge.io/v1?token=x"}, f"ENCHARGE_INGEST_URL{URL_ADVICE}"),
    (
        {"ORTTO_REGION": "api.eu.evil.example/"},
        "ORTTO_REGION must be one of api, us, api.eu, eu, api.au, au, not 'api.eu.evil.example/'.",
    ),
    ({"ORTTO_API_URL": "https://api eu"}, f"ORTTO_API_URL{URL_ADVICE}"),
    ({"DATABASE_URL": "mysql://u:pass@h/d"}, DATABASE),
    ({"DATABASE_URL": "postgres://u:pass@h/d"}, DATABASE),
    ({"DATABASE_URL": "sqlite:///"}, IN_MEMORY),
    ({"DATABASE_URL": "sqlite:///:memory:"}, IN_MEMORY),
    ({"REPLY_BUDGET_SECONDS": "2"}, BUDGET),
    ({"REPLY_BUDGET_SECONDS": "-1"}, BUDGET),
    ({"REPLY_BUDGET_SECONDS": "1,5"}, "REPLY_BUDGET_SECONDS must be a number like 1.5, not '1,5'."),
    ({"RETENTION_DAYS": "0"}, "RETENTION_DAYS must be a whole number, at least 1, not '0'."),
    ({"RETENTION_DAYS": "30 days"}, "RETENTION_DAYS must be a whole number, at least 1, not '30 days'."),
    (
        {"LOG_LEVEL": "verbose"},
        "LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL, not 'verbose'.",
    ),
    ({"LOG_FORMAT": "text"}, "LOG_FORMAT must be one of json, console, not 'text'."),
    ({"LOG_EMAILS": "no"}, "LOG_EMAILS must be one of masked, full, not 'no'."),
    ({"OVERDUE_MINUTES": "0"}, "OVERDUE_MINUTES must be a whole number, at least 1, not '0'."),
    ({"OPS_TOKEN": "0123456789abcdef,0123"}, TOO_SHORT.replace("KOMMO_WEBHOOK_SECRET", "OPS_TOKEN")),
    ({"OPS_TOKEN": ","}, TOO_SHORT.replace("KOMMO_WEBHOOK_SECRET", "OPS_TOKEN")),
    ({"OPS_TOKEN": "0123456789abcde"}, TOO_SHORT.replace("KOMMO_WEBHOOK_SECRET", "OPS_TOKEN")),
    ({"ALERT_WEBHOOK_URL": "hooks.slack.com/services/T0/B0/x"}, ALERT_ADVICE),
    ({"ALERT_WEBHOOK_URL": "file:///etc/passwd"}, ALERT_ADVICE),
    ({"ALERT_WEBHOOK_URL": "https://"}, ALERT_ADVICE),
    ({"ALERT_WEBHOOK_URL": "https://user:pass@hooks.example.com/x"}, ALERT_ADVICE),
    ({"ALERT_WEBHOOK_URL": "https://hooks.example.com/x y"}, ALERT_ADVICE),
    ({"WEB_THREADS": "3"}, "WEB_THREADS must be a whole number, at least 4, not '3'."),
    ({"PORT": "http"}, "PORT must be a whole number, at least 1, not 'http'."),
    ({"PORT": "70000"}, "PORT must be at most 65535."),
    (
        {"TRUSTED_PROXIES": "10.0.0.1"},
        "TRUSTED_PROXIES must be a whole number, at least 0, not '10.0.0.1'.",
    ),
    (
        {"KOMMO_TOKEN_ACCESS": "x"},
        "KOMMO_TOKEN_ACCESS is not a setting: did you mean KOMMO_ACCESS_TOKEN?",
    ),
    (
        {"ORTTO_API_KYE_FILE": "/run/secrets/key"},
        "ORTTO_API_KYE_FILE is not a setting: did you mean ORTTO_API_KEY_FILE?",
    ),
    ({"ORTTO_API_KEYS": "x"}, "ORTTO_API_KEYS is not a setting: did you mean ORTTO_API_KEY?"),
    (
        {"ORTTO_SOMETHING_QUITE_ELSE": "x"},
        "ORTTO_SOMETHING_QUITE_ELSE is not a setting: remove it, or see .env.example for the names.",
    ),
]


@pytest.mark.parametrize(
    ("wrong", "sentence"), BAD, ids=[f"{', '.join(wrong)}-{i}" for i, (wrong, _) in enumerate(BAD)]
)
def test_a_wrong_setting_is_refused_with_one_sentence(wrong: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load({**NEEDED, **wrong})
    assert refusal.value.faults == (sentence,)
    assert str(refusal.value) == sentence


def test_all_faults_are_said_at_once() -> None:
    with pytest.raises(SettingsError) as refusal:
        load({"ENCHARGE_WRITE_KEY": "w", "ORTTO_API_KEY": "k", "PORT": "x", "KOMMO_SUBDOMIAN": "acme"})
    assert [fault.split()[0] for fault in refusal.value.faults] == [
        "KOMMO_SUBDOMAIN",
        "PORT",
        "KOMMO_ACCESS_TOKEN",
        "KOMMO_WEBHOOK_SECRET",
        "ORTTO_WEBHOOK_SECRET",
        "ENCHARGE_WRITE_KEY",
        "KOMMO_SUBDOMIAN",
    ]
    assert str(refusal.value).splitlines() == list(refusal.value.faults)


def test_a_survey_tells_what_is_wrong_and_reads_the_rest() -> None:
    found = survey({"KOMMO_SUBDOMAIN": "acme", "PORT": "x", "RETENTION_DAYS": "7", "KOMMO_TOKEN": "token-1"})
    assert (found.settings.kommo_subdomain, found.settings.retention_days) == ("acme", 7)
    assert found.settings.web_port == 8000
    assert [fault.variable for fault in found.faults] == [
        "PORT",
        "KOMMO_ACCESS_TOKEN",
        "KOMMO_WEBHOOK_SECRET",
        "KOMMO_TOKEN",
    ]
    with pytest.raises(SettingsError) as refusal:
        load({"KOMMO_SUBDOMAIN": "acme", "PORT": "x", "RETENTION_DAYS": "7", "KOMMO_TOKEN": "token-1"})
    assert refusal.value.faults == tuple(fault.sentence for fault in found.faults)


def test_a_survey_knows_the_faults_of_some_variables_and_the_typos_that_may_be_why() -> None:
    found = survey({"KOMMO_SUBDOMAIN": "acme", "PORT": "x", "KOMMO_TOKEN": "token-1"})
    assert [fault.variable for fault in found.faults_of(KOMMO_ACCESS)] == ["KOMMO_ACCESS_TOKEN", "KOMMO_TOKEN"]
    assert [fault.variable for fault in found.faults_of(["PORT"])] == ["PORT", "KOMMO_TOKEN"]
    assert found.faults_of(["RETENTION_DAYS"]) == ()


def test_every_fault_begins_with_what_it_is_about() -> None:
    for wrong, _ in BAD:
        for fault in survey({**NEEDED, **wrong}).faults:
            assert fault.variable in {*VARIABLES, *wrong}, fault.sentence


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="neither destination"),
        pytest.param({"ENCHARGE_WEBHOOK_SECRET": "encharge-secret-0123"}, id="only the way back"),
        pytest.param(ENCHARGE, id="Encharge"),
        pytest.param({**ENCHARGE, "ENCHARGE_WRITE_KEY": "", "ENCHARGE_EVENTS": "tag"}, id="tags need no write key"),
        pytest.param(
            {**ENCHARGE, "ENCHARGE_WRITE_KEY": "", "ENCHARGE_DIALECT": "article"},
            id="nor does the article's dialect",
        ),
        pytest.param(ORTTO, id="Ortto"),
        pytest.param({"KOMMO_UNKNOWN": " "}, id="a blank stranger"),
        pytest.param(
            {"KOMMO_RELAY_PORT": "tcp://10.0.0.1:80", "KOMMO_RELAY_SERVICE_HOST": "10.0.0.1"}, id="Kubernetes' own"
        ),
        pytest.param({"KOMMO_RELAY_PORT_8000_TCP_ADDR": "10.0.0.1"}, id="Kubernetes' own, by port"),
    ],
)
def test_these_are_right(environ: dict[str, str]) -> None:
    load({**NEEDED, **environ})


def test_no_secret_is_in_the_repr() -> None:
    settings = load(
        {
            **NEEDED,
            **ENCHARGE,
            **ORTTO,
            "OPS_TOKEN": "ops-token-0123456789,old-ops-token-9876543210,",
            "DATABASE_URL": "postgresql://u:pw-1@h/d",
            "ALERT_WEBHOOK_URL": "https://hooks.example.com/services/T0?key=alert-key",
        }
    )
    hidden = set(settings.hidden)
    assert {"token-1", SECRET, *ENCHARGE.values(), "ops-token-0123456789", "pw-1", "services/T0"} <= hidden
    secrets = [
        "services/T0",
        "alert-key",
        "token-1",
        SECRET,
        *ENCHARGE.values(),
        *ORTTO.values(),
        "ops-token-0123456789",
        "pw-1",
    ]
    assert [secret for secret in secrets if secret in f"{settings!r} {settings}"] == []


def test_oauth_takes_the_place_of_the_token() -> None:
    settings = load({**NEEDED, **OAUTH, "KOMMO_ACCESS_TOKEN": ""})
    assert settings.kommo_access_token == ""
    assert settings.kommo_app == KommoApp("client-1", "client-secret-1", "https://relay.example.com/kommo?a=b")
    assert "client-secret-1" in settings.hidden
    assert "client-secret-1" not in f"{settings!r} {settings.kommo_app}"


def test_no_secret_is_in_a_fault() -> None:
    wrong = {
        "KOMMO_ACCESS_TOKEN": "hush-1 x",
        "KOMMO_CLIENT_SECRET": "hush 12",
        "KOMMO_WEBHOOK_SECRET": "hush-2",
        "ENCHARGE_API_KEY": "hush 3",
        "ENCHARGE_WRITE_KEY": "hush 4",
        "ENCHARGE_WEBHOOK_SECRET": "hush/5",
        "ORTTO_API_KEY": "hush 6",
        "OPS_TOKEN": "hush 7",
        "ALERT_WEBHOOK_URL": "hush://hush-11",
        "DATABASE_URL": "mysql://hush:8@h",
        "ORTTO_API_URL": "https://hush:9@h",
        "KOMMO_ACCESS_TOKENS": "hush-10",
    }
    with pytest.raises(SettingsError) as refusal:
        load(wrong)
    assert "hush" not in str(refusal.value)


def test_the_mapping_may_name_the_deals_fields() -> None:
    settings = load({**NEEDED, "KOMMO_CF_EMAIL_STATUS": "800302"})
    assert settings.mapping_variables == {"KOMMO_CF_EMAIL_ACTIVITY": None, "KOMMO_CF_EMAIL_STATUS": 800302}


class TestFiles:
    """NAME_FILE in place of NAME."""

    @pytest.fixture
    def secret(self, tmp_path: Path) -> Path:
        path = tmp_path / "secret"
        path.write_bytes(b"from-a-file-0123456789\n")
        return path

    @pytest.mark.parametrize("content", ["{}\n", "\ufeff{}\r\n", "  {}  \n\n", "{}"])
    def test_every_setting_may_come_from_one(self, tmp_path: Path, content: str) -> None:
        given = {name: value for name, value in EVERY.items() if name != "KOMMO_DOMAIN"} | NEEDED
        given["ORTTO_API_URL"] = "https://api.example.com/v1"
        by_oauth = {name: value for name, value in given.items() if name != "KOMMO_ACCESS_TOKEN"} | OAUTH
        assert {f"{name}_FILE" for name in {**given, **by_oauth}} == FILES.keys() - {"KOMMO_DOMAIN_FILE"}
        for values in (given, by_oauth):
            environ = {}
            for name, value in values.items():
                path = tmp_path / name
                path.write_bytes(content.replace("{}", value).encode())
                environ[f"{name}_FILE"] = str(path)
            assert load(environ) == load(values)

    def refusal(self, name: str, path: object) -> str:
        """Return the one sentence with which settings are refused where a variable comes from this file."""
        given = {key: value for key, value in {**NEEDED, **ORTTO}.items() if key != name}
        with pytest.raises(SettingsError) as refusal:
            load({**given, f"{name}_FILE": str(path)})
        (sentence,) = refusal.value.faults
        return sentence

    @pytest.mark.parametrize(
        "name", ["KOMMO_ACCESS_TOKEN", "KOMMO_WEBHOOK_SECRET", "ORTTO_API_KEY", "PORT", "PUBLIC_URL"]
    )
    def test_one_that_is_missing_is_named_and_nothing_else_is(self, name: str, tmp_path: Path) -> None:
        assert self.refusal(name, tmp_path / "nowhere") == (
            f"{name}_FILE names {tmp_path}/nowhere, which cannot be read (No such file or directory): "
            "correct the path, and let the service's user read the file."
        )

    def test_one_that_is_no_file_is_named(self, tmp_path: Path) -> None:
        assert f" names {tmp_path}, which cannot be read (Is a directory)" in self.refusal("OPS_TOKEN", tmp_path)

    def test_one_that_may_not_be_read_is_named(self, secret: Path) -> None:
        secret.chmod(0)
        line = (
            f"import app.settings as s; print(s.survey({{'OPS_TOKEN_FILE': {str(secret)!r}}}).faults[0].sentence)"
        )
        # Root may read all: another user asks. What it is to import is read for it before.
        done = subprocess.run(
            [sys.executable, "-c", f"import os; os.chdir('/'); import app.settings; os.setuid(65534); {line}"],
            env={"PYTHONPATH": str(EXAMPLE.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith(f"OPS_TOKEN_FILE names {secret}, which cannot be read (Permission denied): ")

    @pytest.mark.parametrize("content", [b"", b" \r\n\n"])
    def test_a_blank_one_is_named(self, secret: Path, content: bytes) -> None:
        secret.write_bytes(content)
        assert self.refusal("KOMMO_ACCESS_TOKEN", secret) == (
            f"KOMMO_ACCESS_TOKEN_FILE names {secret}, which is blank: put the value there, and nothing else."
        )

    def test_one_in_another_encoding_is_named_and_not_shown(self, secret: Path) -> None:
        secret.write_bytes("größe".encode("latin-1"))
        assert self.refusal("KOMMO_ACCESS_TOKEN", secret) == (
            f"KOMMO_ACCESS_TOKEN_FILE names {secret}, which is not UTF-8 text: save it as such."
        )

    def test_both_are_one_too_many(self, secret: Path) -> None:
        with pytest.raises(SettingsError) as refusal:
            load({**NEEDED, "KOMMO_ACCESS_TOKEN_FILE": str(secret)})
        assert refusal.value.faults == (
            "KOMMO_ACCESS_TOKEN and KOMMO_ACCESS_TOKEN_FILE are both set: keep one of them.",
        )

    def test_a_blank_one_of_both_does_not_count(self, secret: Path) -> None:
        assert load({**NEEDED, "KOMMO_ACCESS_TOKEN": " ", "KOMMO_ACCESS_TOKEN_FILE": str(secret)})
        assert load({**NEEDED, "KOMMO_ACCESS_TOKEN_FILE": ""}).kommo_access_token == "token-1"

    @pytest.mark.parametrize("value", ["a-secret-itself-0123456789", "https://hooks.example.com/a-secret-itself"])
    def test_a_value_in_the_place_of_its_path_is_not_repeated(self, value: str) -> None:
        assert self.refusal("ALERT_WEBHOOK_URL", value).startswith(
            "ALERT_WEBHOOK_URL_FILE names a file, which cannot be read (No such file or directory): "
        )

    def test_what_is_wrong_with_the_value_is_said_of_the_variable(self, secret: Path) -> None:
        assert self.refusal("PORT", secret) == (
            "PORT must be a whole number, at least 1, not 'from-a-file-0123456789'."
        )

    def test_a_survey_counts_a_bad_one_among_the_faults_of_its_variable(self, tmp_path: Path) -> None:
        found = survey({**NEEDED, "KOMMO_ACCESS_TOKEN": "", "KOMMO_ACCESS_TOKEN_FILE": str(tmp_path)})
        assert [fault.variable for fault in found.faults_of(KOMMO_ACCESS)] == ["KOMMO_ACCESS_TOKEN_FILE"]
        assert found.faults_of(["PORT"]) == ()


class TestDotenv:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)

    def write(self, content: str, encoding: str = "utf-8") -> None:
        Path(".env").write_text(content, encoding=encoding)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_it_is_read_from_the_working_directory(self, encoding: str) -> None:
        self.write(
            f"KOMMO_SUBDOMAIN=acme\nKOMMO_ACCESS_TOKEN='a${{b}}'\n# PORT=1\nKOMMO_WEBHOOK_SECRET={SECRET}\n",
            encoding,
        )
        settings = load()
        assert (settings.kommo_subdomain, settings.kommo_access_token, settings.web_port) == ("acme", "a${b}", 8000)

    def test_the_real_environment_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(f"KOMMO_SUBDOMAIN=acme\nKOMMO_ACCESS_TOKEN=t\nKOMMO_WEBHOOK_SECRET={SECRET}\n")
        monkeypatch.setenv("KOMMO_SUBDOMAIN", "north")
        assert load().kommo_subdomain == "north"

    def test_a_file_that_it_names_is_read(self) -> None:
        Path("token").write_text("token-2\n")
        self.write(f"KOMMO_SUBDOMAIN=acme\nKOMMO_ACCESS_TOKEN_FILE=./token\nKOMMO_WEBHOOK_SECRET={SECRET}\n")
        assert load().kommo_access_token == "token-2"

    def test_a_file_that_the_environment_names_does_not_win_over_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(f"KOMMO_SUBDOMAIN=acme\nKOMMO_ACCESS_TOKEN=t\nKOMMO_WEBHOOK_SECRET={SECRET}\n")
        monkeypatch.setenv("KOMMO_ACCESS_TOKEN_FILE", "./token")
        with pytest.raises(SettingsError, match="are both set: keep one of them"):
            load()

    def test_a_line_that_cannot_be_understood_is_named(self) -> None:
        self.write("KOMMO_SUBDOMAIN=acme\nKOMMO_ACCESS_TOKEN='never closed\n")
        with pytest.raises(SettingsError, match=re.escape(".env line 2 cannot be understood")):
            load()

    def test_another_encoding_is_named(self) -> None:
        self.write("KOMMO_SUBDOMAIN=größe\n", "latin-1")
        with pytest.raises(SettingsError, match="save it as UTF-8 text"):
            load()

    def test_a_survey_names_the_file_alone_when_it_cannot_be_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write("KOMMO_ACCESS_TOKEN='never closed\n")
        monkeypatch.setenv("KOMMO_SUBDOMAIN", "acme")
        found = survey()
        assert [fault.variable for fault in found.faults] == [DOTENV]
        assert found.faults_of(["KOMMO_SUBDOMAIN"]) == found.faults
        assert found.settings.kommo_subdomain == "acme"

    def test_the_example_loads_once_the_required_ones_are_filled_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(EXAMPLE.read_text(encoding="utf-8"))
        for name, value in NEEDED.items():
            monkeypatch.setenv(name, value)
        assert load() == load(NEEDED)


def test_the_example_names_every_variable_and_no_other() -> None:
    names = re.findall(r"^([A-Z_]+)=", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert names == list(VARIABLES)
