"""A journal that has grown: delivered webhooks of deals, written directly and in bulk."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path

from app.journal import Journal

DAYS = 30  # over which they came, as with the default RETENTION_DAYS
DEALS = 50_000

BODY = b"leads[status][0][id]=1&leads[status][0][status_id]=61000102&leads[status][0][pipeline_id]=7100010&" * 3
DATA = json.dumps({"lead_id": 1, "status_id": 61_000_102, "pipeline_id": 7_100_010, "old_status_id": 61_000_101})
CONTEXT = json.dumps({"lead": {"id": 1, "name": "A deal of the last month", "status_id": 61_000_102, "fields": {}}})
PLAN = json.dumps({"lead_id": 1, "email": "person@crowd.example", "first_name": "Person", "stage": "qualified"})

ROWS = """
CREATE TEMP TABLE filled AS
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
SELECT n, 'lead:' || (n % :deals) AS order_key, :now - :seconds * (1 - n / (:count + 1.0)) AS at FROM numbers
"""
WEBHOOKS = """
INSERT INTO webhooks (id, source, content_type, body, received_at)
SELECT n, 'kommo', 'application/x-www-form-urlencoded', :body, at FROM filled
"""
EVENTS = """
INSERT INTO events
  (id, webhook_id, source, kind, dedupe_key, order_key, occurred_at, received_at, data, context)
SELECT n, n, 'kommo', 'stage_changed', 'filled:' || n, order_key, at, at, :data, :context FROM filled
"""
JOBS = """
INSERT INTO jobs (event_id, lane, order_key, state, due_at, plan, steps, created_at, settled_at)
SELECT n, :lane, order_key, 'done', at, :plan, '{"event":{"finished":true,"note":""}}', at, at FROM filled
"""


def prefill(file: Path, count: int) -> None:
    """Make a journal in an SQLite file with so many events, each with its three finished jobs."""
    Journal(f"sqlite:///{file}").close()
    scale = {"count": count, "deals": DEALS, "now": time.time(), "seconds": (DAYS - 1) * 86400.0}
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        connection.execute(ROWS, scale)
        connection.execute(WEBHOOKS, {"body": BODY})
        connection.execute(EVENTS, {"data": DATA, "context": CONTEXT})
        for lane in ("resolve", "encharge", "ortto"):
            connection.execute(JOBS, {"lane": lane, "plan": None if lane == "resolve" else PLAN})
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
