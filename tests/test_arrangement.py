"""The services of compose.postgres.yaml as processes: any of them may die, and no webhook is lost or refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from proxies import require
from support import ROOT

from bench.arrangement import run


@pytest.mark.alone
@pytest.mark.timeout(240)
# Where nginx dies in a handshake, the client library leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_whoever_is_killed_or_stopped_no_webhook_is_lost_or_refused() -> None:
    require("nginx", "openssl")
    killed: list[str] = []
    # Not pytest's own folder: PostgreSQL's user may not enter it.
    with tempfile.TemporaryDirectory(prefix="arrangement-", ignore_cleanup_errors=True) as folder:
        outcome = run(Path(folder), rate=8, lease=False, restarts=1, quiet=1.0, say=killed.append)
    assert outcome.faults() == [], outcome.table()
    assert len(outcome.answers) > 100
    services = yaml.safe_load((ROOT / "compose.postgres.yaml").read_text(encoding="utf-8"))["services"]
    assert {line.partition(":")[0] for line in killed} == services.keys()
