"""Archive and log read as one: every record once, wherever the one ends and the other begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobtrail.core.errors import ArchiveError, LogGapError
from jobtrail.replay.archive.description import Span
from jobtrail.replay.archive.joined import JoinedSource
from jobtrail.replay.archive.reading import ArchiveSource
from tests.archiving import ListLog, archived, ends, expected, rows, run


def joined(to: Path, log: ListLog) -> JoinedSource:
    source = JoinedSource(ArchiveSource.open(str(to)), log)
    log.reads.clear()
    return source


def test_the_log_is_asked_for_what_is_not_archived(tmp_path: Path) -> None:
    log = ListLog(250, 40, 100)
    run(tmp_path, log)
    assert rows(joined(tmp_path, log)) == expected(log, 250, 40, 100)
    assert sorted(log.reads) == [(0, 200, 250), (1, 0, 40)]


@pytest.mark.parametrize("first", [0, 50, 100, 150, 200])
def test_a_log_whose_beginning_was_deleted(tmp_path: Path, first: int) -> None:
    log = ListLog(250, 250)
    run(tmp_path, log)
    log.first = [first, 0]
    source = joined(tmp_path, log)
    assert (source.begins(), source.ends()) == ({0: 0, 1: 0}, {0: 250, 1: 250})
    assert rows(source) == expected(log, 250, 250)


def test_a_hole_between_them_is_named(tmp_path: Path) -> None:
    log = ListLog(250)
    run(tmp_path, log)
    log.grow(250)
    log.first = [230]
    source = joined(tmp_path, log)
    with pytest.raises(LogGapError, match="partition 0, offsets 200 to 229") as told:
        rows(source)
    assert "from offset 230" in str(told.value)
    assert rows(source, {0: 230}) == log.records[0][230:]
    assert rows(source, {0: 20}, {0: 200}) == log.records[0][20:200]


def test_a_hole_in_the_archive_is_filled_from_the_log(tmp_path: Path) -> None:
    log = ListLog(350)
    run(tmp_path, log)
    (tmp_path / Span(0, 100, 199).manifest).unlink()
    assert rows(joined(tmp_path, log)) == expected(log, 350)
    assert log.reads == [(0, 100, 200), (0, 300, 350)]
    log.first = [130]
    with pytest.raises(LogGapError, match="partition 0, offsets 100 to 129"):
        rows(joined(tmp_path, log))


def test_records_may_move_to_the_archive_while_somebody_reads(tmp_path: Path) -> None:
    log = ListLog(150, 150)
    run(tmp_path, log)
    log.grow(100, 100)
    source = joined(tmp_path, log)
    batches = source.read({0: 0, 1: 0}, {0: 250, 1: 250})
    count = len(next(batches))
    run(tmp_path, log)
    log.first = [200, 200]
    log.reads.clear()
    assert count + sum(map(len, batches)) == 500
    assert log.reads == [(0, 200, 250), (1, 200, 250)]


@pytest.mark.parametrize(("seed", "count"), [(1, 250), (0, 150)])
def test_another_log_is_refused(tmp_path: Path, seed: int, count: int) -> None:
    run(tmp_path, ListLog(250))
    with pytest.raises(ArchiveError, match="of another log"):
        joined(tmp_path, ListLog(count, seed=seed))


STEPS = st.lists(
    st.tuples(
        st.integers(0, 60),  # records that come
        st.integers(0, 2),  # not archived, closed segments, all
        st.floats(0, 1),  # how much of what is archived the log deletes
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS, st.integers(1, 40), st.data())
def test_however_they_meet(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int, float]],
    size: int,
    data: st.DataObject,
) -> None:
    to = tmp_path_factory.mktemp("archive")
    log = ListLog(0, 0)
    run(to, log, size)
    for count, how, deleted in steps:
        log.grow(count, count // 2)
        if how:
            run(to, log, size, rest=how == 2)
        log.first = [
            max(first, int(end * deleted)) for first, end in zip(log.first, ends(to), strict=True)
        ]
    upto = [len(held) for held in log.records]
    source = joined(to, log)
    assert rows(source) == expected(log, *upto)
    first = data.draw(st.integers(0, upto[0]))
    end = data.draw(st.integers(first, upto[0]))
    assert rows(source, {0: first}, {0: end}) == [
        *log.records[0][first:end],
        *log.records[1],
    ]
    assert archived(to) == expected(log, *ends(to))
