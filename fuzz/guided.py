"""Runs one target under atheris; `engines` starts it, in a process of its own, with libFuzzer's options."""

from __future__ import annotations

import sys

import atheris

# Atheris changes code as it is imported, so that its branches are counted: ours, and nothing else.
with atheris.instrument_imports(include=["app"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Run the target that the first argument names."""
    name, *options = sys.argv[1:]
    again = f"{sys.executable} -m fuzz.guided {name}"  # how libFuzzer starts itself, when it sorts inputs
    atheris.Setup([again, *options], TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
