"""Archives of logs with offsets that have no record: of right, or since the log lost them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobtrail.core.errors import ArchiveError, LogGapError
from jobtrail.replay.archive.checking import verify
from jobtrail.replay.archive.description import Archive, Span
from jobtrail.replay.archive.joined import JoinedSource
from jobtrail.replay.archive.reading import ArchiveSource
from jobtrail.replay.sources.holes import Hole, Holes
from tests.archiving import ListLog, archived, ends, expected, plain_hash, rows, run

FAR = 10_300


def nothing_wrong(to: Path) -> int:
    """Return how many records were compared."""
    told = [(0, 0)]
    assert list(verify(Archive.open(str(to)), lambda *done: told.append(done))) == []
    return told[-1][1]


def test_offsets_without_a_record_are_no_loss(tmp_path: Path) -> None:
    log = ListLog(250, 100)
    # At the beginning and the end of a segment, all of another one, and the end of the log.
    log.without = {(0, n) for n in (0, 1, 50, 99, *range(100, 200), 249)} | {(1, 99)}
    done = run(tmp_path, log, rest=True)
    assert (done.segments, done.records) == (4, 96 + 0 + 49 + 99)
    assert ends(tmp_path) == [250, 100]
    assert archived(tmp_path) == expected(log, 250, 100)
    assert nothing_wrong(tmp_path) == done.records
    manifest = Archive.open(str(tmp_path)).manifest(Span(0, 0, 99))
    assert (manifest.count, manifest.first, manifest.last) == (96, 0, 99)
    assert manifest.content == plain_hash(expected(log, 100, 0))
    assert b"holes" not in (tmp_path / Span(0, 0, 99).manifest).read_bytes()
    assert run(tmp_path, log, rest=True).segments == 0
    assert rows(JoinedSource(ArchiveSource.open(str(tmp_path)), log)) == expected(log, 250, 100)


WITHOUT = st.frozensets(st.tuples(st.integers(0, 1), st.integers(0, 119)), max_size=200)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(WITHOUT, st.integers(13, 60), st.integers(0, 119), st.data())
def test_any_range_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    without: frozenset[tuple[int, int]],
    size: int,
    gone: int,
    data: st.DataObject,
) -> None:
    to = tmp_path_factory.mktemp("archive")
    log = ListLog(120, 60, batch=data.draw(st.integers(1, 50)))
    log.without = set(without)
    run(to, log, size)
    log.first = [min(gone, ends(to)[0]), 0]
    source = JoinedSource(ArchiveSource.open(str(to)), log)
    wanted = expected(log, 120, 60)
    assert rows(source) == wanted
    first = data.draw(st.integers(0, 120))
    end = data.draw(st.integers(first, 120))
    assert rows(source, {0: first}, {0: end}) == [
        row for row in wanted if row["partition"] == 1 or first <= row["offset"] < end
    ]
    assert nothing_wrong(to) == len(archived(to))


def test_a_range_of_a_large_segment_is_read_without_what_lies_before_it(tmp_path: Path) -> None:
    log = ListLog(2 * FAR, batch=5_000)
    log.without = {(0, n) for n in range(0, 2 * FAR, 3)}
    run(tmp_path, log, 2 * FAR)
    source = ArchiveSource.open(str(tmp_path))
    for first in (0, 9_999, FAR, 2 * FAR - 5):
        wanted = [row for row in expected(log, 2 * FAR) if first <= row["offset"] < first + 7]
        assert rows(source, {0: first}, {0: min(first + 7, 2 * FAR)}) == wanted


def test_a_loss_stops_its_partition_and_can_be_passed_over(tmp_path: Path) -> None:
    log = ListLog(300, 200)
    log.lost = {(0, 150), (0, 151)}
    with pytest.raises(LogGapError, match="partition 0, offsets 150 to 150"):
        run(tmp_path, log)
    assert ends(tmp_path) == [100, 200]

    told: list[str] = []
    log.holes = Holes(told.append)
    done = run(tmp_path, log, holes=log.holes)
    assert (done.segments, done.records, len(told)) == (2, 198, 2)
    kept = Archive.open(str(tmp_path))
    assert kept.manifest(Span(0, 100, 199)).holes == ((150, 150), (151, 151))
    assert [(fault.kind, fault.first) for fault in verify(kept, lambda *_: None)] == [
        ("gap", 150),
        ("gap", 151),
    ]

    with pytest.raises(LogGapError, match="partition 0, offsets 150 to 150"):
        archived(tmp_path)
    told.clear()
    source = ArchiveSource.open(str(tmp_path), Holes(told.append))
    for _ in range(2):
        assert rows(source) == expected(log, 300, 200)
    assert len(told) == 2
    assert rows(ArchiveSource(kept), {0: 152}) == [
        row for row in expected(log, 300, 200) if row["partition"] or row["offset"] > 151
    ]


def test_holes_between_segments_and_between_archive_and_log_are_passed_over(
    tmp_path: Path,
) -> None:
    log = ListLog(400)
    run(tmp_path, log, rest=True)
    for first in (100, 300):
        (tmp_path / Span(0, first, first + 99).manifest).unlink()
    log.first = [350]
    holes = Holes(lambda _: None)
    source = JoinedSource(ArchiveSource.open(str(tmp_path), holes), log, holes)
    kept = [row for row in expected(log, 400) if row["offset"] // 100 in (0, 2)]
    assert rows(source) == [*kept, *log.records[0][350:]]
    assert holes.within(Hole(0, 0, 399)) == [Hole(0, 100, 199), Hole(0, 300, 349)]
    alone = ArchiveSource.open(str(tmp_path), holes)
    assert rows(alone, {}, {0: 400}) == kept


def test_compaction_takes_nothing_from_an_archive(tmp_path: Path) -> None:
    log = ListLog(50)
    run(tmp_path, log, rest=True)
    whole = expected(log, 50)
    log.grow(100)
    log.without = {(0, n) for n in range(0, 50, 2)} | {(0, 49), (0, 60)}
    with pytest.raises(ArchiveError, match="of another log"):
        run(tmp_path, log)
    log.compacted = True
    assert run(tmp_path, log).records == 99
    assert archived(tmp_path) == [*whole, *expected(log, 100)[24:]]
    source = JoinedSource(ArchiveSource.open(str(tmp_path)), log)
    assert rows(source) == [*whole, *expected(log, 150)[24:]]
    # Other records are no leftovers.
    other = ListLog(150, seed=1)
    other.compacted = True
    with pytest.raises(ArchiveError, match="of another log"):
        run(tmp_path, other)


def test_a_manifest_that_counts_more_than_there_can_be_is_refused(tmp_path: Path) -> None:
    run(tmp_path, ListLog(100))
    path = tmp_path / Span(0, 0, 99).manifest
    path.write_text(json.dumps(json.loads(path.read_text()) | {"count": 101}))
    with pytest.raises(ArchiveError, match="another segment"):
        archived(tmp_path)
