"""Settings: the environment, read once, checked, and frozen. The only reader of os.environ."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dotenv.parser import parse_stream

from app.events import PLATFORMS, Access, Source
from app.ids import LARGEST_ID

OTHERS = tuple(platform for platform in PLATFORMS if platform not in (Source.ENCHARGE, Source.ORTTO))
"""The platforms without settings of their own: a key, a secret and an address, named after them."""

VARIABLES = (
    "KOMMO_SUBDOMAIN",
    "KOMMO_DOMAIN",
    "KOMMO_ACCESS_TOKEN",
    "KOMMO_CLIENT_ID",
    "KOMMO_CLIENT_SECRET",
    "KOMMO_REDIRECT_URI",
    "KOMMO_API_URL",
    "KOMMO_WEBHOOK_SECRET",
    "KOMMO_RATE_LIMIT",
    "KOMMO_CF_EMAIL_ACTIVITY",
    "KOMMO_CF_EMAIL_STATUS",
    "ENCHARGE_API_KEY",
    "ENCHARGE_WRITE_KEY",
    "ENCHARGE_WEBHOOK_SECRET",
    "ENCHARGE_DIALECT",
    "ENCHARGE_EVENTS",
    "ENCHARGE_API_URL",
    "ENCHARGE_INGEST_URL",
    "ORTTO_API_KEY",
    "ORTTO_WEBHOOK_SECRET",
    "ORTTO_REGION",
    "ORTTO_API_URL",
    *(f"{platform.name}_{rest}" for platform in OTHERS for rest in ("API_KEY", "WEBHOOK_SECRET", "API_URL")),
    "DATABASE_URL",
    "MAPPING_FILE",
    "OPS_TOKEN",
    "REPLY_BUDGET_SECONDS",
    "RETENTION_DAYS",
    "RECONCILE_MINUTES",
    "PUBLIC_URL",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "LOG_EMAILS",
    "ALERT_WEBHOOK_URL",
    "OVERDUE_MINUTES",
    "WEB_THREADS",
    "HOST",
    "PORT",
    "TRUSTED_PROXIES",
)
"""Every variable that is read, in the order of .env.example."""

FILES = {f"{name}_FILE": name for name in VARIABLES}
"""For each variable another one, which may name a file that holds the value in its place (Docker's secrets)."""

ORTTO_HOSTS = {
    "api": "https://api.ap3api.com/v1",
    "us": "https://api.ap3api.com/v1",
    "api.eu": "https://api.eu.ap3api.com/v1",
    "eu": "https://api.eu.ap3api.com/v1",
    "api.au": "https://api.au.ap3api.com/v1",
    "au": "https://api.au.ap3api.com/v1",
}
"""A key works on its own region's host only. Reference: https://help.ortto.com/a-257-create-or-update-one-or-more-people-merge"""

KOMMO_OAUTH = ("KOMMO_CLIENT_ID", "KOMMO_CLIENT_SECRET", "KOMMO_REDIRECT_URI")
KOMMO_ACCESS = (
    "KOMMO_SUBDOMAIN",
    "KOMMO_DOMAIN",
    "KOMMO_API_URL",
    "KOMMO_ACCESS_TOKEN",
    *KOMMO_OAUTH,
    "KOMMO_RATE_LIMIT",
)
ENCHARGE_ACCESS = ("ENCHARGE_API_KEY", "ENCHARGE_DIALECT", "ENCHARGE_API_URL")
ORTTO_ACCESS = ("ORTTO_API_KEY", "ORTTO_REGION", "ORTTO_API_URL")
ACCESS: Mapping[Source, tuple[str, ...]] = {
    Source.KOMMO: KOMMO_ACCESS,
    Source.ENCHARGE: ENCHARGE_ACCESS,
    Source.ORTTO: ORTTO_ACCESS,
    **{platform: (f"{platform.name}_API_KEY", f"{platform.name}_API_URL") for platform in OTHERS},
}
"""What must be right before a vendor's API can be called."""

DOTENV = ".env"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SHORTEST_SECRET = 16

# Kubernetes puts these into every pod beside a Service whose name begins like our variables (`kommo-relay`).
_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_KOMMO_HOST = re.compile(rf"({_LABEL.pattern})\.(kommo\.com|amocrm\.com|amocrm\.ru)")
_PASSWORD = re.compile(r"(?:://[^/:@]*:|[?&](?:ssl)?password=)([^&]+?)(?=@|&|$)")  # in the address of a database
_MAKE_ONE = "make one with `openssl rand -hex 24`"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, in a sentence that begins with what it is wrong with."""

    sentence: str

    @property
    def variable(self) -> str:
        """Return the name of the variable, or DOTENV for the file."""
        return self.sentence.partition(" ")[0]

    @property
    def setting(self) -> str:
        """Return the variable; of one that names a file, the one whose value the file holds."""
        return FILES.get(self.variable, self.variable)


class SettingsError(Exception):
    """Settings with which the service must not start. `faults`: one sentence each."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class KommoApp:
    """The integration in whose name tokens are got by OAuth, in place of a long-lived one."""

    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str


@dataclass(frozen=True)
class Settings:
    """What the service was told. Secrets stay out of its repr; `None` means switched off."""

    kommo_api_url: str  # without /api/v4
    kommo_subdomain: str | None  # None when only KOMMO_API_URL is known
    kommo_access_token: str = field(repr=False)  # '' with kommo_app
    kommo_app: KommoApp | None
    kommo_webhook_secrets: tuple[str, ...] = field(repr=False)
    kommo_rate_limit: float  # requests a second, over all processes
    kommo_cf_email_activity: int | None
    kommo_cf_email_status: int | None
    encharge_api_key: str | None = field(repr=False)
    encharge_write_key: str | None = field(repr=False)
    encharge_webhook_secrets: tuple[str, ...] = field(repr=False)
    encharge_dialect: str  # documented, article
    encharge_events: str  # ingest, tag
    encharge_api_url: str  # with /v1
    encharge_ingest_url: str  # with /v1
    ortto_api_key: str | None = field(repr=False)
    ortto_webhook_secrets: tuple[str, ...] = field(repr=False)
    ortto_api_url: str  # with /v1
    database_url: str = field(repr=False)  # may hold a password
    mapping_file: Path
    ops_tokens: tuple[str, ...] = field(repr=False)
    reply_budget_seconds: float
    retention_days: int
    reconcile_minutes: int  # 0: never by itself
    public_url: str | None  # without a slash at the end
    log_level: str  # upper case
    log_format: str  # json, console
    log_emails: str  # masked, full
    alert_webhook_url: str | None = field(repr=False)  # such an address is a secret
    overdue_minutes: int
    web_threads: int
    web_host: str
    web_port: int
    trusted_proxies: int  # whose X-Forwarded-For and X-Forwarded-Proto are believed; 0: nobody's
    others: Mapping[Source, Access] = field(default_factory=dict)

    @property
    def platforms(self) -> Mapping[Source, Access]:
        """Return how each platform is reached, those that are off too."""
        more = {
            "dialect": self.encharge_dialect,
            "ingest_url": self.encharge_ingest_url,
            "write_key": self.encharge_write_key or "",
        }
        return {
            Source.ENCHARGE: Access(
                self.encharge_api_key, self.encharge_webhook_secrets, self.encharge_api_url, more
            ),
            Source.ORTTO: Access(self.ortto_api_key, self.ortto_webhook_secrets, self.ortto_api_url),
            **self.others,
        }

    @property
    def hidden(self) -> tuple[str, ...]:
        """Return all that must never be seen: secrets, keys, and the password of the database."""
        passwords = _PASSWORD.findall(self.database_url)
        alerts = urlsplit(self.alert_webhook_url or "")
        values = (
            self.kommo_access_token,
            self.kommo_app.client_secret if self.kommo_app else None,
            *self.kommo_webhook_secrets,
            self.encharge_write_key,
            *(secret for access in self.platforms.values() for secret in (access.api_key, *access.webhook_secrets)),
            *self.ops_tokens,
            *passwords,
            *map(unquote, passwords),
            alerts.path.strip("/"),
            alerts.query,
        )
        return tuple(dict.fromkeys(value for value in values if value))

    @property
    def mapping_variables(self) -> Mapping[str, int | None]:
        """Return what the mapping file may name with a `$`: ids of the deal's custom fields."""
        return {
            "KOMMO_CF_EMAIL_ACTIVITY": self.kommo_cf_email_activity,
            "KOMMO_CF_EMAIL_STATUS": self.kommo_cf_email_status,
        }


@dataclass(frozen=True)
class Survey:
    """The settings as far as they could be read, and what is wrong; what is not right stands at its default."""

    settings: Settings
    faults: tuple[Fault, ...]

    def faults_of(self, variables: Collection[str]) -> tuple[Fault, ...]:
        """Return what is wrong with some variables, and what may be the reason: the file, and names with a typo."""
        wrong = {fault.setting for fault in self.faults}
        if not wrong & {*variables, DOTENV}:
            return ()
        return tuple(fault for fault in self.faults if fault.setting in variables or fault.setting not in VARIABLES)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check all settings; without `environ`, from `.env` here and from the real environment.

    The real environment wins over `.env`. A blank value counts as unset. Raises SettingsError with every fault.
    """
    found = survey(environ)
    if found.faults:
        raise SettingsError(tuple(fault.sentence for fault in found.faults))
    return found.settings


def survey(environ: Mapping[str, str] | None = None) -> Survey:
    """Read all settings as `load` does, and tell what is wrong in place of refusing it."""
    broken: tuple[Fault, ...] = ()
    if environ is None:
        try:
            environ = {**_dotenv(Path(DOTENV)), **os.environ}
        except SettingsError as error:
            environ = os.environ
            broken = tuple(Fault(sentence) for sentence in error.faults)
    reader = _Reader(environ)
    settings = _read(reader)
    reader.refuse_strangers()
    # What `.env` would have set is not missing: only its own faults are worth a word.
    return Survey(settings, broken or tuple(map(Fault, reader.faults)))


def _dotenv(path: Path) -> dict[str, str]:
    """Read a .env file as it is written: no `${…}`, and no line is passed over in silence."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError((f"{path} cannot be read ({error}): save it as UTF-8 text.",)) from error
    faults = tuple(
        f"{path} line {binding.original.line} cannot be understood: write NAME=value, with closed quotes."
        for binding in bindings
        if binding.error
    )
    if faults:
        raise SettingsError(faults)
    return {binding.key: binding.value or "" for binding in bindings if binding.key}


def _read(reader: _Reader) -> Settings:
    api_url, subdomain = _kommo(reader)
    settings = Settings(
        kommo_api_url=api_url,
        kommo_subdomain=subdomain,
        kommo_access_token=reader.token("KOMMO_ACCESS_TOKEN") or "",
        kommo_app=_kommo_app(reader),
        kommo_webhook_secrets=reader.secrets("KOMMO_WEBHOOK_SECRET"),
        kommo_rate_limit=_rate_limit(reader),
        kommo_cf_email_activity=reader.id("KOMMO_CF_EMAIL_ACTIVITY"),
        kommo_cf_email_status=reader.id("KOMMO_CF_EMAIL_STATUS"),
        encharge_api_key=reader.token("ENCHARGE_API_KEY"),
        encharge_write_key=reader.token("ENCHARGE_WRITE_KEY"),
        encharge_webhook_secrets=reader.secrets("ENCHARGE_WEBHOOK_SECRET"),
        encharge_dialect=reader.choice("ENCHARGE_DIALECT", "documented", ("documented", "article")),
        encharge_events=reader.choice("ENCHARGE_EVENTS", "ingest", ("ingest", "tag")),
        encharge_api_url=reader.url("ENCHARGE_API_URL", "https://api.encharge.io/v1"),
        encharge_ingest_url=reader.url("ENCHARGE_INGEST_URL", "https://ingest.encharge.io/v1"),
        ortto_api_key=reader.token("ORTTO_API_KEY"),
        ortto_webhook_secrets=reader.secrets("ORTTO_WEBHOOK_SECRET"),
        ortto_api_url=_ortto_url(reader),
        database_url=_database_url(reader),
        mapping_file=Path(reader.text("MAPPING_FILE", "config/mapping.yaml")),
        ops_tokens=reader.passwords("OPS_TOKEN"),
        reply_budget_seconds=_reply_budget(reader),
        retention_days=reader.whole("RETENTION_DAYS", 30, lowest=1),
        reconcile_minutes=reader.whole("RECONCILE_MINUTES", 5, lowest=0),
        public_url=(reader.url("PUBLIC_URL", "") or None) if reader.text("PUBLIC_URL") else None,
        log_level=reader.choice("LOG_LEVEL", "INFO", LOG_LEVELS),
        log_format=reader.choice("LOG_FORMAT", "json", ("json", "console")),
        log_emails=reader.choice("LOG_EMAILS", "masked", ("masked", "full")),
        alert_webhook_url=reader.address("ALERT_WEBHOOK_URL"),
        overdue_minutes=reader.whole("OVERDUE_MINUTES", 15, lowest=1),
        web_threads=reader.whole("WEB_THREADS", 32, lowest=4),
        web_host=reader.text("HOST", "0.0.0.0"),  # noqa: S104  # a container is reached from outside
        web_port=_port(reader),
        trusted_proxies=reader.whole("TRUSTED_PROXIES", 0, lowest=0),
        others={platform: _access(reader, platform.name) for platform in OTHERS},
    )
    _require(reader, settings)
    return settings


def _require(reader: _Reader, settings: Settings) -> None:
    """Ask for what other settings make necessary."""
    if not any(map(reader.has, ("KOMMO_ACCESS_TOKEN", *KOMMO_OAUTH))):
        reader.fault(
            "KOMMO_ACCESS_TOKEN is not set: put the long-lived token of your private integration there "
            "(Kommo: Settings, Integrations, Keys and scopes)."
        )
    if not reader.has("KOMMO_WEBHOOK_SECRET"):
        reader.fault(
            f"KOMMO_WEBHOOK_SECRET is not set: {_MAKE_ONE} and end the webhook's URL in Kommo with it, "
            "/webhooks/kommo/<secret>; or let `flask setup --write-env` do both."
        )
    for vendor in (platform.name for platform in PLATFORMS):
        if reader.has(f"{vendor}_API_KEY") and not reader.has(f"{vendor}_WEBHOOK_SECRET"):
            reader.fault(
                f"{vendor}_WEBHOOK_SECRET is not set, but {vendor}_API_KEY is: {_MAKE_ONE} and send it along "
                f"with {vendor.title()}'s webhooks; or let `flask setup --write-env` make it and say where it goes."
            )
    encharge_on = reader.has("ENCHARGE_API_KEY")
    if reader.has("ENCHARGE_WRITE_KEY") and not encharge_on:
        reader.fault(
            "ENCHARGE_WRITE_KEY is set, but ENCHARGE_API_KEY is not: set both, or neither to leave Encharge off."
        )
    ingests = settings.encharge_events == "ingest" and settings.encharge_dialect == "documented"
    if encharge_on and ingests and not reader.has("ENCHARGE_WRITE_KEY"):
        reader.fault(
            "ENCHARGE_WRITE_KEY is not set, but ENCHARGE_API_KEY is: events go through the Ingest API, which wants "
            "the write key. Set it, or set ENCHARGE_EVENTS=tag if your plan has no API events."
        )


def _access(reader: _Reader, vendor: str) -> Access:
    url = f"{vendor}_API_URL"
    return Access(
        reader.token(f"{vendor}_API_KEY"),
        reader.secrets(f"{vendor}_WEBHOOK_SECRET"),
        reader.url(url, "") if reader.has(url) else None,
    )


def _kommo(reader: _Reader) -> tuple[str, str | None]:
    """Return Kommo's base URL and the account's subdomain."""
    subdomain, domain = _kommo_subdomain(reader), _kommo_domain(reader)
    label = domain.partition(".")[0] if domain else None
    if subdomain and label and subdomain != label:
        reader.fault(
            f"KOMMO_SUBDOMAIN is {subdomain!r}, but KOMMO_DOMAIN is {domain!r}: they name two accounts; keep one."
        )
    if not any(map(reader.has, ("KOMMO_SUBDOMAIN", "KOMMO_DOMAIN", "KOMMO_API_URL"))):
        reader.fault("KOMMO_SUBDOMAIN is not set: write `acme` if your Kommo is at acme.kommo.com.")
    url = reader.url("KOMMO_API_URL", f"https://{domain or f'{subdomain}.kommo.com'}")
    if "/api/v4" in url:
        reader.fault("KOMMO_API_URL must not hold /api/v4: drop that part, it is added for each call.")
    return url, label or subdomain


def _kommo_app(reader: _Reader) -> KommoApp | None:
    """Return the integration for OAuth: all of it is set, or nothing, and then there is no long-lived token."""
    values = [reader.token(name) or "" for name in KOMMO_OAUTH]
    found = [name for name, value in zip(KOMMO_OAUTH, values, strict=True) if value]
    if not found:
        return None
    for name in KOMMO_OAUTH:
        if not reader.has(name):
            reader.fault(f"{name} is not set, but {found[0]} is: set all of {', '.join(KOMMO_OAUTH)}, or none.")
    if values[2] and not _is_base_url(values[2].partition("?")[0]):
        reader.fault(
            "KOMMO_REDIRECT_URI must be the integration's redirect address, to the letter, like "
            "https://relay.example.com/kommo: copy it from there."
        )
    if reader.has("KOMMO_ACCESS_TOKEN"):
        reader.fault(
            f"KOMMO_ACCESS_TOKEN is set, and so is {found[0]}: nobody could tell which is to be used. Keep the "
            f"long-lived token, or {', '.join(KOMMO_OAUTH)} for `flask kommo login`."
        )
    return KommoApp(*values)


def _kommo_subdomain(reader: _Reader) -> str | None:
    value = reader.text("KOMMO_SUBDOMAIN").lower()
    if not value or _LABEL.fullmatch(value):
        return value or None
    host = _KOMMO_HOST.match(value.partition("://")[2] or value)
    example = host[1] if host else "acme"
    reader.fault(
        f"KOMMO_SUBDOMAIN must be the bare name, not {value!r}: write `{example}` for {example}.kommo.com."
    )
    return None


def _kommo_domain(reader: _Reader) -> str | None:
    value = reader.text("KOMMO_DOMAIN").lower()
    if not value or _KOMMO_HOST.fullmatch(value):
        return value or None
    reader.fault(
        f"KOMMO_DOMAIN must be a host like acme.kommo.com (or ….amocrm.com, ….amocrm.ru), not {value!r}: "
        "write no https:// and no path."
    )
    return None


def _rate_limit(reader: _Reader) -> float:
    value = reader.number("KOMMO_RATE_LIMIT", 7.0)
    if not 0 < value <= 50:
        reader.fault("KOMMO_RATE_LIMIT must be more than 0 and at most 50 requests a second; Kommo allows 7.")
    return value


def _reply_budget(reader: _Reader) -> float:
    value = reader.number("REPLY_BUDGET_SECONDS", 1.5)
    if not 0 <= value <= 1.9:
        reader.fault("REPLY_BUDGET_SECONDS must be between 0 and 1.9: Kommo gives up on an answer after 2 seconds.")
    return value


def _port(reader: _Reader) -> int:
    value = reader.whole("PORT", 8000, lowest=1)
    if value > 65535:
        reader.fault("PORT must be at most 65535.")
    return value


def _ortto_url(reader: _Reader) -> str:
    region = reader.choice("ORTTO_REGION", "api", tuple(ORTTO_HOSTS))
    return reader.url("ORTTO_API_URL", ORTTO_HOSTS[region])


def _database_url(reader: _Reader) -> str:
    value = reader.text("DATABASE_URL", "sqlite:///data/journal.db")
    if value.startswith("postgresql://"):
        return value
    if not value.startswith("sqlite:///"):
        reader.fault("DATABASE_URL must begin with sqlite:/// (and a file's path) or with postgresql://.")
    elif value.removeprefix("sqlite:///").partition("?")[0] in ("", ":memory:"):
        reader.fault(
            "DATABASE_URL must name a file, as in sqlite:///data/journal.db: "
            "what is only in memory is lost at a restart."
        )
    return value


class _Reader:
    """Takes values by name and gathers what is wrong with them, so that all is said at once.

    After a fault it goes on with the default. Values of secrets and URLs are never repeated in a fault.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {name: value.strip() for name, value in environ.items() if value.strip()}
        self.faults: list[str] = []
        self._unread: set[str] = set()  # set by a file that holds no value
        for variable, name in FILES.items():
            if variable in self._values:
                self._take_from_file(name, variable, self._values.pop(variable))

    def _take_from_file(self, name: str, variable: str, path: str) -> None:
        """Take a variable's value from the file that another one names, without the white space around it."""
        if name in self._values:
            self.fault(f"{name} and {variable} are both set: keep one of them.")
            return
        self._unread.add(name)
        # Who put the value itself there does not want to read it in a log.
        shown = path if "/" in path and "://" not in path else "a file"
        try:
            value = Path(path).read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError:
            self.fault(f"{variable} names {shown}, which is not UTF-8 text: save it as such.")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.fault(
                f"{variable} names {shown}, which cannot be read ({reason}): correct the path, and let the "
                "service's user read the file."
            )
        else:
            if value:
                self._values[name] = value
            else:
                self.fault(f"{variable} names {shown}, which is blank: put the value there, and nothing else.")

    def fault(self, sentence: str) -> None:
        """Write down one thing that is wrong."""
        self.faults.append(sentence)

    def has(self, name: str) -> bool:
        """Say whether a variable is set and not blank, or was to be."""
        return name in self._values or name in self._unread

    def text(self, name: str, default: str = "") -> str:
        """Return a variable as it stands."""
        return self._values.get(name, default)

    def token(self, name: str) -> str | None:
        """Return a key or token: visible ASCII without spaces, or it could not travel in a header."""
        value = self.text(name)
        if value and not re.fullmatch(r"[!-~]+", value):
            self.fault(f"{name} holds a space or a character that no token has: copy it again, and nothing else.")
        return value or None

    def secrets(self, name: str) -> tuple[str, ...]:
        """Return one or more secrets; all are valid, so that one can be replaced without a gap."""
        if not self.text(name):
            return ()
        secrets = tuple(part.strip() for part in self.text(name).split(",") if part.strip())
        if not secrets or any(len(secret) < SHORTEST_SECRET for secret in secrets):
            self.fault(f"{name} is shorter than {SHORTEST_SECRET} characters: {_MAKE_ONE}.")
        # Kommo can send its secret only as a part of the URL.
        if any(not re.fullmatch(r"[A-Za-z0-9._~-]*", secret) for secret in secrets):
            self.fault(
                f"{name} may hold only letters, digits and . _ ~ - (it can be a part of a URL): {_MAKE_ONE}."
            )
        return secrets

    def passwords(self, name: str) -> tuple[str, ...]:
        """Return one or more secrets for people and machines of ours: as long as a webhook's, fit for a header."""
        values = tuple(part for part in (self.token(name) or "").split(",") if part)
        if self.text(name) and (not values or any(len(value) < SHORTEST_SECRET for value in values)):
            self.fault(f"{name} is shorter than {SHORTEST_SECRET} characters: {_MAKE_ONE}.")
        return values

    def number(self, name: str, default: float) -> float:
        """Return a number, with or without a fraction."""
        value = self.text(name)
        if re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,12})?", value):
            return float(value)
        if value:
            self.fault(f"{name} must be a number like {default:g}, not {value!r}.")
        return default

    def whole(self, name: str, default: int, lowest: int) -> int:
        """Return a whole number that is not below `lowest`."""
        value = self.text(name)
        if not value:
            return default
        if re.fullmatch(r"[0-9]{1,9}", value) and int(value) >= lowest:
            return int(value)
        self.fault(f"{name} must be a whole number, at least {lowest}, not {value!r}.")
        return default

    def id(self, name: str) -> int | None:
        """Return the id of a Kommo field."""
        value = self.text(name)
        if not value:
            return None
        if re.fullmatch(r"[0-9]{1,19}", value) and 0 < int(value) <= LARGEST_ID:
            return int(value)
        self.fault(f"{name} must be the id of a deal's custom field, a whole number, not {value!r}.")
        return None

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """Return one of a few words, whatever its case."""
        value = self.text(name, default)
        for choice in choices:
            if value.lower() == choice.lower():
                return choice
        self.fault(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
        return default

    def url(self, name: str, default: str) -> str:
        """Return the base of an API without the trailing slash."""
        value = self.text(name, default)
        if not _is_base_url(value):
            self.fault(
                f"{name} must be a plain http:// or https:// address with a host and nothing after the path, "
                "like https://api.example.com/v1."
            )
            return default
        return value.rstrip("/")

    def address(self, name: str) -> str | None:
        """Return an address to post to, which may hold a query; None if it is not set."""
        value = self.text(name)
        if not value:
            return None
        if not _is_base_url(value.partition("?")[0]) or not re.fullmatch(r"[!-~]+", value) or "#" in value:
            self.fault(
                f"{name} must be an http:// or https:// address with a host, like "
                "https://hooks.slack.com/services/…: copy it again, and nothing else."
            )
            return None
        return value

    def refuse_strangers(self) -> None:
        """Refuse variables that look like ours and are not: a typo must not pass in silence."""
        for name in sorted(self._values):
            ours = name in VARIABLES or not name.startswith(tuple(f"{source.name}_" for source in Source))
            if ours or _KUBERNETES.search(name):
                continue
            near = difflib.get_close_matches(name, (*VARIABLES, *FILES), n=1)
            advice = f"did you mean {near[0]}?" if near else "remove it, or see .env.example for the names."
            self.fault(f"{name} is not a setting: {advice}")


def _is_base_url(value: str) -> bool:
    """Say whether a value is http(s) with a host, without user, query and fragment."""
    if not re.fullmatch(r"[!-~]+", value) or set(value) & set("?#@"):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
