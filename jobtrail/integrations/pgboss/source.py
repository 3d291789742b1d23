"""Reading pg-boss's tables: every row, or those that changed since a snapshot; never writing.

No column of pg-boss shows what changed: a retry or a resumption sets no time, and a transaction
that commits late brings times that are long past. PostgreSQL itself does: each version of a row
carries the number of the transaction that wrote it, `xmin`. Let B be the least number that was
still running when a reading began (`pg_snapshot_xmin`). What that reading could not see was
written by a transaction that ran at its beginning or began later, so its number is at least B, and
the next reading asks for all rows from B on. A savepoint's number is greater than its
transaction's, so it is no exception. Some rows come twice, none is missed.

A reading goes through the blocks of each table in order (`ctid`), a bounded page in a transaction
of its own: it keeps no snapshot for long, which would keep pg-boss's tables from being vacuumed. A
row that an update moves during the reading has a new number, and is found by the next reading.

Source: PostgreSQL 14 to 18, "System Columns", "Transaction ID and Snapshot Information Functions".
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

import asyncpg

from jobtrail.core.errors import JobtrailError
from jobtrail.core.events import MAX_PAYLOAD_BYTES
from jobtrail.core.states import State
from jobtrail.integrations.pgboss.mapping import PgBossRow

#: The most rows of a page: with the largest outputs, 64 MiB.
PAGE_ROWS: Final = 1_000
#: The most blocks of a page, 32 MiB: milliseconds where they are cached.
PAGE_BLOCKS: Final = 4_096
#: PostgreSQL 13 and older would read a whole table for every page.
_OLDEST: Final = 140_000
#: Transaction numbers have 32 bits and are compared modulo this.
NUMBERS: Final = 1 << 32
_CONNECT_WITHIN: Final = 15.0
_ANSWER_WITHIN: Final = 120.0

# Errors that pass once PostgreSQL is back, or when the statement is run again.
_PASSING: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # Such a connection is unusable, a new one works: used between PostgreSQL's last message and the
    # close, asyncpg raises an internal error.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    # A queue was deleted, together with its table.
    asyncpg.UndefinedTableError,
)

# By version 9, and by 10 and later. An unquoted name in SQL is lower case.
_OLD: Final = {
    "attempt": "retrycount",
    "created_on": "createdon",
    "started_on": "startedon",
    "completed_on": "completedon",
    "due_on": "startafter",
    "delay": "retrydelay",
    "backoff": "retrybackoff",
}
_NEW: Final = {
    "attempt": "retry_count",
    "created_on": "created_on",
    "started_on": "started_on",
    "completed_on": "completed_on",
    "due_on": "start_after",
    "delay": "retry_delay",
    "backoff": "retry_backoff",
}

_SERVER: Final = "SELECT current_setting('server_version_num')::int, current_database()"
_MOMENT: Final = """
SELECT pg_snapshot_xmin(s)::text AS xmin, s::text AS snapshot, pg_is_in_recovery() AS standby
FROM pg_current_snapshot() AS s
"""
_CLUSTER: Final = """
SELECT s.system_identifier || ':' || c.timeline_id
FROM pg_control_system() AS s, pg_control_checkpoint() AS c
"""
_DATABASE: Final = "SELECT oid::text || ':' || datname FROM pg_database WHERE datname = $1"
_COLUMNS: Final = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(format('%I.job', $1::text)) AND attnum > 0 AND NOT attisdropped
"""
# Up to version 10 ended jobs move to an archive: a new row there, which the next reading finds if
# this one has passed.
_TABLES: Final = """
WITH root AS (
  SELECT c.oid, c.relkind FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname = $1 AND c.relname IN ('job', 'archive')
), leaf AS (
  SELECT oid FROM root WHERE relkind = 'r'
  UNION
  SELECT p.relid FROM root, pg_partition_tree(root.oid) AS p WHERE root.relkind = 'p' AND p.isleaf
)
SELECT c.oid::int8 AS oid, format('%I.%I', n.nspname, c.relname) AS name,
  pg_relation_filenode(c.oid)::int8 AS file,
  pg_relation_size(c.oid) / current_setting('block_size')::int8 AS blocks
FROM leaf JOIN pg_class AS c USING (oid) JOIN pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY c.oid
"""
_FILE: Final = "SELECT pg_relation_filenode($1::int8::oid)::int8"


