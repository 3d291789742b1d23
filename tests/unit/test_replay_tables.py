"""A table of replay gives the same rows to every library, from memory and from a file."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from jobtrail.core.errors import UsageError
from jobtrail.replay.tables import PackageMissing, Spool, Table, package
from tests.replay_rows import batch_of
from tests.replay_tables import spooled
from tests.unit.test_replay_folding import made_up

LOG = made_up(40)
BATCHES = [batch_of(LOG[at : at + 9]) for at in range(0, len(LOG), 9)]
ROWS = batch_of(LOG).to_pylist()
SCHEMA = BATCHES[0].schema


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture(params=[0, 1], ids=["in a file", "in memory"])
def table(request: pytest.FixtureRequest) -> Table:
    return spooled(SCHEMA, BATCHES, memory_mib=request.param)


def test_every_library_reads_the_same_rows(table: Table) -> None:
    assert len(table) == len(LOG)
    for _ in range(2):
        assert [row for batch in table.batches() for row in batch.to_pylist()] == ROWS
    assert table.reader().read_all().to_pylist() == ROWS
    assert table.to_arrow().to_pylist() == ROWS
    assert table.to_arrow().schema == SCHEMA
    offsets = [row["offset"] for row in ROWS]
    assert table.to_polars()["offset"].to_list() == offsets
    assert table.to_pandas()["offset"].to_list() == offsets
    with duckdb.connect() as db:
        for _ in range(2):
            table.to_duckdb(db, 'with "quotes"')
        assert db.execute('SELECT "offset" FROM "with ""quotes"""').fetchall() == [
            (offset,) for offset in offsets
        ]
        with pytest.raises(UsageError):
            table.to_duckdb(db, "")


def test_two_readers_do_not_disturb_each_other(table: Table) -> None:
    read = [row for pair in zip(table.batches(), table.batches(), strict=True) for row in pair]
    assert [batch.num_rows for batch in read[::2]] == [batch.num_rows for batch in read[1::2]]
    assert [row for batch in read[1::2] for row in batch.to_pylist()] == ROWS


def test_a_file_has_no_name_and_goes_with_its_table(tmp_path: Path) -> None:
    before = open_files()
    spool = Spool(SCHEMA, 0, tmp_path)
    for batch in BATCHES:
        spool.add(batch)
    table = spool.table()
    kept = table.to_arrow()
    assert list(tmp_path.iterdir()) == []
    assert open_files() > before
    del table, spool
    gc.collect()
    assert kept.to_pylist() == ROWS
    del kept
    gc.collect()
    assert open_files() == before


def test_a_closed_table_is_empty(table: Table) -> None:
    table.close()
    assert (len(table), list(table.batches())) == (0, [])


def test_an_empty_table_has_its_columns() -> None:
    table = spooled(SCHEMA, [pa.RecordBatch.from_pylist([], schema=SCHEMA)])
    assert (len(table), table.to_arrow().schema) == (0, SCHEMA)
    assert table.to_polars().columns == SCHEMA.names


def test_what_is_missing_is_named_with_its_mend() -> None:
    with pytest.raises(PackageMissing, match=r"pip install 'jobtrail\[replay\]'"):
        package("no_such_package")
    with pytest.raises(PackageMissing, match="pip install 'no_such_package'"):
        package("no_such_package", extra="")
    assert package("duckdb") is sys.modules["duckdb"]
