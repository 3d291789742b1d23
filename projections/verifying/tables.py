"""Compares counters, totals and audiences of a shard with the rows from which they are derived.

The rows themselves are compared with the fold in `projections.verifying.rows`. SQLite does the
counting, and uses a file for what does not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from jobtrail.core.states import STATES
from projections.sqlite.files.schema import DAY, EVERYBODY
from projections.verifying.report import Report

_COLUMNS: Final = ", ".join(STATES)
_SUMS: Final = ", ".join(f"sum({state})" for state in STATES)
_NOTHING: Final = (0,) * len(STATES)
#: SQLite's division goes towards zero, and days before 1970 are negative.
_DAY: Final = f"(created_at - ((created_at % {DAY}) + {DAY}) % {DAY}) / {DAY}"
#: Messages of the file's own check that are listed.
_MESSAGES: Final = 100

#: A key and counts, in the order of the keys.
_Counts = Iterator[tuple[tuple[int, ...], tuple[int, ...]]]


def check_tables(db: Any, report: Report, name: str) -> None:
    """Check all derived tables.

    Args:
        db: A copy of the shard; a table is added.
        report: Takes the differences.
        name: The shard's name.
    """
    for (message,) in db.execute(f"PRAGMA integrity_check({_MESSAGES})").fetchall():
        if message != "ok":
            report.differ("file", name, "integrity", "ok", message)
    _recount(db)
    _same(report, "counter", name, _counts(db, "recount", 3), _counts(db, "counters", 3))
    _same(report, "total", name, _summed(db), _counts(db, "totals", 2))
    _check_audiences(db, report, name)
    _check_numbers(db, report, name)


def _recount(db: Any) -> None:
    """Count the jobs of each audience and of everybody by day of creation, type and state."""
    db.execute(
        f"CREATE TABLE recount(audience, day, type, {_COLUMNS}, PRIMARY KEY(audience, day, type)) "
        "WITHOUT ROWID"
    )
    each = ", ".join(f"sum(state={code})" for code in range(len(STATES)))
    db.execute(
        f"INSERT INTO recount SELECT audience, {_DAY} AS day, type, {each} "  # noqa: S608
        "FROM jobs NOT INDEXED GROUP BY audience, day, type"
    )
    db.execute(
        f"INSERT INTO recount SELECT {EVERYBODY}, day, type, {_SUMS} "  # noqa: S608
        "FROM recount GROUP BY day, type"
    )


def _counts(db: Any, table: str, keys: int) -> _Counts:
    names = ", ".join(("audience", "day", "type") if keys == 3 else ("audience", "type"))
    rows = db.execute(f"SELECT {names}, {_COLUMNS} FROM {table} ORDER BY {names}")  # noqa: S608
    for row in rows:
        if any(row[keys:]):
            yield row[:keys], row[keys:]


def _summed(db: Any) -> _Counts:
    """Yield the expected totals, of the audiences that have some."""
    rows = db.execute(
        f"SELECT audience, type, {_SUMS} FROM recount "  # noqa: S608
        "WHERE audience IN (SELECT audience FROM totalled) "
        "GROUP BY audience, type ORDER BY audience, type"
    )
    for row in rows:
        yield row[:2], row[2:]


def _same(report: Report, kind: str, name: str, expected: _Counts, found: _Counts) -> None:
    """Compare two lists that are in the same order."""
    one, other = next(expected, None), next(found, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            report.differ(kind, _where(name, one[0]), "jobs by state", one[1], _NOTHING)
            one = next(expected, None)
        elif one is None or other[0] < one[0]:
            report.differ(kind, _where(name, other[0]), "jobs by state", _NOTHING, other[1])
            other = next(found, None)
        else:
            if one[1] != other[1]:
                report.differ(kind, _where(name, one[0]), "jobs by state", one[1], other[1])
            one, other = next(expected, None), next(found, None)


def _where(name: str, key: tuple[int, ...]) -> str:
    names = ("audience", "day", "type") if len(key) == 3 else ("audience", "type")
    return f"{name}, " + ", ".join(f"{a} {n}" for a, n in zip(names, key, strict=True))


def _check_audiences(db: Any, report: Report, name: str) -> None:
    """Check that the members of each audience are its owner and viewers, and nobody else."""
    expected = 0
    rows = db.execute("SELECT audience, owner, viewers FROM audiences ORDER BY audience")
    for audience, owner, viewers in rows:
        members = {f"user:{owner}", *orjson.loads(viewers)}
        expected += len(members)
        found = {
            principal
            for principal in members
            if db.execute(
                "SELECT 1 FROM audience_members WHERE principal=? AND audience=?",
                (principal, audience),
            ).fetchone()
        }
        if found != members:
            where = f"{name}, audience {audience}"
            report.differ("audience", where, "members", sorted(members), sorted(found))
    (count,) = db.execute("SELECT count(*) FROM audience_members").fetchone()
    if count > expected:
        report.differ("audience", name, "members", expected, count)


def _check_numbers(db: Any, report: Report, name: str) -> None:
    """Check conditions that take one statement each."""
    for kind, field, expected, statement in _NUMBERS:
        (found,) = db.execute(statement).fetchone()
        if found != expected:
            report.differ(kind, name, field, expected, found)


_NUMBERS: Final[Iterable[tuple[str, str, int, str]]] = (
    (
        "trail",
        "parts of trails that no row names",
        0,
        " + ".join(
            f"(SELECT count(*) FROM {table} WHERE row NOT IN "  # noqa: S608
            "(SELECT row FROM jobs WHERE spilled > 0))"
            for table in ("trail_chunks", "trail_keys", "trail_said")
        ).join(("SELECT ", "")),
    ),
    (
        "incarnation",
        "jobs with more or less than one current version",
        0,
        "SELECT count(*) FROM (SELECT job FROM incarnations GROUP BY job "
        "HAVING sum(until IS NULL) <> 1)",
    ),
    (
        "incarnation",
        "versions of jobs that have no row",
        0,
        "SELECT count(*) FROM incarnations WHERE job NOT IN (SELECT row FROM jobs)",
    ),
    (
        "incarnation",
        "current versions that differ from the row",
        0,
        "SELECT count(*) FROM incarnations i JOIN jobs j ON j.row = i.job WHERE i.until IS NULL "
        "AND (i.id, i.audience, i.type, i.created_at) <> (j.id, j.audience, j.type, j.created_at)",
    ),
    (
        "total",
        "everybody has totals",
        1,
        f"SELECT count(*) FROM totalled WHERE audience={EVERYBODY}",  # noqa: S608
    ),
    ("file", "rows of the generation", 1, "SELECT count(*) FROM filling"),
)
