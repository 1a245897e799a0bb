"""The compose files: what can be said of them without Docker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values
from support import ROOT

from app.settings import FILES, load

FILE, POSTGRES = "compose.yaml", "compose.postgres.yaml"
OURS = {FILE: {"relay"}, POSTGRES: {"web-1", "web-2", "worker"}}
NGINX = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
CADDY = (ROOT / "deploy" / "Caddyfile").read_text(encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return found


SERVICES = [
    pytest.param(name, service, id=f"{name}: {service}") for name in OURS for service in read(name)["services"]
]


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_every_service_can_do_no_more_than_it_must(name: str, service: str) -> None:
    told = read(name)["services"][service]
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["restart"] == "unless-stopped"
    assert {"privileged", "pid", "network_mode", "userns_mode"} & told.keys() == set()
    assert told["logging"]["options"].keys() == {"max-size", "max-file"}
    assert re.fullmatch(r"kommo-relay|\w+:[\d.]+(-alpine)?", told["image"]), "of no version"


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_every_service_is_looked_after(name: str, service: str) -> None:
    told = read(name)["services"][service]
    if service in OURS[name]:  # the image has a check, which asks a web server
        assert told.get("healthcheck") == ({"disable": True} if service == "worker" else None)
        assert told["stop_grace_period"] == "40s"  # more than gunicorn's
    else:
        assert told["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", OURS)
def test_what_is_named_is_declared_and_what_is_declared_is_used(name: str) -> None:
    told = read(name)
    for kind in ("volumes", "secrets"):
        used = {
            item.partition(":")[0]
            for service in told["services"].values()
            for item in service.get(kind, ())
            if not item.startswith("./")
        }
        assert used == told[kind].keys()
    for service in told["services"].values():
        for source in (item.partition(":")[0] for item in service.get("volumes", ()) if item.startswith("./")):
            assert source == "./secrets/tls" or (ROOT / source).is_file(), source
        assert service.get("depends_on", {}).keys() <= told["services"].keys()
    assert {item["file"] for item in told["secrets"].values()} == {
        f"secrets/{secret}" for secret in told["secrets"]
    }
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", OURS)
def test_our_services_would_start_with_these_settings(name: str, tmp_path: Path) -> None:
    for service in sorted(OURS[name]):
        told = read(name)["services"][service]
        example = dotenv_values(ROOT / ".env.example", interpolate=False)
        environ = {**{key: value or "" for key, value in example.items()}, "KOMMO_SUBDOMAIN": "acme"}
        for variable, value in told["environment"].items():
            if variable in FILES:
                secret = value.removeprefix("/run/secrets/")
                assert secret == FILES[variable].lower()
                assert secret in told["secrets"]
                path = tmp_path / secret
                url = "postgresql://relay:password@db/relay"
                path.write_text(url if secret == "database_url" else "a-secret-0123456789")
                environ[variable] = str(path)
            else:
                environ[variable] = value
        assert {f"{secret.upper()}_FILE" for secret in told["secrets"]} == environ.keys() & FILES.keys()
        settings = load(environ)
        assert settings.trusted_proxies == 1
        assert settings.encharge_api_key
        assert settings.ortto_api_key
        # The journal is where it is kept.
        if name == FILE:
            assert settings.database_url == "sqlite:///data/journal.db"
            assert "journal:/srv/data" in told["volumes"]
        else:
            assert settings.database_url == url
            assert told["tmpfs"] == ["/srv/data"]


def test_the_two_replicas_differ_in_nothing_but_their_address() -> None:
    services = read(POSTGRES)["services"]
    without = [
        {key: value for key, value in services[web].items() if key != "networks"} for web in ("web-1", "web-2")
    ]
    assert without[0] == without[1]
    assert services["worker"]["command"] == ["flask", "work"]


def test_nginx_asks_the_replicas_and_knows_them_also_while_they_are_down() -> None:
    services = read(POSTGRES)["services"]
    addresses = {name: service["networks"]["relay"]["ipv4_address"] for name, service in services.items()}
    assert len(set(addresses.values())) == len(services)
    upstreams = re.findall(r"^\s+server ([\w-]+):8000 ", NGINX, re.MULTILINE)
    assert upstreams == ["web-1", "web-2"]
    assert services["nginx"]["extra_hosts"] == [f"{name}:{addresses[name]}" for name in upstreams]


def test_the_proxies_find_their_files_and_write_only_where_they_may() -> None:
    nginx = read(POSTGRES)["services"]["nginx"]
    places = [item.split(":")[1] for item in nginx["volumes"]]
    assert places == ["/etc/nginx/nginx.conf", "/etc/nginx/certs", "/var/www/acme"]
    assert nginx["tmpfs"] == ["/run/nginx"]
    named = set(re.findall(r"(?<![\w\]])(/(?:etc|run|var)/[\w./-]+)", re.sub(r"#.*", "", NGINX)))
    allowed = (*places[1:], *nginx["tmpfs"])
    assert [path for path in named if not path.startswith(allowed)] == []
    caddy = read(FILE)["services"]["caddy"]
    assert caddy["profiles"] == ["proxy"]
    assert "{$RELAY_DOMAIN}" in CADDY
    assert caddy["environment"].keys() == {"RELAY_DOMAIN"}
    assert "reverse_proxy relay:8000" in CADDY
