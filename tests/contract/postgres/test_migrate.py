"""A store's tables are made once, in order, also where two try at once; others are refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from jobtrail.core.errors import LogChanged, StoreError, StoreNotReady
from projections.postgres.connection import SCHEMA_VERSION
from projections.postgres.migrate import create, migrate, steps
from tests.contract.postgres_store import PostgresStore


def test_the_files_are_numbered_without_a_hole() -> None:
    assert list(steps()) == list(range(1, SCHEMA_VERSION + 1))


def test_the_second_time_nothing_is_done(unmade: PostgresStore) -> None:
    assert migrate(unmade.dsn, unmade.schema) == SCHEMA_VERSION
    before = unmade.rows()
    assert migrate(unmade.dsn, unmade.schema) == 0
    assert unmade.rows() == before


def test_of_several_at_once_one_makes_the_tables(unmade: PostgresStore) -> None:
    barrier = Barrier(4)

    def make(_number: int) -> int:
        barrier.wait()
        return migrate(unmade.dsn, unmade.schema)

    with ThreadPoolExecutor() as pool:
        assert sorted(pool.map(make, range(4))) == [0, 0, 0, SCHEMA_VERSION]


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
def test_tables_of_another_version_are_refused(store: PostgresStore, version: int) -> None:
    with store.connect() as connection:
        connection.execute("UPDATE schema_version SET version = %s", (version,))
    for act in (store.writer().checkpoints, store.reader().snapshot().__enter__):
        with pytest.raises(StoreError) as caught:
            act()
        assert not isinstance(caught.value, StoreNotReady)
        assert f"version {version}" in str(caught.value.found)
        assert caught.value.hint


def test_newer_tables_are_left_alone(store: PostgresStore) -> None:
    with store.connect() as connection:
        connection.execute("UPDATE schema_version SET version = %s", (SCHEMA_VERSION + 1,))
    before = store.rows()
    with pytest.raises(StoreError) as caught:
        migrate(store.dsn, store.schema)
    assert "Upgrade" in str(caught.value.hint)
    assert store.rows() == before


@pytest.mark.parametrize("name", ["", "a-b", "A", "1a", "a; DROP SCHEMA public", "a" * 64])
def test_a_schema_has_a_plain_name(unmade: PostgresStore, name: str) -> None:
    with pytest.raises(StoreError, match="schema"):
        migrate(unmade.dsn, name)


def test_a_store_that_is_there_stays_as_it_is(store: PostgresStore) -> None:
    before = store.rows()
    store.create(begins=dict.fromkeys(range(8), 7))
    assert store.rows() == before
    with pytest.raises(LogChanged):
        create(store.dsn, {0: 0}, {0: 0}, store.schema)
    assert store.rows() == before
