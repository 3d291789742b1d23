"""What a reader makes of a store that is not there, is slow, or was cut off."""

from __future__ import annotations

import pytest

from jobtrail.core.errors import StoreError, StoreNotReady
from projections.ports.meter import TooLong
from projections.ports.read import Caller, Filters
from projections.postgres.connection import Timeouts
from projections.postgres.migrate import migrate
from projections.postgres.reader import PostgresReader
from tests.contract.postgres_store import PostgresStore
from tests.contract.store_checks import EVERYBODY


def test_a_store_that_is_not_made_yet_is_waited_for(unmade: PostgresStore) -> None:
    reader = unmade.reader()
    with pytest.raises(StoreNotReady), reader.snapshot():
        pass
    migrate(unmade.dsn, unmade.schema)
    # Tables alone say nothing of the log.
    with pytest.raises(StoreNotReady), reader.snapshot():
        pass
    unmade.create()
    with reader.snapshot() as snapshot:
        assert snapshot.watermark.recovering == frozenset()


def test_a_statement_that_takes_too_long_is_ended(store: PostgresStore) -> None:
    reader = store.reader(Timeouts(statement=100))
    with store.connect() as other, other.transaction():
        other.execute("LOCK TABLE jobs")
        with pytest.raises(TooLong), reader.snapshot() as snapshot:
            snapshot.search(EVERYBODY, Filters(), size=1)
    with reader.snapshot() as snapshot:
        assert snapshot.search(EVERYBODY, Filters(), size=1) == []


def test_a_reader_that_was_cut_off_connects_again(store: PostgresStore) -> None:
    reader = store.reader()
    with store.connect() as other:
        with reader.snapshot() as snapshot:
            snapshot.verdicts()
            (pid,) = reader._session.open().execute("SELECT pg_backend_pid()").fetchone() or (0,)
        other.execute("SELECT pg_terminate_backend(%s, 60000)", (pid,))
    with pytest.raises(StoreError), reader.snapshot():
        pass
    with reader.snapshot() as snapshot:
        assert snapshot.summary(EVERYBODY, Filters()) == {}


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    reader = PostgresReader("postgresql://somebody:secret@127.0.0.1:1/there")
    with pytest.raises(StoreError) as caught, reader.snapshot():
        pass
    assert "127.0.0.1:1/there" in str(caught.value.where)
    assert "secret" not in str(caught.value)
    reader.close()


def test_names_that_no_text_can_hold_are_found_nowhere(store: PostgresStore) -> None:
    odd = "a\x00b"
    with store.reader().snapshot() as snapshot:
        for caller in (EVERYBODY, Caller(odd, (odd,))):
            for filters in (Filters((odd,)), Filters(owner=odd), Filters(bulk_id=odd)):
                assert snapshot.search(caller, filters, size=1) == []
            assert snapshot.states(caller, [odd, "\ud800"]) == []
        assert snapshot.trail(odd) is None
        assert snapshot.audiences([(odd, 0)]) == {}
