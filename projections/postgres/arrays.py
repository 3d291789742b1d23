"""Rows as arrays: a statement takes any number of them in one message, and so in one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from projections.postgres.connection import Connection

#: Rows of a message at most. PostgreSQL takes 1 GiB, and a job may have outputs of 64 KiB.
_MOST: Final = 2_000

Rows = Sequence[Sequence[Any]]


def unnest(columns: Mapping[str, str]) -> str:
    """Return what stands for rows in a statement.

    Args:
        columns: The types of the columns by their names, in order.
    """
    arrays = ", ".join(f"%s::{kind}[]" for kind in columns.values())
    return f"unnest({arrays}) AS new({', '.join(columns)})"


def insert(table: str, columns: Mapping[str, str], rest: str = "") -> str:
    """Return a statement that appends rows.

    Args:
        table: Where to.
        columns: The types of the columns by their names.
        rest: What follows, such as what is done where there is a row already.
    """
    names = ", ".join(columns)
    return f"INSERT INTO {table}({names}) SELECT {names} FROM {unnest(columns)} {rest}"  # noqa: S608


def update(table: str, key: str, columns: Mapping[str, str]) -> str:
    """Return a statement that changes rows.

    Args:
        table: Which.
        key: The column by which each is found.
        columns: The types of the columns by their names, the key among them.
    """
    sets = ", ".join(f"{name} = new.{name}" for name in columns if name != key)
    return f"UPDATE {table} SET {sets} FROM {unnest(columns)} WHERE {table}.{key} = new.{key}"  # noqa: S608


def run(connection: Connection, statement: str, rows: Rows) -> int:
    """Execute a statement that takes rows, where there are any; return how many rows it changed."""
    changed = 0
    for at in range(0, len(rows), _MOST):
        columns = [list(column) for column in zip(*rows[at : at + _MOST], strict=True)]
        changed += connection.execute(statement.encode(), columns).rowcount
    return changed
