"""A session with PostgreSQL: opened when it is needed, opened again once it is lost."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from jobtrail.core.errors import StoreError, StoreNotReady

Connection = psycopg.Connection[tuple[Any, ...]]

#: The schema in which the store lies, unless another one is named.
DEFAULT_SCHEMA: Final = "jobtrail"
#: The version of the tables that this code reads and writes: the number of the last file in
#: `schema/`.
SCHEMA_VERSION: Final = 1
_SCHEMA_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
#: A store's plans are those of look-ups by an index. A plan that was made while a table was empty
#: would go on reading all of it. A bitmap has no order: to find the next 20 jobs of an audience by
#: one, all of its jobs are read and sorted, which is cheap for most audiences and not for all.
_PLANS: Final = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


class Timeouts(NamedTuple):
    """How long a session may take, in milliseconds; each also bounds how long others wait for it.

    A process that is stopped in the middle of a transaction keeps the locks of its partitions until
    `idle_in_transaction` is over: that is how long its successor waits at most.
    """

    #: One statement. A large batch takes seconds where disks are slow.
    statement: int = 30_000
    #: Between two statements of a transaction: a live process takes milliseconds.
    idle_in_transaction: int = 5_000
    #: For a lock that another session has. Longer than `idle_in_transaction`, so that who waits for
    #: a stopped process gets its turn in the same call.
    lock: int = 10_000


DEFAULT_TIMEOUTS: Final = Timeouts()


def settings_of(timeouts: Timeouts, **more: str) -> dict[str, str]:
    """Return the parameters of a session.

    Args:
        timeouts: How long it may take.
        **more: Other parameters of PostgreSQL.
    """
    return {
        "statement_timeout": str(timeouts.statement),
        "idle_in_transaction_session_timeout": str(timeouts.idle_in_transaction),
        "lock_timeout": str(timeouts.lock),
        # The fence sees a checkpoint that was moved while it waited for it.
        "default_transaction_isolation": "read committed",
        **_PLANS,
        **more,
    }


def checked_schema(name: str) -> str:
    """Return the name of a schema, which needs no quotes.

    Raises:
        StoreError: It would need them.
    """
    if not _SCHEMA_NAME.fullmatch(name):
        raise StoreError(
            "This can't be the name of the store's schema.",
            expected="at most 63 lower-case letters, digits and underscores, no digit first",
            found=repr(name[:80]),
        )
    return name


def connect(dsn: str, settings: Mapping[str, str]) -> Connection:
    """Open a connection whose statements are transactions of their own unless told otherwise.

    Args:
        dsn: Of the database, as libpq takes it.
        settings: Parameters of the session.
    """
    connection = psycopg.connect(dsn, autocommit=True, application_name="jobtrail")
    connection.execute(
        "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) s(name, value)",
        (list(settings), list(settings.values())),
    )
    return connection


class Session:
    """One connection to a store, which is opened again once it is lost.

    Args:
        dsn: Of the database, as libpq takes it.
        schema: Where the store lies.
        settings: Parameters of the session, beside the path.

    Raises:
        StoreError: The schema's name is none.
    """

    def __init__(self, dsn: str, schema: str, settings: Mapping[str, str]) -> None:
        self._dsn = dsn
        self._settings = {**settings, "search_path": checked_schema(schema)}
        self._schema = schema
        self._connection: Connection | None = None
        #: Of the store; another one after it was made again.
        self.identity = ""

    @property
    def where(self) -> str:
        """The store's place, without a password."""
        return place_of(self._dsn, self._schema)

    @contextlib.contextmanager
    def use(self) -> Iterator[Connection]:
        """Use the connection.

        Raises:
            StoreNotReady: There is no store yet.
            StoreError: It can't be reached or used, or has tables of another version.
        """
        try:
            yield self.open()
        except psycopg.Error as error:
            raise self.failed(error) from error

    def open(self) -> Connection:
        """Return the connection; open it where there is none.

        Raises:
            StoreNotReady: There is no store yet.
            StoreError: Its tables are of another version.
            psycopg.Error: PostgreSQL says no.
        """
        if self._connection is not None and not self._connection.closed:
            return self._connection
        connection = connect(self._dsn, self._settings)
        try:
            check_version(connection, self.where)
            self.identity = _identity(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def failed(self, error: psycopg.Error) -> StoreError:
        """Return what an error of PostgreSQL means to who uses the store."""
        return store_error(error, self.where)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()


def place_of(dsn: str, schema: str) -> str:
    """Return where a store lies, without a password."""
    said = conninfo_to_dict(dsn)
    host, port = said.get("host") or "the local socket", said.get("port") or 5432
    return f"{host}:{port}/{said.get('dbname') or ''}, schema {schema}"


def store_error(error: psycopg.Error, where: str) -> StoreError:
    """Return what an error of PostgreSQL means to who uses a store.

    Args:
        error: It.
        where: The store.
    """
    found = (error.diag.message_primary or str(error)).strip() or type(error).__name__
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        hint = "Give the role the rights of `projections/postgres/roles.sql`."
    elif isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        hint = "Another session is slow or stopped; what failed is tried again."
    elif isinstance(error, psycopg.OperationalError):
        hint = "Check that PostgreSQL runs and can be reached; it is connected to again."
    else:
        hint = "See PostgreSQL's own log."
    return StoreError("The projection store can't be used.", where=where, found=found, hint=hint)


def version_of(connection: Connection) -> int | None:
    """Return the version of the tables on the session's path; None where there are none."""
    row = connection.execute("SELECT to_regclass('schema_version')").fetchone()
    if row is None or row[0] is None:
        return None
    row = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    version: int | None = row[0] if row else None
    return version


def check_version(connection: Connection, where: str) -> None:
    """Look whether a store's tables are those that this code knows.

    Args:
        connection: With the store's schema as its path.
        where: The store.

    Raises:
        StoreNotReady: There are none yet.
        StoreError: They are older or newer.
    """
    version = version_of(connection)
    if version is None:
        raise StoreNotReady(
            "There is no projection store yet.",
            where=where,
            hint="Make it with `projections.postgres.migrate.create`.",
        )
    if version != SCHEMA_VERSION:
        raise StoreError(
            "The store's tables are of another version.",
            where=where,
            expected=f"version {SCHEMA_VERSION}",
            found=f"version {version}",
            hint="Upgrade jobtrail: a newer one has made them."
            if version > SCHEMA_VERSION
            else "Bring them up to date with `projections.postgres.migrate.migrate`.",
        )


def _identity(connection: Connection) -> str:
    row = connection.execute("SELECT identity FROM store").fetchone()
    return str(row[0]) if row else ""
