"""Start gunicorn or flask with the saboteur inside: `python -m bench.chaos.launch gunicorn -c … wsgi:app`."""

from __future__ import annotations

import sys

from bench.chaos import saboteur


def main() -> None:
    """Arm, and become the program that the arguments name."""
    program, *arguments = sys.argv[1:]
    saboteur.arm()
    sys.argv = [program, *arguments]
    if program == "gunicorn":
        from gunicorn.app.wsgiapp import run
    elif program == "flask":
        from flask.cli import main as run
    else:
        sys.exit(f"{program} is no program of the service: gunicorn or flask")
    run()


if __name__ == "__main__":
    main()
