"""Whether there are real proxies to run the shipped configurations with."""

from __future__ import annotations

import os
import shutil

import pytest


def require(*programs: str) -> None:
    """Skip the test without these programs, but in CI let it fail; Debian's packages have the same names."""
    missing = " ".join(program for program in programs if not shutil.which(program))
    if not missing:
        return
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not installed: apt-get install {missing}")
