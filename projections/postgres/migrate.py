"""Makes a store's tables, and brings older ones up to date: numbered files, each applied once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg

from jobtrail.core.errors import LogChanged, StoreError
from projections.postgres.connection import (
    DEFAULT_SCHEMA,
    DEFAULT_TIMEOUTS,
    SCHEMA_VERSION,
    Connection,
    Timeouts,
    checked_schema,
    connect,
    place_of,
    settings_of,
    store_error,
    version_of,
)

_FILES: Final = Path(__file__).parent / "schema"
#: An index over a large table takes minutes; who waits for another migration waits as long.
_PATIENT: Final = Timeouts(statement=0, idle_in_transaction=60_000, lock=600_000)


def steps() -> dict[int, Path]:
    """Return the files that make the tables, by the version that each leads to."""
    return {int(path.name.partition("_")[0]): path for path in sorted(_FILES.glob("*.sql"))}


def migrate(dsn: str, schema: str = DEFAULT_SCHEMA) -> int:
    """Bring a store's tables up to date, in one transaction; who comes at the same time waits.

    Args:
        dsn: Of the database, as libpq takes it; the role has to be allowed to make tables.
        schema: Where the store lies; it is made if need be.

    Returns:
        How many files were applied.

    Raises:
        StoreError: The tables are newer than this code, or can't be made.
    """
    where = place_of(dsn, checked_schema(schema))
    try:
        with (
            connect(dsn, settings_of(_PATIENT, search_path=schema)) as connection,
            connection.transaction(),
        ):
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"jobtrail {schema}",)
            )
            return _migrate(connection, schema, where)
    except psycopg.Error as error:
        raise store_error(error, where) from error


def _migrate(connection: Connection, schema: str, where: str) -> int:
    if not connection.execute(
        "SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)
    ).fetchone():
        connection.execute(f"CREATE SCHEMA {schema}".encode())
    found = version_of(connection)
    if found is None:
        connection.execute(
            "CREATE TABLE schema_version("
            "version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        found = 0
    if found > SCHEMA_VERSION:
        raise StoreError(
            "The store's tables are newer than this version of jobtrail knows.",
            where=where,
            expected=f"version {SCHEMA_VERSION} or an older one",
            found=f"version {found}",
            hint="Upgrade jobtrail.",
        )
    ahead = {version: path for version, path in steps().items() if version > found}
    for version, path in ahead.items():
        connection.execute(path.read_bytes())
        connection.execute("INSERT INTO schema_version(version) VALUES (%s)", (version,))
    return len(ahead)


def create(
    dsn: str,
    begins: Mapping[int, int],
    ends: Mapping[int, int],
    schema: str = DEFAULT_SCHEMA,
) -> None:
    """Make a store whose fold begins where its log does; one that is there stays as it is.

    Args:
        dsn: Of the database, as libpq takes it.
        begins: The log's first offset per partition.
        ends: The log's end per partition: reads wait until the store is there.
        schema: Where the store lies.

    Raises:
        LogChanged: The store is there, of another number of partitions.
        StoreError: It can't be made.
    """
    migrate(dsn, schema)
    where = place_of(dsn, schema)
    try:
        with connect(dsn, settings_of(DEFAULT_TIMEOUTS, search_path=schema)) as connection:
            partitions = sorted(begins)
            connection.execute(
                "INSERT INTO checkpoints(partition, next_offset, recover_to) "
                "SELECT * FROM unnest(%s::integer[], %s::bigint[], %s::bigint[]) "
                "WHERE NOT EXISTS (SELECT 1 FROM checkpoints) ON CONFLICT DO NOTHING",
                (partitions, [begins[p] for p in partitions], [ends[p] for p in partitions]),
            )
            rows = connection.execute("SELECT partition FROM checkpoints").fetchall()
    except psycopg.Error as error:
        raise store_error(error, where) from error
    if sorted(partition for (partition,) in rows) != partitions:
        raise LogChanged(
            "The store was made for another log.",
            where=where,
            expected=f"{len(rows)} partitions",
            found=f"{len(partitions)} partitions",
        )
