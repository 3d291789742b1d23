"""Rows go into PostgreSQL as they are, whatever their values, and however many there are."""

from __future__ import annotations

from typing import Any

import pytest

from projections.postgres.arrays import insert, pack, run
from tests.contract.postgres_store import PostgresStore

VALUES: dict[str, list[Any]] = {
    "bigint": [0, -1, 2**63 - 1, -(2**63), None],
    "integer": [0, -1, 2**31 - 1, -(2**31), None],
    "smallint": [0, -1, 2**15 - 1, -(2**15), None],
    "double precision": [0.0, -0.5, 1e300, None],
    "text": ["", "é", "😀", "NULL", '{"a",\\}', None],
    "bytea": [b"", b"\x00\xff", b"\\x00", None],
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("with_null", [True, False])
def test_an_array_comes_back(store: PostgresStore, kind: str, with_null: bool) -> None:
    values = VALUES[kind] if with_null else VALUES[kind][:-1]
    with store.connect() as connection:
        found = connection.execute(f"SELECT %s::{kind}[]", (pack(kind, values),)).fetchone()
        assert found == (values,)
        nothing = connection.execute(f"SELECT %s::{kind}[]", (pack(kind, [None]),)).fetchone()
        assert nothing == ([None],)


@pytest.mark.parametrize("count", [0, 1, 1_999, 2_000, 2_001, 4_500])
def test_any_number_of_rows_is_written(store: PostgresStore, count: int) -> None:
    columns = {"number": "bigint", "name": "text"}
    rows = [(number, f"n{number}") for number in range(count)]
    with store.connect() as connection:
        connection.execute("CREATE TABLE some_rows(number bigint, name text)")
        assert run(connection, insert("some_rows", columns), rows) == count
        found = connection.execute("SELECT number, name FROM some_rows ORDER BY number").fetchall()
    assert found == rows
