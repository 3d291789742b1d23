"""How a store comes to be, and what is said where there is none or one that can't be used."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jobtrail.core.errors import StoreError, StoreNotReady
from projections.sqlite.files import schema
from projections.sqlite.read.reader import SqliteReader
from projections.sqlite.write.writer import SqliteWriter
from tests.contract.sqlite.test_crashes import MODULE, ROOT
from tests.contract.store_checks import check_equal
from tests.contract.store_feeding import fill
from tests.contract.store_model import Model
from tests.contract.store_streams import PARTITIONS, seeded_log
from tests.contract.stores import SQLITE, SqliteStore

ROUNDS = 120
BOTH_SIDES = pytest.mark.parametrize("side", [SqliteWriter, SqliteReader])
STARTS = dict.fromkeys(range(PARTITIONS), 0)


# --- any store


def test_two_processes_may_create_a_store_at_once(tmp_path: Path) -> None:
    makers = list(SQLITE.values())
    stores = [makers[n % len(makers)](tmp_path / f"store-{n}") for n in range(ROUNDS)]
    command = [sys.executable, "-m", MODULE, "create"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as running:
        processes = [
            running.enter_context(subprocess.Popen(command, cwd=ROOT, **pipes)) for _ in range(2)
        ]
        answers = [create_at_once(processes, store) for store in stores]
    for store in stores:
        assert set(store.writer().checkpoints()) == set(range(PARTITIONS))
        store.close()
    assert answers == [["made", "made"]] * ROUNDS


def create_at_once(processes: list[subprocess.Popen[str]], store: SqliteStore) -> list[str]:
    """Let all create the same store; return what they answer."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{store.address}\n")
        process.stdin.flush()
    assert {process.stdout.readline() for process in processes if process.stdout} == {"there\n"}
    store.folder.with_suffix(".go").touch()
    return [process.stdout.readline().strip() for process in processes if process.stdout]


async def test_creating_a_store_that_is_there_changes_nothing(store: SqliteStore) -> None:
    log = seeded_log(91, jobs=20, events=80, steady=0)
    await fill(store, log)
    before = store.rows()
    store.create(begins=dict.fromkeys(range(PARTITIONS), 7))
    assert store.rows() == before
    check_equal(store, Model(log).advance())


def test_a_store_that_is_not_there_yet_is_worth_waiting_for(unmade: SqliteStore) -> None:
    for side in (unmade.writer, unmade.reader):
        with pytest.raises(StoreNotReady) as caught:
            side()
        assert caught.value.retriable
        assert caught.value.where
    unmade.create()
    unmade.reader()


def test_both_sides_know_the_number_of_partitions(store: SqliteStore) -> None:
    assert (store.writer().partitions, store.reader().partitions) == (PARTITIONS, PARTITIONS)
    assert set(store.writer().checkpoints()) == set(range(PARTITIONS))


# --- SQLite's files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a store of two shards."""
    SqliteStore(tmp_path / "store", 2).create()
    return tmp_path / "store"


def write_layout(folder: Path, content: bytes) -> None:
    (folder / "store.json").write_bytes(content)


@pytest.mark.parametrize("found", [0, schema.SCHEMA_VERSION + 1])
def test_a_store_of_another_version_is_refused_by_name(folder: Path, found: int) -> None:
    layout = {"schema": found, "shards": 2, "partitions": PARTITIONS, "more": "of it"}
    write_layout(folder, json.dumps(layout).encode())
    for use in (SqliteWriter, SqliteReader, lambda folder: SqliteStore(folder, 2).create()):
        with pytest.raises(StoreError) as caught:
            use(folder)
        assert not isinstance(caught.value, StoreNotReady)
        assert caught.value.found == f"schema {found}"
        assert caught.value.expected == f"schema {schema.SCHEMA_VERSION}"
        assert caught.value.hint


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1, "shards": 2}', b'{"schema": "1"}'],
    ids=str,
)
def test_a_damaged_layout_is_refused(tmp_path: Path, content: bytes) -> None:
    write_layout(tmp_path, content)
    for use in (SqliteWriter, SqliteReader, lambda folder: SqliteStore(folder, 2).create()):
        with pytest.raises(StoreError) as caught:
            use(tmp_path)
        assert not isinstance(caught.value, StoreNotReady)
        assert "store.json" in str(caught.value.where)


