"""The store in PostgreSQL under test: a schema of its own on one server for the whole run."""

from __future__ import annotations

import atexit
import json
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from jobtrail.core.states import STATES
from jobtrail.processes.loop_thread import LoopThread
from projections.ports.write import Tally
from projections.postgres import migrate
from projections.postgres.connection import Timeouts
from projections.postgres.reader import PostgresReader
from projections.postgres.writer import PostgresWriter
from tests.contract.store_model import Audience, Counters
from tests.contract.store_streams import PARTITIONS
from tests.pgboss.servers import programs
from tests.postgres import Postgres

#: By type, the jobs in each state.
Totals = dict[int, tuple[int, ...]]
_COUNTS = ", ".join(f"sum({state})::bigint" for state in STATES)


@cache
def server() -> Postgres:
    """Return this process's server; it is started when the first test wants it."""
    found = Postgres(programs())
    thread = LoopThread("postgres")
    thread.start()
    thread.run(found.start())
    atexit.register(lambda: thread.run(found.remove()))
    return found


class PostgresStore:
    """A store in a schema of its own."""

    def __init__(self, _folder: Path) -> None:
        self.dsn = server().dsn("postgres")
        self.schema = f"store_{uuid.uuid4().hex}"
        self._open: list[PostgresWriter | PostgresReader] = []

    def create(
        self, begins: Mapping[int, int] | None = None, ends: Mapping[int, int] | None = None
    ) -> None:
        """Make the store; the log begins at 0 and is empty unless told otherwise."""
        first = dict(begins or dict.fromkeys(range(PARTITIONS), 0))
        migrate.create(self.dsn, first, dict(ends or first), self.schema)

    def writer(self, timeouts: Timeouts = Timeouts()) -> PostgresWriter:  # noqa: B008
        """Open the write side once more."""
        return self._keep(PostgresWriter(self.dsn, self.schema, timeouts))

    def reader(self, timeouts: Timeouts = Timeouts()) -> PostgresReader:  # noqa: B008
        """Open the read side once more."""
        return self._keep(PostgresReader(self.dsn, self.schema, timeouts))

    def _keep(self, side: Any) -> Any:
        self._open.append(side)
        return side

    def close(self) -> None:
        """Close whatever was opened, and drop the schema."""
        for side in self._open:
            side.close()
        with self.connect() as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")

    def connect(self) -> psycopg.Connection[Any]:
        """Look into the schema, past the ports."""
        options = f"-c search_path={self.schema}"
        return psycopg.connect(self.dsn, autocommit=True, options=options)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of every table."""
        with self.connect() as connection:
            names = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (self.schema,)
            ).fetchall()
            return {
                name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
                for (name,) in names
            }

    def counters(self) -> Counters:
        """Return the counters that count something, with names in place of numbers."""
        found: Counters = {}
        with self.connect() as connection:
            types = dict(connection.execute("SELECT type, name FROM types").fetchall())
            audiences: dict[int, Audience] = {
                number: (owner, tuple(json.loads(viewers)))
                for number, owner, viewers in connection.execute(
                    "SELECT audience, owner, viewers FROM audiences"
                )
            }
            audiences[-1] = None
            for number, day, job_type, *counts in connection.execute(
                f"SELECT audience, day, type, {_COUNTS} FROM counters GROUP BY 1, 2, 3"
            ):
                if any(counts):
                    of = found.setdefault(audiences[number], {})
                    of[day, types[job_type]] = tuple(counts)
        return found

    def totals(self) -> list[tuple[int, dict[int, Totals], dict[int, Totals]]]:
        """Return how many audiences have totals, these, and what they have to be."""
        sums: list[dict[int, Totals]] = []
        with self.connect() as connection:
            for table in ("totals", "counters"):
                of: dict[int, Totals] = {}
                for number, job_type, *counts in connection.execute(
                    f"SELECT audience, type, {_COUNTS} FROM {table} GROUP BY 1, 2"
                ):
                    of.setdefault(number, {})[job_type] = tuple(counts)
                sums.append(of)
        kept, counted = sums
        return [(len(kept), kept, counted)]

    def tallies(self) -> dict[int, Tally]:
        """Return how the records of each partition were judged."""
        columns = ", ".join(f'"{name}"' for name in Tally._fields)
        with self.connect() as connection:
            return {
                partition: Tally(*counts)
                for partition, *counts in connection.execute(
                    f"SELECT partition, {columns} FROM checkpoints"
                )
            }
