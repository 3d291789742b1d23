"""What store.json says is what the shards say, however it was torn, changed or deleted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobtrail.core.errors import StoreError, StoreNotReady
from projections.sqlite.files import schema
from projections.sqlite.files.layout import look, recovered_layout, report
from projections.sqlite.files.schema import SCHEMA_VERSION, Layout, create, read_layout, shard_path

Make = Callable[[int, int], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return what makes a store with so many shards and partitions."""

    def made(shards: int, partitions: int) -> Path:
        folder = tmp_path / f"store-{shards}-{partitions}"
        layout = Layout(SCHEMA_VERSION, shards, partitions)
        offsets = dict.fromkeys(range(partitions), 0)
        assert create(folder, layout, offsets, offsets) == layout
        return folder

    return made


def says(folder: Path, content: str) -> None:
    (folder / "store.json").write_text(content)


def wrong(**fields: int) -> str:
    return json.dumps({"schema": SCHEMA_VERSION, "shards": 2, "partitions": 8, **fields})


def remove(folder: Path, shard: int) -> None:
    for file in folder.glob(f"shard-{shard}.db*"):
        file.unlink()


TORN = ["", "{", "[]", "\x00" * 40, '{"schema":4,"shards":']


@pytest.mark.parametrize("content", TORN)
@pytest.mark.parametrize(("shards", "partitions"), [(2, 8), (1, 1), (3, 8), (4, 4), (64, 70)])
def test_a_torn_file_is_found_out_from_the_shards(
    make: Make, content: str, shards: int, partitions: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(shards, partitions)
    says(folder, content)
    layout = Layout(SCHEMA_VERSION, shards, partitions)
    assert read_layout(folder) == layout
    assert "action=layout_found_out" in caplog.text
    caplog.clear()
    assert json.loads((folder / "store.json").read_text())["shards"] == shards
    assert read_layout(folder) == layout
    assert not caplog.text


@pytest.mark.parametrize(
    "content",
    [
        wrong(shards=1),
        wrong(shards=3),
        wrong(shards=0),
        wrong(shards=-1),
        wrong(partitions=4),
        wrong(partitions=12),
        wrong(shards=1, partitions=1),
    ],
)
def test_a_file_that_says_something_else_than_the_shards_is_corrected(
    make: Make, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(2, 8)
    says(folder, content)
    assert read_layout(folder) == Layout(SCHEMA_VERSION, 2, 8)
    assert "did not agree with the shards" in caplog.text
    assert read_layout(folder) == Layout(SCHEMA_VERSION, 2, 8)


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", ["deleted", "zeroed", "swapped"])
def test_a_file_that_is_right_is_believed_though_a_shard_is_lost(
    make: Make, lost: int, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(2, 8)
    remove(folder, lost)
    if how == "zeroed":
        shard_path(folder, lost).write_bytes(b"\0" * 8192)
    elif how == "swapped":
        shutil.copyfile(shard_path(folder, 1 - lost), shard_path(folder, lost))
    assert read_layout(folder) == Layout(SCHEMA_VERSION, 2, 8)
    assert not caplog.text


def test_what_is_right_of_a_wrong_file_decides_where_a_shard_is_lost(make: Make) -> None:
    folder = make(2, 8)
    remove(folder, 1)
    says(folder, wrong(shards=1))
    assert recovered_layout(folder) is None
    assert read_layout(folder) == Layout(SCHEMA_VERSION, 2, 8)


@pytest.mark.parametrize("content", ["{", wrong(shards=1, partitions=5)])
def test_what_cant_be_found_out_is_refused(make: Make, content: str) -> None:
    folder = make(2, 8)
    remove(folder, 1)
    says(folder, content)
    with pytest.raises(StoreError) as refused:
        read_layout(folder)
    assert not isinstance(refused.value, StoreNotReady)
    assert "Delete the folder" in str(refused.value)
    assert (folder / "store.json").read_text() == content


def test_a_missing_file_is_found_out_by_who_makes_stores(make: Make) -> None:
    folder = make(2, 8)
    db = schema.connect(shard_path(folder, 1))
    db.execute("UPDATE checkpoints SET next_offset=7 WHERE partition=3")
    db.close()
    (folder / "store.json").unlink()
    with pytest.raises(StoreNotReady):
        read_layout(folder)
    ends = dict.fromkeys(range(8), 9)
    assert create(folder, Layout(SCHEMA_VERSION, 4, 8), ends, ends) == read_layout(folder)
    assert read_layout(folder).shards == 2
    assert look(folder).readable[1].checkpoints[3] == 7


def test_a_store_that_was_not_made_whole_is_made_again(make: Make) -> None:
    folder = make(2, 8)
    remove(folder, 1)
    (folder / "store.json").unlink()
    ends = dict.fromkeys(range(8), 9)
    layout = Layout(SCHEMA_VERSION, 2, 8)
    assert create(folder, layout, ends, ends) == layout
    assert look(folder).readable.keys() == {0, 1}
    assert look(folder).readable[0].checkpoints[0] == 9


def test_shards_of_another_version_are_not_taken_for_ours(make: Make) -> None:
    folder = make(2, 8)
    for shard in range(2):
        db = schema.connect(shard_path(folder, shard))
        db.execute("PRAGMA user_version=1")
        db.close()
    says(folder, "{")
    with pytest.raises(StoreError, match="another version"):
        read_layout(folder)


def test_a_look_changes_nothing(make: Make) -> None:
    folder = make(2, 8)
    db = schema.connect(shard_path(folder, 0))
    db.execute("UPDATE checkpoints SET next_offset=5 WHERE partition=2")
    # Not closed: what it wrote is in the WAL alone.
    before = {path.name: path.read_bytes() for path in folder.glob("shard-*.db*[lb]")}
    found = report(folder)
    assert found["checkpoints"]["2"] == 5
    assert (found["agrees"], found["unreadable"]) == (True, [])
    assert {path.name: path.read_bytes() for path in folder.glob("shard-*.db*[lb]")} == before
    db.close()
