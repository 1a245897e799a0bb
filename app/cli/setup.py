"""`flask setup`: make in the vendors' accounts what the service writes to."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import click

from app import dotenv_file, files, mapping, setup
from app.cli import handwork
from app.cli.desk import Desk
from app.events import PLATFORMS, Source
from app.files import FileError
from app.mapping import MappingError, Rules
from app.settings import ACCESS, DOTENV
from app.setup import Work

SECRETS = {source: f"{source.name}_WEBHOOK_SECRET" for source in Source}
SECRET_BYTES = 24
BOM = "\ufeff"
NOWHERE = "https://<PUBLIC_URL>"
ROW = "  {:<6} {}"


def make_command(ask_desk: Callable[[], Desk]) -> click.Command:
    """Build the command."""

    @click.command("setup")
    @click.option("--dry-run", is_flag=True, help="Only show what would be made.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @click.option("--write-env", is_flag=True, help="Set ids, and secrets that are missing, in .env.")
    @click.option("--show-secrets", is_flag=True, help="Print the secrets in what is to be pasted.")
    def setup_(dry_run: bool, yes: bool, write_env: bool, show_secrets: bool) -> None:
        """Make what is missing at Kommo, Encharge and Ortto, and say what is left for you to do.

        Kommo: the webhook (needs PUBLIC_URL) and the deal's fields. Encharge: the person's fields. Ortto: the
        person's fields and the activity. Fields that the mapping file names are made too. What is there is left as
        it is, so it can be run again at any time.

        With --write-env a webhook's secret that is not set is made, and the ids of the deal's fields are set, in
        .env; other lines stay. The exit code is 1 if something is left that could not be made.

        \b
        flask setup --dry-run
        flask setup --write-env
        flask setup --dry-run --show-secrets
        """
        run = _Run(ask_desk(), write_env=write_env, show_secrets=show_secrets)
        run.look()
        run.show_plan()
        if dry_run:
            run.say("Nothing was made.")
        elif not run.has_work:
            run.say_nothing_to_do()
        else:
            if not yes:
                click.confirm("Do this?", abort=True)
            run.carry_out()
        run.hand_over()
        if not run.well:
            sys.exit(1)

    return setup_


class _Run:
    """One run of the command. `well`: whether all is there, or made."""

    def __init__(self, desk: Desk, *, write_env: bool, show_secrets: bool) -> None:
        self._desk = desk
        self._told = told = desk.survey.settings
        self._write_env = write_env
        self._show_secrets = show_secrets
        self._secrets = {Source.KOMMO: told.kommo_webhook_secrets}
        self._secrets |= {platform: access.webhook_secrets for platform, access in told.platforms.items()}
        self._on = {Source.KOMMO: True}
        self._on |= {platform: bool(access.api_key) for platform, access in told.platforms.items()}
        self._new_secrets: dict[str, str] = {}
        self._unwritten: set[str] = set()
        self._works: list[Work] = []
        self._troubles: list[str] = []
        self.well = True

    @property
    def has_work(self) -> bool:
        """Say whether there is anything to do."""
        in_file = self._new_secrets or self._known_variables()
        return any(work.steps for work in self._works) or bool(self._write_env and in_file)

    def _known_variables(self) -> dict[str, str]:
        """Return the settings that must hold an id of what is there already, and do not."""
        return {name: value for work in self._works for name, value in work.variables.items()}

    def say(self, line: str = "") -> None:
        """Print a line, with secrets only if they were asked for, and are written down."""
        for vendor, known in self._secrets.items():
            for secret in known:
                if not self._show_secrets or secret in self._unwritten:
                    line = line.replace(secret, f"<{SECRETS[vendor]}>")
        click.echo(line)

    def say_nothing_to_do(self) -> None:
        """Print that all is there, or what keeps it from being so."""
        variables = self._known_variables()
        if variables:
            self._say_variables(variables)
        else:
            self.say("Nothing to do." if self.well else "Nothing that this command can do.")

    # -- looking --

    def look(self) -> None:
        """Find out what is there and what is to be made."""
        if broken := [fault.sentence for fault in self._desk.survey.faults if fault.variable == DOTENV]:
            raise click.ClickException("\n".join(broken))
        for vendor, name in SECRETS.items():
            self._troubles += self._look_at_secret(vendor, name)
        needed = ("PUBLIC_URL", *self._told.mapping_variables)
        self._troubles += [fault.sentence for fault in self._desk.survey.faults if fault.setting in needed]
        rules = self._rules()
        for vendor, access in ACCESS.items():
            if faults := self._desk.survey.faults_of(access):
                self._works.append(Work(vendor, troubles=[fault.sentence for fault in faults]))
            elif self._on[vendor]:
                self._works.append(self._look_at(vendor, rules))
        self.well = not self._troubles and not any(work.troubles for work in self._works)

    def _look_at_secret(self, vendor: Source, name: str) -> Iterator[str]:
        """Yield what is wrong with the secret of a vendor's webhooks; make one if it is not set and may be."""
        faults = [fault for fault in self._desk.survey.faults if fault.setting == name]
        if self._secrets[vendor] or any(fault.variable != name for fault in faults):  # set, be it by a bad file
            self._secrets[vendor] = () if faults else self._secrets[vendor]
            yield from (fault.sentence for fault in faults)
        elif self._on[vendor] and self._write_env:
            self._new_secrets[name] = secrets.token_hex(SECRET_BYTES)
            self._secrets[vendor] = (self._new_secrets[name],)
            self._unwritten.add(self._new_secrets[name])
        elif self._on[vendor]:
            yield f"{name} is not set: --write-env makes one, and writes it into {DOTENV}."

    def _rules(self) -> Rules | None:
        try:
            return mapping.load(self._told.mapping_file, self._told.mapping_variables)
        except MappingError as error:
            self._troubles += [*error.faults, "So the fields that the mapping file names are not looked at."]
            return None

    def _look_at(self, vendor: Source, rules: Rules | None) -> Work:
        if client := self._desk.platforms.get(vendor):
            return setup.platform_work(vendor, client, rules)
        assert self._desk.kommo  # noqa: S101 - nothing is wrong with its settings
        ids, url = self._told.mapping_variables, self._told.public_url
        return setup.kommo_work(self._desk.kommo, rules, ids, self._secrets[Source.KOMMO], url)

    # -- showing --

    def show_plan(self) -> None:
        """Print what is there, what is to be made and what is wrong."""
        for work in self._works:
            self.say(work.vendor.title())
            self._rows("there", work.there)
            self._rows("to do", [step.words for step in work.steps])
            self._rows("wrong", work.troubles)
            self.say()
        for vendor in (vendor for vendor, on in self._on.items() if not on):
            self.say(f"{vendor.title()} is off: {vendor.upper()}_API_KEY is not set.\n")
        lines = [f"{name}={value}" for name, value in self._known_variables().items()]
        if self._troubles or self._new_secrets or lines:
            self.say(f"Settings ({DOTENV})")
            self._rows("to do", [f"make {name}" for name in self._new_secrets])
            self._rows("to do", [f"set {line}" for line in lines])
            self._rows("wrong", self._troubles)
            self.say()

    def _rows(self, mark: str, rows: Sequence[str]) -> None:
        for row in rows:
            self.say(ROW.format(mark, row))

    # -- doing --

    def carry_out(self) -> None:
        """Do what is to be done: secrets first, as Kommo's webhook is made with one."""
        if self._new_secrets:
            self._write(self._new_secrets)
            self._unwritten.clear()
        variables = self._known_variables()
        for work in self._works:
            if work.steps:
                self.say(work.vendor.title())
            variables |= setup.carry_out(work, self._hear)
        if variables and self._write_env:
            self._write(variables)
        elif variables:
            self._say_variables(variables)

    def _say_variables(self, variables: Mapping[str, str]) -> None:
        self.say(f"\nPut this into {DOTENV} (--write-env does it):")
        for name, value in variables.items():
            self.say(f"{name}={value}")

    def _hear(self, words: str, trouble: str) -> None:
        self.well = self.well and not trouble
        self.say(ROW.format("FAILED" if trouble else "done", f"{words}: {trouble}" if trouble else words))

    def _write(self, values: Mapping[str, str]) -> None:
        path = Path(DOTENV)
        try:
            content = path.read_bytes().decode() if path.exists() else ""
            mark, text = (BOM, content[1:]) if content.startswith(BOM) else ("", content)
            new = mark + dotenv_file.with_values(text, values)
            files.replace(path, new.encode(), mode=0o600)
        except (FileError, OSError, ValueError) as error:
            lines = "\n".join(f"{name}={value}" for name, value in values.items() if name not in SECRETS.values())
            raise click.ClickException(f"{DOTENV} was not changed: {error}\n{lines}".rstrip()) from error
        self.say(f"{DOTENV}\n" + ROW.format("done", f"set {', '.join(values)}"))

    # -- what is left --

    def hand_over(self) -> None:
        """Print what only a person can do."""
        url = self._told.public_url or NOWHERE
        for vendor in PLATFORMS:
            if self._on[vendor]:
                secret = next(iter(self._secrets[vendor]), f"<{SECRETS[vendor]}>")
                self.say(f"\nFor you to do at {vendor.title()}")
                for line in handwork.of(vendor, url, secret):
                    self.say(f"  {line}")
