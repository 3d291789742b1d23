"""The rights of `roles.sql` are enough for a projector and for an API process, and no more."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import psycopg
import pytest

import projections.postgres.migrate
from jobtrail.core.errors import StoreError
from projections.ports.write import Beat, FoldedBatch, Tally
from projections.postgres.migrate import create, migrate
from projections.postgres.reader import PostgresReader
from projections.postgres.writer import PostgresWriter
from tests.contract.postgres_store import server
from tests.contract.store_checks import check_snapshot
from tests.contract.store_feeding import feed, projecting
from tests.contract.store_model import Model
from tests.contract.store_streams import PARTITIONS, seeded_log

ROLES = Path(projections.postgres.migrate.__file__).parent / "roles.sql"


@pytest.fixture(scope="module")
def dsns() -> dict[str, str]:
    """Return how the owner, a projector and an API process reach a store in a database."""
    name = f"db_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server().dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    owner = server().dsn(name)
    begins = dict.fromkeys(range(PARTITIONS), 0)
    create(owner, begins, begins)
    users = {role: f"{name}_{role}" for role in ("writer", "reader")}
    with psycopg.connect(owner, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(ROLES.read_bytes())
        for role, user in users.items():
            connection.execute(f"CREATE ROLE {user} LOGIN IN ROLE jobtrail_{role}")
    return {"owner": owner, **{role: server().dsn(name, user) for role, user in users.items()}}


async def test_a_projector_needs_no_more(dsns: dict[str, str]) -> None:
    log = seeded_log(91, jobs=40, events=300, steady=1)
    writer, reader = PostgresWriter(dsns["writer"]), PostgresReader(dsns["reader"])
    assert migrate(dsns["writer"]) == 0
    for _ in range(2):
        for partition in range(PARTITIONS):
            writer.reset(partition, log.begins(), log.ends())
        async with projecting(PostgresWriter(dsns["writer"])) as projector:
            await feed(projector, log, random.Random(91))
        with reader.snapshot() as snapshot:
            check_snapshot(snapshot, Model(log).advance())
    writer.beat({0: Beat(1, "")})
    writer.wait_for_no_more({0: 1})
    assert writer.skip(0, 10_000) == log.ends()[0]
    writer.close()
    reader.close()


@pytest.mark.parametrize("role", ["writer", "reader"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE jobtrail.more()",
        "DROP TABLE jobtrail.jobs",
        "TRUNCATE jobtrail.jobs",
        "UPDATE jobtrail.schema_version SET version = 9",
        "DELETE FROM jobtrail.checkpoints",
        "DELETE FROM jobtrail.audience_members",
        "UPDATE jobtrail.changes SET effective = 0",
    ],
)
def test_nobody_changes_what_is_not_theirs(dsns: dict[str, str], role: str, statement: str) -> None:
    with psycopg.connect(dsns[role]) as connection, pytest.raises(psycopg.errors.Error) as caught:
        connection.execute(statement)
    assert isinstance(caught.value, psycopg.errors.InsufficientPrivilege)


def test_a_reader_writes_nothing(dsns: dict[str, str]) -> None:
    writer = PostgresWriter(dsns["reader"])
    start = writer.checkpoints()[1].next_offset
    with pytest.raises(StoreError) as caught:
        writer.apply([FoldedBatch(1, start, start + 1, None, [], Tally(dead=1))])
    assert "roles.sql" in str(caught.value.hint)
    assert writer.checkpoints()[1].next_offset == start
    writer.close()
