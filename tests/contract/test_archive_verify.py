"""Whatever is wrong with an archive is named, by whoever verifies it and whoever reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from jobtrail.core.errors import ArchiveError, JobtrailError, LogGapError
from jobtrail.replay.archive.checking import Fault, verify
from jobtrail.replay.archive.description import Archive, Span
from jobtrail.replay.archive.place import ArchiveStore
from jobtrail.replay.archive.segment_files import (
    GROUP_BYTES,
    GROUP_ROWS,
    FileSummary,
    read_file,
    write_file,
)
from tests.archiving import ListLog, archived, batch_of, expected, record, rows, run

SEGMENT = Span(1, 100, 199)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    run(tmp_path, ListLog(300, 350), rest=True)
    return tmp_path


def faults(to: Path) -> list[Fault]:
    return list(verify(Archive.open(str(to)), lambda *_: None))


def file_of(to: Path, span: Span = SEGMENT) -> Path:
    return to / Archive.open(str(to)).manifest(span).file


def test_nothing_is_wrong(to: Path) -> None:
    done: list[tuple[int, int]] = []
    assert list(verify(Archive.open(str(to)), lambda *told: done.append(told))) == []
    assert done == [*((n, 100 * n) for n in range(1, 7)), (7, 650)]


def remove(to: Path) -> None:
    file_of(to).unlink()


def flip(to: Path) -> None:
    file = file_of(to)
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)


def cut(to: Path) -> None:
    file = file_of(to)
    file.write_bytes(file.read_bytes()[:-10])


def empty(to: Path) -> None:
    file_of(to).write_bytes(b"")


def other_records(to: Path) -> None:
    """Write a sound file of other records, and let the manifest know of the file."""
    file, manifest = file_of(to), to / SEGMENT.manifest
    table = parquet.read_table(file)
    values = table["value"].to_pylist()
    column = pa.array([*values[:-1], b"another"], pa.binary())
    parquet.write_table(table.set_column(4, table.field(4), column), file)
    known = json.loads(manifest.read_bytes())
    known["file_hash"] = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    known["file_bytes"] = file.stat().st_size
    manifest.write_text(json.dumps(known))


def no_manifest(to: Path) -> None:
    (to / SEGMENT.manifest).unlink()


def torn_manifest(to: Path) -> None:
    path = to / SEGMENT.manifest
    path.write_bytes(path.read_bytes()[:-20])


def exchanged_manifest(to: Path) -> None:
    (to / SEGMENT.manifest).write_bytes((to / Span(1, 0, 99).manifest).read_bytes())


def overlapping(to: Path) -> None:
    stem = to / SEGMENT.manifest
    stem.with_name(f"{150:020}-{249:020}.json").write_bytes(stem.read_bytes())


@pytest.mark.parametrize(
    ("harm", "kind", "says"),
    [
        (remove, "file", "no such file"),
        (flip, "file", "sha256:"),
        (cut, "file", "bytes"),
        (empty, "file", "0 bytes"),
        (other_records, "records", "sha256:"),
        (no_manifest, "gap", "offsets 100 to 199"),
        (torn_manifest, "manifest", "can't be understood"),
        (exchanged_manifest, "manifest", "another segment"),
        (overlapping, "overlap", "follow one another"),
    ],
)
def test_a_fault_is_named(to: Path, harm: Callable[[Path], None], kind: str, says: str) -> None:
    harm(to)
    (fault,) = faults(to)
    place = (150, 249) if kind == "overlap" else (100, 199)
    assert (fault.kind, fault.partition, (fault.first, fault.last)) == (kind, 1, place)
    assert says in fault.text
    assert "partition-00001/" in fault.text or "partition 1" in fault.text
    assert "jobtrail archive" in fault.text, "nothing says how to mend it"


@pytest.mark.parametrize("harm", [remove, flip, cut, empty, torn_manifest, exchanged_manifest])
def test_a_reader_meets_an_error_never_other_records(
    to: Path, harm: Callable[[Path], None]
) -> None:
    harm(to)
    with pytest.raises(ArchiveError, match="partition-00001/"):
        archived(to)


def test_every_flipped_byte_is_met(tmp_path: Path) -> None:
    """A reader does not hash the file: what tells them is each page's checksum, or the footer."""
    log = ListLog(20)
    run(tmp_path, log, size=20)
    file = file_of(tmp_path, Span(0, 0, 19))
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert [fault.kind for fault in faults(tmp_path)] == ["file"]
        try:
            found = archived(tmp_path)
        except JobtrailError:
            continue
        assert found == expected(log, 20), f"byte {place} changes records, and nobody is told"


def test_a_gap_is_met_by_who_reads_it(to: Path) -> None:
    no_manifest(to)
    with pytest.raises(LogGapError, match="partition 1, offsets 100 to 199"):
        archived(to)


@pytest.mark.parametrize("harm", [remove, flip, no_manifest, torn_manifest])
def test_it_is_mended_by_deleting_and_archiving_again(
    to: Path, harm: Callable[[Path], None]
) -> None:
    before = sorted(path.name for path in to.rglob("*"))
    name = file_of(to)
    harm(to)
    for file in (name, to / SEGMENT.manifest):
        file.unlink(missing_ok=True)
    assert run(to, ListLog(300, 350)).segments == 1
    assert faults(to) == []
    assert sorted(path.name for path in to.rglob("*")) == before


def test_row_groups_are_bounded_in_rows_and_in_bytes(tmp_path: Path) -> None:
    store = ArchiveStore.open(str(tmp_path))
    large = [record(0, n) | {"value": bytes(GROUP_BYTES // 4)} for n in range(10)]
    small = [record(0, n) for n in range(10, GROUP_ROWS + 20)]
    with store.draft() as (draft, file):
        written = write_file(file, 0, iter([batch_of(large), batch_of(small)]))
    meta = parquet.ParquetFile(tmp_path / draft).metadata
    counts = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
    assert counts == [4, 4, GROUP_ROWS, 12]
    assert written.records == sum(counts)
    held = FileSummary(0, written.records, 0)
    assert max(map(len, read_file(store, draft, held, 0, sum(counts)))) == GROUP_ROWS
    (batch,) = read_file(store, draft, held, 9, 10)
    assert batch["offset"].to_pylist() == [9]


def test_a_range_is_read_of_the_files_it_lies_in(to: Path) -> None:
    log = ListLog(300, 350)
    for path in to.rglob("*.parquet"):
        if path != file_of(to):
            path.unlink()
    source = Archive.open(str(to))
    from jobtrail.replay.archive.reading import ArchiveSource

    ranges = {0: 0, 1: 130}, {0: 0, 1: 170}
    assert rows(ArchiveSource(source), *ranges) == log.records[1][130:170]