class Unavailable(JobtrailError):
    """PostgreSQL did not answer; it may later."""

    retriable = True


class Moment(NamedTuple):
    """The database's transaction state."""

    #: The least number of a running transaction: all below it have ended.
    number: int
    #: The current snapshot; empty where equal texts may mean different snapshots.
    snapshot: str
    #: The cluster, its timeline and the database: numbers are comparable only within one.
    origin: str


class Table(NamedTuple):
    """A table with jobs."""

    oid: int
    #: Its name in SQL.
    name: str
    #: Changes when the table is rewritten, which moves its rows.
    file: int
    blocks: int


class RowPage(NamedTuple):
    """Some rows of a table."""

    rows: list[PgBossRow]
    #: How many rows can't be read as jobs.
    refused: int
    #: How many outputs are too large for an event.
    left_out: int
    #: The place after the page: a block, and a row in it.
    next_place: tuple[int, int]


class PgBossSource:
    """A pg-boss schema, on one connection. Use it as an async context manager.

    Args:
        dsn: Which database, as libpq's URI; the rest comes from PG* variables and ~/.pgpass.
        schema: pg-boss's schema.
        owner_path: Keys that lead to a job's owner in its data; empty: nowhere.
        bulk_path: The same for its bulk id.
    """

    def __init__(
        self, dsn: str, schema: str, owner_path: Sequence[str], bulk_path: Sequence[str]
    ) -> None:
        self._dsn = dsn
        self._schema = schema
        self._paths = [list(path) or None for path in (owner_path, bulk_path)]
        self._columns = _NEW
        self._clustered = True
        #: The database's name.
        self.database = ""
        self._oid = ""

    async def __aenter__(self) -> Self:
        """Connect, and find out the version of pg-boss.

        Raises:
            Unavailable: PostgreSQL does not answer.
            JobtrailError: It refuses, or there is no pg-boss.
        """
        try:
            # Without named statements, so that a connection pooler may be in between.
            self._connection = await asyncpg.connect(
                self._dsn,
                timeout=_CONNECT_WITHIN,
                command_timeout=_ANSWER_WITHIN,
                statement_cache_size=0,
                server_settings={"application_name": "jobtrail bridge pg-boss"},
            )
        except (*_PASSING, asyncpg.PostgresError, ValueError) as error:
            raise self._fault(error) from error
        try:
            await self._look()
        except BaseException:
            self._connection.terminate()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        self._connection.terminate()

    async def _look(self) -> None:
        version, self.database = (await self._fetch(_SERVER))[0]
        if version < _OLDEST:
            raise JobtrailError(
                "This PostgreSQL is too old.", expected="14 or newer", found=str(version)
            )
        self._oid = (await self._fetch(_DATABASE, self.database))[0][0]
        columns = {name for (name,) in await self._fetch(_COLUMNS, self._schema)}
        for known in (_NEW, _OLD):
            if columns.issuperset({*known.values(), "id", "name", "state", "data", "output"}):
                self._columns = known
                return
        raise JobtrailError(
            "There is no pg-boss that this bridge supports.",
            where=f"database {self.database}, schema {self._schema}",
            expected="its table `job` as versions 9 to 12 make it",
            found=f"a table with {', '.join(sorted(columns))}" if columns else "none",
            hint="Name the schema with --schema.",
        )

    async def _fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        try:
            async with self._connection.transaction(readonly=True):
                records: list[asyncpg.Record] = await self._connection.fetch(query, *arguments)
                return records
        except (*_PASSING, asyncpg.PostgresError) as error:
            raise self._fault(error) from error

    def _fault(self, error: BaseException) -> JobtrailError:
        where = f"schema {self._schema}"
        # A DSN that can't be read is an InterfaceError too.
        if isinstance(error, _PASSING) and not isinstance(error, ValueError):
            return Unavailable("PostgreSQL does not answer.", where=where, found=repr(error))
        mend = None
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            mend = (
                f"Grant USAGE on schema {self._schema} and SELECT on all tables in it, "
                "those of queues to come too: docs/pg-boss.md."
            )
        return JobtrailError("PostgreSQL refuses.", where=where, found=str(error), hint=mend)

    async def moment(self) -> Moment:
        """Return the database's current transaction state.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        number, snapshot, standby = (await self._fetch(_MOMENT))[0]
        cluster = ""
        if self._clustered:
            try:
                cluster = (await self._fetch(_CLUSTER))[0][0]
            except Unavailable:
                raise
            except JobtrailError:
                # Some providers deny this to their users.
                self._clustered = False
        # On a standby the snapshot does not list running transactions.
        return Moment(int(number), "" if standby else snapshot, f"{cluster}:{self._oid}")

    async def tables(self) -> list[Table]:
        """Return the tables with jobs: each queue's own and the archive, by their number.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        return [Table(*record) for record in await self._fetch(_TABLES, self._schema)]

    async def file_of(self, table: Table) -> int | None:
        """Return a table's current file; None where the table was dropped."""
        file: int | None = (await self._fetch(_FILE, table.oid))[0][0]
        return file

    async def page(self, table: Table, place: tuple[int, int], since: int | None) -> RowPage:
        """Read the next rows of a table.

        Args:
            table: The table.
            place: The last row read: block, row.
            since: Only rows that this transaction or a later one wrote; None: all.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        end = min(place[0] + PAGE_BLOCKS, max(table.blocks, place[0] + 1))
        number = None if since is None else since % NUMBERS
        records = await self._fetch(self._query(table), place, (end, 0), number, *self._paths)
        rows, refused, left_out = [], 0, 0
        for record in records:
            *values, too_large, _ = record
            left_out += too_large
            try:
                rows.append(_row(values))
            except (ValueError, OverflowError):
                refused += 1
        next_place = (end, 0) if len(records) < PAGE_ROWS else records[-1]["place"]
        return RowPage(rows, refused, left_out, next_place)

    def _query(self, table: Table) -> str:
        c = self._columns
        # A row that was frozen long ago has an age below 0.
        return f"""
