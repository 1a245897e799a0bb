"""A journal that has grown to 100,000 events of one day, written directly and in bulk, on either database."""

from __future__ import annotations

import time
from string import Template

from databases import run_sql

from app.journal import Journal

EVENTS = 100_000
DEALS = 20_000

# Of ten events seven are stage changes and three clicks; some are dead, skipped or owed; each thirtieth person has
# another address.
WORDS = {
    "numbers": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)",
    "at": "(CAST(:now AS DOUBLE PRECISION) - 86000.0 * (1 - n / (:count + 1.0)))",
    "moved": "n % 10 < 7",
    "deal": "(n % :deals)",
    "person": "'person' || (n % :deals) || '@crowd.example'",
    "campaign": "'pricing ' || (n % 500) || ' — spring'",
    "state": (
        "CASE WHEN n % 200 = 0 THEN 'dead' WHEN n % 20 = 1 THEN 'skipped'"
        " WHEN n % 500 = 3 THEN 'pending' ELSE 'done' END"
    ),
}
WORDS["key"] = Template("CASE WHEN $moved THEN 'lead:' || $deal ELSE 'email:' || $person END").substitute(WORDS)
VALUES = {
    "body": b"leads[status][0][id]=1&leads[status][0][status_id]=61000102&leads[status][0][pipeline_id]=7100010&"
    * 3,
    "context": '{"lead": {"id": 1, "name": "A deal of today", "status_id": 61000102, "fields": {}}}',
    "plan": '{"lead_id": 1, "email": "person@crowd.example", "first_name": "Person", "stage": "qualified"}',
    "steps": '{"event": {"finished": true, "note": ""}}',
    "reason": "Kommo: 400: no such deal",
}
STATEMENTS = (
    """
    $numbers INSERT INTO webhooks (id, source, content_type, body, received_at)
    SELECT n, 'kommo', 'application/x-www-form-urlencoded', CAST(:body AS $bytes), $at FROM numbers
    """,
    """
    $numbers INSERT INTO events
      (id, webhook_id, source, kind, dedupe_key, order_key, received_at, data, context,
       email, other_emails, campaign)
    SELECT n, n, CASE WHEN $moved THEN 'kommo' ELSE 'encharge' END,
      CASE WHEN $moved THEN 'stage_changed' ELSE 'email_clicked' END, 'grown:' || n, $key, $at,
      CASE WHEN $moved THEN '{"lead_id": ' || $deal || ', "status_id": 61000102, "pipeline_id": 7100010}'
        ELSE '{"email": "' || $person || '", "campaign": "' || $campaign || '"}' END,
      :context, $person, CASE WHEN n % 30 = 0 THEN ' other' || $deal || '@crowd.example ' END,
      CASE WHEN $moved THEN NULL ELSE $campaign END FROM numbers
    """,
    """
    $numbers INSERT INTO jobs (event_id, lane, order_key, state, due_at, created_at, settled_at)
    SELECT n, 'resolve', $key, 'done', $at, $at, $at + 0.2 FROM numbers
    """,
    """
    $numbers INSERT INTO jobs
      (event_id, lane, order_key, state, due_at, plan, steps, reason, created_at, settled_at)
    SELECT n, CASE WHEN $moved THEN 'encharge' ELSE 'kommo' END, 'lead:' || $deal, $state, $at, :plan, :steps,
      CASE WHEN n % 200 = 0 THEN :reason ELSE '' END, $at + 0.2,
      CASE WHEN $state = 'pending' THEN NULL ELSE $at + 0.4 + (n % 97) / 50.0 END FROM numbers
    """,
    """
    $numbers INSERT INTO jobs (event_id, lane, order_key, state, due_at, plan, created_at, settled_at)
    SELECT n, 'ortto', 'lead:' || $deal, 'done', $at, :plan, $at + 0.2, $at + 0.3 FROM numbers WHERE $moved
    """,
    """
    INSERT INTO attempts (job_id, at, seconds, outcome, fault, status, words)
    SELECT id, due_at, 0.2, state, 'refused', 400, reason FROM jobs WHERE state = 'dead'
    """,
)


def grow(url: str, count: int = EVENTS) -> None:
    """Make a journal with so many events and their jobs, all of the last day."""
    Journal(url).close()
    sqlite = url.startswith("sqlite")
    words = {**WORDS, "bytes": "BLOB" if sqlite else "BYTEA"}
    values = {**VALUES, "count": count, "deals": DEALS, "now": time.time()}
    for template in STATEMENTS:
        statement = Template(template).substitute(words)
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        run_sql(url, statement, **used)
    if not sqlite:
        for table in ("webhooks", "events"):
            run_sql(url, "SELECT setval(pg_get_serial_sequence(:name, 'id'), :count)", name=table, count=count)
        run_sql(url, "ANALYZE")  # as the server does by itself, some time after
