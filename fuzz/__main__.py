"""`python -m fuzz`: see `--help`."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from fuzz import engines
from fuzz.targets import TARGETS, Target


@click.command()
@click.option("--target", "names", multiple=True, type=click.Choice(list(TARGETS)), help="What to fuzz; else all.")
@click.option("--runs", default=0, help="End after so many runs of each target.")
@click.option("--seconds", default=0, help="End after so many seconds of each target.")
@click.option("--seed", default=1, show_default=True, help="Another one tries other inputs.")
@click.option("--engine", type=click.Choice(engines.ALL), default=engines.installed(), show_default=True)
@click.option("--learn", is_flag=True, help="Store in fuzz/found/ what reaches new code, and begin with it.")
@click.option("--keep", is_flag=True, help="Take over into fuzz/corpus/ what was learned, the least of it.")
@click.option(
    "--replay",
    "paths",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Run the targets on a file or a folder only.",
)
def main(
    names: tuple[str, ...],
    runs: int,
    seconds: int,
    seed: int,
    engine: str,
    learn: bool,
    keep: bool,
    paths: tuple[Path, ...],
) -> None:
    """Look for bytes that break a reader, a template or the mapping file's loader.

    What broke one is written into fuzz/found/<target>/.

    \b
    Example: python -m fuzz --target kommo --seconds 60
    """
    targets = [TARGETS[name] for name in names or TARGETS]
    if not (runs or seconds or paths or keep):
        raise click.UsageError("Say when to end: --seconds 60, --runs 100000, or --replay FILE.")
    if paths:
        broken = [target.name for target in targets if not _replay(target, paths)]
    elif keep:
        broken = [target.name for target in targets if engines.keep(target)]
    else:
        broken = [
            target.name
            for target in targets
            if engines.run(engine, target, runs=runs, seconds=seconds, seed=seed, learn=learn)
        ]
    if broken:
        raise click.ClickException(f"Something broke: {', '.join(broken)}. See above, and fuzz/found/.")


def _replay(target: Target, paths: Sequence[Path]) -> bool:
    """Run a target on files; say of each that breaks it how, and whether there was none."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    broken = 0
    for file in files:
        try:
            target.check(file.read_bytes())
        except Exception:  # whatever it is: that is what fuzzing looks for
            broken += 1
            click.echo(f"{file} breaks {target.name}:\n{traceback.format_exc()}", err=True)
    click.echo(f"{target.name}: {len(files)} files, {broken} of them break it")
    return not broken


if __name__ == "__main__":
    main()
