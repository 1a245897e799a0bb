"""`flask stages`: write Kommo's stages into the mapping file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from app import files, mapping
from app.advice import advice
from app.cli.desk import Desk
from app.clients.errors import ApiError
from app.clients.kommo import Pipeline
from app.files import FileError
from app.mapping import MappingError, stage_list
from app.mapping.stage_list import LiveStage, Merged
from app.settings import KOMMO_ACCESS

SHIPPED = Path(__file__).parent.parent.parent / "config" / "mapping.yaml"
BOM = "\ufeff"


def make_command(ask_desk: Callable[[], Desk]) -> click.Command:
    """Build the command."""

    @click.command("stages")
    @click.option("--dry-run", is_flag=True, help="Only show what would be changed.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def stages(dry_run: bool, yes: bool) -> None:
        """Write Kommo's pipelines and stages into the mapping file (MAPPING_FILE), ready to edit.

        Entries and comments that are there stay as they are. A stage that is new gets an entry, with a name made of
        Kommo's. One that Kommo has not any more is marked in a comment. To leave a stage out for good, put a #
        before each line of its entry. If there is no file, it is made, with rules and actions as they are shipped.

        Needs KOMMO_SUBDOMAIN and KOMMO_ACCESS_TOKEN, nothing else.

        \b
        flask stages --dry-run
        flask stages
        """
        desk = ask_desk()
        path = desk.survey.settings.mapping_file
        before, merged, pipelines = _merge(desk, path)
        for line in _report(merged, pipelines):
            click.echo(line)
        if merged.text == before:
            click.echo(f"{path} has all of them: nothing to do.")
            return
        _show(path, None if merged.examples else before, merged.text)
        if dry_run:
            click.echo("Nothing was written.")
            return
        if not yes:
            click.confirm(f"Make {path}?" if before is None else f"Write this into {path}?", abort=True)
        _write(path, merged.text)
        click.echo(f"Written: {path}. Look it through, and restart the service.")

    return stages


def _merge(desk: Desk, path: Path) -> tuple[str | None, Merged, list[Pipeline]]:
    """Return the file's text (None: there is none), the new one, which will be accepted, and what Kommo has."""
    variables = desk.survey.settings.mapping_variables
    if faults := desk.survey.faults_of((*KOMMO_ACCESS, "MAPPING_FILE")):
        raise click.ClickException("\n".join(fault.sentence for fault in faults))
    assert desk.kommo  # noqa: S101 - nothing is wrong with its settings
    try:
        before = _before(path)
        if before is not None:
            mapping.parse(path, before, variables)
        pipelines = desk.kommo.pipelines()
        base = stage_list.fresh(mapping.contents(SHIPPED)) if before is None else before
        merged = stage_list.merge(path, base, list(_live(pipelines)))
        mapping.parse(path, merged.text, variables)
    except MappingError as error:
        raise click.ClickException(f"{error}\nNothing was written.") from error
    except ApiError as error:
        raise click.ClickException(advice(error)) from error
    return before, merged, pipelines


def _write(path: Path, text: str) -> None:
    """Write the text as the file had it: with its byte order mark if it had one."""
    try:
        marked = path.exists() and path.read_bytes().startswith(BOM.encode())
        files.replace(path, ((BOM if marked else "") + text).encode())
    except (FileError, OSError) as error:
        raise click.ClickException(
            f"{error} A file that is mounted into a container read-only must be changed outside of it."
        ) from error


def _before(path: Path) -> str | None:
    """Return the file's text, None if there is none, or nothing in it."""
    try:
        text = mapping.contents(path)
    except MappingError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return text if text.strip() else None


def _live(pipelines: Sequence[Pipeline]) -> Iterator[LiveStage]:
    for pipeline in pipelines:
        for stage in pipeline.stages:
            listed = not (pipeline.archived or stage.incoming)
            yield LiveStage(pipeline.id, pipeline.name, stage.id, stage.name, listed)


def _report(merged: Merged, pipelines: Sequence[Pipeline]) -> Iterator[str]:
    for pipeline in pipelines:
        left_out = " (archived: left out)" if pipeline.archived else ""
        yield f"{stage_list.words(pipeline.name)} ({pipeline.id}): {len(pipeline.stages)} stages{left_out}"
    if merged.examples:
        yield f"The examples of the shipped file are taken out: {', '.join(merged.examples)}."
    if merged.added:
        yield f"New: {len(merged.added)}."
    for stage in merged.commented_out:
        yield f"Commented out, and left so: {stage_list.words(stage.name)} ({stage.status_id})."
    for name in merged.gone:
        yield f"No longer in Kommo: {name}. Its entry stays; delete it if you like."


def _show(path: Path, before: str | None, after: str) -> None:
    """Print what changes; of a list that is new (`before` None) all of it."""
    if before is None:
        _, _, rest = after.partition("\nstages:\n")
        click.echo(f"\nstages:\n{rest.partition(chr(10) + '# -- ')[0]}")
        return
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), f"{path} (new)", lineterm="")
    click.echo("\n".join(["", *lines, ""]))
