"""SQL goes out with parameters: no value of the outside ever becomes a part of a statement's text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

JOURNAL = ROOT / "app" / "journal"
SOURCES = sorted(JOURNAL.rglob("*.py"))
RAW = {"text", "exec_driver_sql", "literal_column", "execute", "executemany", "DDL"}
"""What takes SQL as text; `execute` does too, but for SQLAlchemy's own statements."""

BUILT = {
    "PRAGMA synchronous = {wanted}",  # FULL or NORMAL
    "SELECT pg_advisory_xact_lock({WRITERS_TURN})",  # a number of ours
    "SELECT {' + '.join(parts)}",  # subqueries that stand in the same file
    "'{state.value}'",  # a state, of our own few
    "'{Lane.RESOLVE}'",
    "{_name} IS NOT NULL",  # names of columns
    "{name} IS NOT NULL",
}
"""Texts that are put together, each of words of ours only: looked through by hand. Add none without that."""


def texts(source: str) -> Iterator[str]:
    """Return the SQL texts in a file that are not literals; a name stands for what it was given in the file."""
    tree = ast.parse(source)
    given = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in RAW and not _is_plain(node.args[0], given, raw=name not in ("execute", "executemany")):
            yield _shown(node.args[0])


def _is_plain(node: ast.expr, given: dict[str, ast.expr], *, raw: bool) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Name) and isinstance(given.get(node.id), ast.Constant):
        return True
    # What execute() is given elsewhere are statements of SQLAlchemy's, or text() that was looked at itself.
    return not raw and not isinstance(node, ast.JoinedStr | ast.BinOp)


def _shown(node: ast.expr) -> str:
    words = ast.unparse(node)
    return words[2:-1] if isinstance(node, ast.JoinedStr) else words


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(JOURNAL)))
def test_no_statement_is_built_of_values(path: Path) -> None:
    assert [text for text in texts(path.read_text(encoding="utf-8")) if text not in BUILT] == []


def test_every_exception_is_needed() -> None:
    found = {text for path in SOURCES for text in texts(path.read_text(encoding="utf-8"))}
    assert BUILT - found == set()


@pytest.mark.parametrize(
    "source",
    [
        'connection.execute(f"SELECT * FROM events WHERE email = {email}")',
        'connection.execute("SELECT * FROM events WHERE email = " + email)',
        'connection.execute("SELECT * FROM events WHERE email = %s" % email)',
        "connection.execute(text(words))",
        'text("SELECT * FROM events WHERE email = {}".format(email))',
        "connection.exec_driver_sql(query)",
        'sa.text(f"email = {email!r}")',
        "literal_column(column)",
    ],
)
def test_it_sees_one_that_is(source: str) -> None:
    assert list(texts(source)) != []