@BOTH_SIDES
def test_a_folder_in_place_of_a_file_is_refused(
    tmp_path: Path, side: type[SqliteWriter | SqliteReader]
) -> None:
    (tmp_path / "store.json").mkdir()
    with pytest.raises(StoreError):
        side(tmp_path)


def unanswered(folder: Path) -> frozenset[int]:
    """Return the partitions that a reader does not answer for."""
    reader = SqliteReader(folder)
    with reader.snapshot() as snapshot:
        found = snapshot.held.recovering
        assert snapshot.held.position.keys() == set(range(PARTITIONS))
    reader.close()
    return found


def test_a_missing_shard_is_refused(folder: Path) -> None:
    (folder / "shard-1.db").unlink()
    with pytest.raises(StoreError, match=r"shard-1\.db"):
        SqliteWriter(folder)
    assert unanswered(folder) == {p for p in range(PARTITIONS) if p % 2}
    assert not (folder / "shard-1.db").exists()


def test_a_damaged_shard_is_refused(folder: Path) -> None:
    (folder / "shard-1.db").write_bytes(b"no database, but a page of something else" * 100)
    with pytest.raises(StoreError, match=r"shard-1\.db"):
        SqliteWriter(folder)
    assert unanswered(folder) == {p for p in range(PARTITIONS) if p % 2}


@pytest.mark.parametrize("edit", [{"shards": 1}, {"shards": 3}, {"shards": 4}, {"partitions": 2}])
def test_a_layout_that_was_edited_is_corrected_and_hides_no_partition(
    folder: Path, edit: dict[str, int]
) -> None:
    layout = schema.read_layout(folder)
    write_layout(folder, msgspec.json.encode(msgspec.structs.replace(layout, **edit)))
    assert unanswered(folder) == set()
    assert schema.read_layout(folder) == layout


def test_a_shard_in_the_place_of_another_answers_for_none_of_its_partitions(folder: Path) -> None:
    (folder / "shard-1.db").write_bytes((folder / "shard-0.db").read_bytes())
    assert unanswered(folder) == {p for p in range(PARTITIONS) if p % 2}


def test_the_layout_that_was_decided_first_stays(folder: Path) -> None:
    asked = schema.Layout(schema.SCHEMA_VERSION, 5, 3)
    assert schema.create(folder, asked, STARTS, STARTS) == schema.Layout(
        schema.SCHEMA_VERSION, 2, PARTITIONS
    )
    assert sorted(path.name for path in folder.glob("*.db")) == ["shard-0.db", "shard-1.db"]


@pytest.mark.parametrize("left", [["shard-0.db"], ["shard-0.db", "shard-1.db"], ["store.json.x"]])
async def test_a_creation_that_was_cut_short_is_finished(folder: Path, left: list[str]) -> None:
    (folder / "store.json").rename(folder / "store.json.x")
    for path in folder.iterdir():
        if path.name not in left:
            path.unlink()
    log = seeded_log(92, jobs=20, events=80, steady=0)
    store = SqliteStore(folder, 2)
    store.create()
    await fill(store, log, seed=random.Random(92).randrange(99))
    check_equal(store, Model(log).advance())
    store.close()


@pytest.mark.parametrize("shards", [1, 3])
async def test_a_creation_that_was_cut_short_may_be_finished_with_other_shards(
    folder: Path, shards: int
) -> None:
    (folder / "store.json").unlink()
    (folder / "shard-1.db").unlink()
    log = seeded_log(93, jobs=20, events=80, steady=0)
    store = SqliteStore(folder, shards)
    store.create()
    await fill(store, log)
    check_equal(store, Model(log).advance())
    store.close()