SELECT id::text, name, priority, state::text, {c["attempt"]}, {_us(c["created_on"])},
  {_us(c["started_on"])}, {_us(c["completed_on"])}, {_us(c["due_on"])},
  CASE WHEN NOT {c["backoff"]} THEN {c["delay"]} END,
  CASE WHEN octet_length(output::text) <= {MAX_PAYLOAD_BYTES} THEN output::text END,
  left(data #>> $4::text[], 257), left(data #>> $5::text[], 257), {_us("clock_timestamp()")},
  coalesce(octet_length(output::text) > {MAX_PAYLOAD_BYTES}, false), ctid AS place
FROM {table.name}
WHERE ctid > $1::tid AND ctid < $2::tid
  AND ($3::xid IS NULL OR age(xmin) BETWEEN 0 AND age($3::xid))
  AND name NOT LIKE '\\_\\_pgboss\\_\\_%'
ORDER BY ctid LIMIT {PAGE_ROWS}
"""  # noqa: S608  # the names are PostgreSQL's own, quoted by it


def _us(column: str) -> str:
    """Return SQL for an instant in microseconds; NULL where it is infinite."""
    return f"CASE WHEN isfinite({column}) THEN (extract(epoch FROM {column}) * 1000000)::int8 END"


def _row(values: Sequence[object]) -> PgBossRow:
    """Convert a record into a row; ValueError for one that pg-boss would not write."""
    row = PgBossRow(*values)  # type: ignore[arg-type]  # in the order of the query
    if row.created_on is None or row.attempt < 0:
        raise ValueError("no job of pg-boss")
    output = values[10]
    return row._replace(
        state=State(row.state), output=None if output is None else str(output).encode()
    )
