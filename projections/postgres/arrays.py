"""Rows as arrays: a statement takes any number of them in one message, and so in one answer.

The arrays are packed here as PostgreSQL sends them itself (`array_send` of its source): psycopg
makes a text of each value, which takes several times as long as all else that a writer does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from projections.postgres.connection import Connection

#: Rows of a message at most. PostgreSQL takes 1 GiB, and a job may have outputs of 64 KiB.
_MOST: Final = 2_000

Rows = Sequence[Sequence[Any]]

#: Dimensions, whether there is a NULL, the elements' type, how many, the first one's number.
_HEADER: Final = Struct(">iiIii").pack
_LENGTH: Final = Struct(">i").pack
_NULL: Final = _LENGTH(-1)
#: Types of a fixed width: PostgreSQL's number and numpy's name.
_FIXED: Final = {
    "bigint": (20, ">i8"),
    "integer": (23, ">i4"),
    "smallint": (21, ">i2"),
    "double precision": (701, ">f8"),
}
_TEXT: Final = 25
_BYTES: Final = 17


class Packed:
    """An array in PostgreSQL's binary form; its type is what the statement says."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        content: bytes = obj.content
        return content


psycopg.adapters.register_dumper(Packed, _PackedDumper)


def pack(kind: str, values: Sequence[Any]) -> Packed:
    """Pack an array.

    Args:
        kind: The type of its elements.
        values: One or more, None for NULL.
    """
    fixed = _FIXED.get(kind)
    nulls = None in values
    if fixed is None:
        oid = _BYTES if kind == "bytea" else _TEXT
        parts = [_NULL if value is None else _sized(value) for value in values]
        content = b"".join(parts)
    else:
        oid, form = fixed
        some = np.empty(len(values), [("length", ">i4"), ("value", form)])
        some["length"] = some["value"].itemsize
        some["value"] = [value or 0 for value in values] if nulls else values
        content = some.tobytes()
        if nulls:
            width = some.itemsize
            content = b"".join(
                _NULL if value is None else content[at * width : (at + 1) * width]
                for at, value in enumerate(values)
            )
    return Packed(_HEADER(1, int(nulls), oid, len(values), 1) + content)


def _sized(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return _LENGTH(len(content)) + content


def unnest(columns: Mapping[str, str]) -> str:
    """Return what stands for rows in a statement.

    Args:
        columns: The types of the columns by their names, in order.
    """
    arrays = ", ".join(f"%s::{kind}[]" for kind in columns.values())
    return f"unnest({arrays}) AS new({', '.join(columns)})"


class Statement(NamedTuple):
    """A statement that takes rows."""

    text: bytes
    #: The types of its columns.
    kinds: tuple[str, ...]


def statement(text: str, columns: Mapping[str, str]) -> Statement:
    """Return a statement that takes rows.

    Args:
        text: In which `unnest` of the same columns stands once.
        columns: The types of the columns by their names.
    """
    return Statement(text.encode(), tuple(columns.values()))


def insert(table: str, columns: Mapping[str, str], rest: str = "") -> Statement:
    """Return a statement that appends rows.

    Args:
        table: Where to.
        columns: The types of the columns by their names.
        rest: What follows, such as what is done where there is a row already.
    """
    names = ", ".join(columns)
    text = f"INSERT INTO {table}({names}) SELECT {names} FROM {unnest(columns)} {rest}"  # noqa: S608
    return statement(text, columns)


def update(table: str, key: str, columns: Mapping[str, str]) -> Statement:
    """Return a statement that changes rows.

    Args:
        table: Which.
        key: The column by which each is found.
        columns: The types of the columns by their names, the key among them.
    """
    sets = ", ".join(f"{name} = new.{name}" for name in columns if name != key)
    text = f"UPDATE {table} SET {sets} FROM {unnest(columns)} WHERE {table}.{key} = new.{key}"  # noqa: S608
    return statement(text, columns)


def run(connection: Connection, statement: Statement, rows: Rows) -> int:
    """Execute a statement that takes rows, where there are any; return how many rows it changed."""
    changed = 0
    for at in range(0, len(rows), _MOST):
        columns = zip(*rows[at : at + _MOST], strict=True)
        packed = [pack(kind, column) for kind, column in zip(statement.kinds, columns, strict=True)]
        changed += connection.execute(statement.text, packed).rowcount
    return changed
