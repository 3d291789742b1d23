"""An archive: it holds the log's records, each once, whatever happens to it or to the log."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from jobtrail.core.errors import ArchiveError, LogGapError, UsageError
from jobtrail.replay.archive.description import Archive, Span
from jobtrail.replay.archive.place import DRAFTS, ArchiveStore
from jobtrail.replay.archive.reading import ArchiveSource
from jobtrail.replay.archive.writing import Archiver, open_for
from jobtrail.replay.sources.holes import Holes
from tests.archiving import (
    NAME,
    SIZE,
    ListLog,
    archived,
    ends,
    expected,
    files,
    plain_hash,
    rows,
    run,
)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def test_closed_segments_are_archived_whole(to: Path) -> None:
    log = ListLog(250, 99, 100, 0)
    done = run(to, log)
    assert (done.segments, done.records) == (3, 300)
    assert ends(to) == [200, 0, 100, 0]
    assert archived(to) == expected(log, 200, 0, 100, 0)
    assert [name.rpartition("-")[0] for name in files(to) if name.endswith(".parquet")] == [
        "partition-00000/00000000000000000000-00000000000000000099",
        "partition-00000/00000000000000000100-00000000000000000199",
        "partition-00002/00000000000000000000-00000000000000000099",
    ]


def test_a_manifest_has_the_hash_of_the_records_as_the_log_has_them(to: Path) -> None:
    log = ListLog(200, seed=3)
    run(to, log)
    kept = Archive.open(str(to))
    for first in (0, 100):
        manifest = kept.manifest(Span(0, first, first + 99))
        assert manifest.content == plain_hash(log.records[0][first : first + 100])
        assert manifest.file_bytes == (to / manifest.file).stat().st_size


def test_archiving_again_writes_nothing(to: Path) -> None:
    log = ListLog(250, 130)
    run(to, log, rest=True)
    before = files(to)
    assert run(to, log, rest=True).records == 0
    assert run(to, log).records == 0
    assert files(to) == before


@pytest.mark.parametrize("batch", [1, 100, 1_000])
def test_the_same_log_makes_the_same_files(to: Path, tmp_path: Path, batch: int) -> None:
    run(to, ListLog(250, 130))
    run(tmp_path / "other", ListLog(250, 130, batch=batch))
    assert files(to) == files(tmp_path / "other")


def test_the_open_rest_grows_into_a_closed_segment(to: Path, tmp_path: Path) -> None:
    log = ListLog(30, 0)
    for grown in (0, 40, 30, 60):
        log.grow(grown, 1)
        run(to, log, rest=True)
        assert archived(to) == expected(log, *(len(held) for held in log.records))
    run(tmp_path / "at once", log, rest=True)
    assert files(to) == files(tmp_path / "at once"), "something is left of the shorter segments"


def test_the_open_rest_waits_for_the_segment_to_close(to: Path) -> None:
    log = ListLog(130)
    run(to, log, rest=True)
    log.grow(20)
    assert run(to, log).records == 0
    assert ends(to) == [130]


def test_what_the_log_has_deleted_of_an_open_segment_comes_from_the_archive(to: Path) -> None:
    log = ListLog(150)
    run(to, log, rest=True)
    log.grow(100)
    log.first = [120]
    run(to, log)
    assert archived(to) == expected(log, 200)


def test_an_archive_begins_where_the_log_does(to: Path) -> None:
    log = ListLog(250)
    log.first = [30]
    run(to, log)
    assert Archive.open(str(to)).begins() == {0: 30}
    assert archived(to) == log.records[0][30:200]


def test_a_loss_is_told_and_the_other_partitions_are_archived(to: Path) -> None:
    log = ListLog(100, 100)
    run(to, log)
    log.grow(200, 200)
    log.first = [150, 0]
    with pytest.raises(LogGapError, match="partition 0, offsets 100 to 149"):
        run(to, log)
    assert ends(to) == [100, 300]
    run(to, log, holes=Holes(lambda _: None))
    assert ends(to) == [300, 300]
    source = ArchiveSource.open(str(to))
    assert rows(source, {0: 150}, {1: 0}) == log.records[0][150:]
    with pytest.raises(LogGapError, match="partition 0, offsets 100 to 149"):
        rows(source)
    log.grow(100, 100)
    assert run(to, log).records == 200, "a gap that was passed is told once"


@pytest.mark.parametrize("change", ["cluster", "topic", "partitions", "records", "end"])
def test_another_log_is_refused(to: Path, change: str) -> None:
    run(to, ListLog(100, 100))
    before = files(to)
    name, log = NAME, ListLog(150, 150)
    if change in ("cluster", "topic"):
        name = NAME._replace(**{change: "another"})
    elif change == "partitions":
        log = ListLog(150, 150, 0)
    elif change == "records":
        log = ListLog(150, 150, seed=1)
    else:
        log = ListLog(150, 99)
    with pytest.raises(ArchiveError, match="of another log"):
        open_for(ArchiveStore.open(str(to)), name, log, SIZE)
    assert files(to) == before


@pytest.mark.parametrize("offset", [0, 99, 200, 299])
def test_one_other_record_at_either_end_is_seen(to: Path, offset: int) -> None:
    log = ListLog(300)
    run(to, log)
    log.records[0][offset] |= {"value": b"another"}
    with pytest.raises(ArchiveError, match="of another log"):
        run(to, log)


def test_other_records_than_were_asked_for_are_an_error(to: Path) -> None:
    log = ListLog(100)
    archiver = Archiver(open_for(ArchiveStore.open(str(to)), NAME, log, SIZE), log)
    del log.records[0][50]
    log.grow(1)
    with pytest.raises(LogGapError, match="offset"):
        archiver.run(lambda _: None)
    assert ends(to) == [0]
    assert not list((to / DRAFTS).iterdir())


def test_two_at_once_write_one_archive(to: Path, tmp_path: Path) -> None:
    log, behind = ListLog(250, 250), ListLog(180, 180)
    archivers = [
        Archiver(open_for(ArchiveStore.open(str(to)), NAME, each, SIZE), each, rest=True)
        for each in (behind, log)
    ]
    # Both have planned; the one that saw less of the log writes after and before the other.
    second = archivers[1]
    archivers[0].run(lambda _: second.run(lambda _: None))
    assert archived(to) == expected(log, 250, 250)
    run(to, log)
    run(tmp_path / "alone", log, rest=True)
    assert files(to) == files(tmp_path / "alone")


def test_a_reader_goes_on_in_the_segment_that_took_the_place(to: Path) -> None:
    log = ListLog(50)
    run(to, log, rest=True)
    source = ArchiveSource.open(str(to))
    log.grow(100)
    run(to, log)
    assert rows(source, {}, {0: 50}) == expected(log, 50)


def test_an_archive_made_anew_meanwhile_is_not_added_to(to: Path) -> None:
    log = ListLog(250)
    archiver = Archiver(open_for(ArchiveStore.open(str(to)), NAME, log, SIZE), log)
    description = json.loads((to / "archive.json").read_bytes())
    (to / "archive.json").write_text(json.dumps(description | {"segment_records": 7}))
    with pytest.raises(ArchiveError, match="at the same time"):
        archiver.run(lambda _: None)
    assert not list(to.rglob("*.parquet"))


def test_only_old_leavings_are_deleted(to: Path) -> None:
    log = ListLog(100)
    run(to, log)
    wanted = set(files(to))
    stem = "partition-00000/00000000000000000100-00000000000000000199"
    left = [f"{DRAFTS}/{n}" for n in "ab"] + [f"{stem}-{n * 16}.parquet" for n in "ab"]
    for name in left:
        (to / name).write_bytes(b"x")
    for name in left[::2]:
        os.utime(to / name, (0, 0))
    run(to, log)
    assert set(files(to)) == wanted | set(left[1::2])


def test_a_folder_with_other_files_is_no_place_for_an_archive(to: Path) -> None:
    to.mkdir()
    (to / "letter.txt").write_text("Dear")
    with pytest.raises(ArchiveError, match="in the way"):
        run(to, ListLog(100))
    assert set(files(to)) == {"letter.txt"}


def test_there_is_no_archive(to: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive"):
        ArchiveSource.open(str(to))
    with pytest.raises(UsageError, match="no such kind"):
        ArchiveSource.open("ftp://x/y")


def test_a_folder_that_can_not_be_written_is_told(to: Path) -> None:
    to.write_text("a file")
    with pytest.raises(ArchiveError, match=str(to)):
        run(to, ListLog(100))


def test_the_docs_query_reads_what_counts(to: Path) -> None:
    log = ListLog(250, 130)
    kinds: Counter[str | None] = Counter()
    for row in (row for held in log.records for row in held):
        kind = ("job.created", "job.active", None)[row["offset"] % 3]
        row["value"] = b"\xff" if kind is None else b'{"type":"%s"}' % kind.encode()
        kinds[kind] += 1
    run(to, log, rest=True)
    text = (Path(__file__).parents[2] / "docs" / "archive.md").read_text()
    (query,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    found = duckdb.connect().execute(query.replace("/backup/jobs", str(to))).fetchall()
    assert dict(found) == kinds
