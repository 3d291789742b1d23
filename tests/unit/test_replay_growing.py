"""Exports that grow: whatever ends a process when, going on leaves what one export of all has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from pyarrow import parquet

from jobtrail.cli.following import grow
from jobtrail.core.errors import UsageError
from jobtrail.replay import Filters, Replay
from jobtrail.replay.export.export import WRITERS, ndjson
from jobtrail.replay.schemas import EVENTS
from tests.growing_dying import JobLog, export, go_on

ROOT = Path(__file__).parents[2]


def processes(*arguments: object) -> None:
    command = [sys.executable, "-m", "tests.growing_dying", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True)


def rows(path: Path) -> list[object]:
    """Return what an export holds, in the order of the log."""
    if path.suffix == ".parquet":
        table = parquet.read_table(path).select(EVENTS.names)
        return list(
            table.sort_by([("partition", "ascending"), ("offset", "ascending")]).to_pylist()
        )
    head = 1 if path.suffix == ".csv" else 0
    lines = path.read_text().splitlines(keepends=True)
    return [*lines[:head], *sorted(lines[head:])]


def at_once(path: Path, log: JobLog) -> list[object]:
    """Return what one export of a whole log holds."""
    with Replay(log) as replay:
        WRITERS[path.suffix](EVENTS, replay.event_batches(), path)
    return rows(path)


@pytest.mark.parametrize(
    ("name", "by_day", "least"),
    [("a.ndjson", 0, 40), ("a.parquet", 0, 50), ("a.parquet", 1, 60)],
)
def test_killed_at_any_step_it_goes_on(tmp_path: Path, name: str, by_day: int, least: int) -> None:
    wanted = at_once(tmp_path / f"whole.{name}", JobLog())
    to = tmp_path / "killed"
    to.mkdir()
    processes("die_at_every_step", to, name, by_day)
    folders = list(to.iterdir())
    for folder in folders:
        go_on(JobLog(), folder / name, by_day=bool(by_day))
        assert rows(folder / name) == wanted, folder
    assert len(folders) > least


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv"])
def test_a_line_that_is_torn_does_not_stay(tmp_path: Path, name: str) -> None:
    wanted = at_once(tmp_path / f"whole.{name}", JobLog())
    to = tmp_path / "killed"
    to.mkdir()
    processes("die_at_every_size", to, name, 1_999)
    folders = list(to.iterdir())
    assert any(not (folder / name).read_bytes().endswith(b"\n") for folder in folders)
    for folder in folders:
        go_on(JobLog(), folder / name)
        assert rows(folder / name) == wanted, folder
    assert len(folders) > 8


def test_a_folder_holds_a_part_of_each_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    export(JobLog(), path)
    assert sorted(file.name for file in path.iterdir()) == [
        f"part-{number:08}-0.parquet" for number in range(3)
    ]
    with Replay(JobLog()) as replay:
        assert grow(replay, path, Filters(), None) == 0
    assert len(list(path.iterdir())) == 3


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv", "a.parquet"])
def test_what_goes_on_has_to_be_what_was_begun(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    log = JobLog()
    log.limit(0.5)
    with Replay(log) as replay:
        assert grow(replay, path, Filters(users=("u1", "u2")), "0:3") > 0
        for filters, since in ((Filters(), None), (Filters(users=("u1", "u2")), "0:4")):
            with pytest.raises(UsageError, match="nothing to go on from"):
                grow(replay, path, filters, since)
    with Replay(JobLog()) as replay:
        assert grow(replay, path, Filters(users=("u2", "u1")), None) > 0
        assert grow(replay, path, Filters(users=("u2", "u1")), "0:3") == 0
    with Replay(log) as shorter, pytest.raises(UsageError, match="another log"):
        grow(shorter, path, Filters(users=("u1", "u2")), None)


@pytest.mark.parametrize("name", ["a.ndjson", "a.parquet"])
def test_what_was_not_begun_so_does_not_grow(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    at_once(path, JobLog())
    before = path.read_bytes()
    with Replay(JobLog()) as replay, pytest.raises(UsageError, match="nothing to go on from"):
        grow(replay, path, Filters(), None)
    assert path.read_bytes() == before


def test_a_file_that_somebody_changed_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    export(JobLog(), path)
    content = path.read_bytes()
    for changed in (content[:-9], content[:-9] + b"something"):
        path.write_bytes(changed)
        with pytest.raises(UsageError, match="somebody has changed"):
            go_on(JobLog(), path)
        assert path.read_bytes() == changed
    path.unlink()
    export(JobLog(), path)
    assert path.read_bytes() == content


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    export(JobLog(), path)
    with (
        FileLock(tmp_path / ".a.csv.growing" / "lock"),
        pytest.raises(UsageError, match="Another process"),
    ):
        go_on(JobLog(), path)


def test_an_instant_cuts_what_is_added_later_too(tmp_path: Path) -> None:
    path, since = tmp_path / "a.ndjson", "2026-11-21T00:00:00Z"
    for share in (0.3, 0.6, 1):
        log = JobLog()
        log.limit(share)
        with Replay(log) as replay:
            grow(replay, path, Filters(), since)
    with Replay(JobLog()) as replay:
        batches = replay.event_batches(since=since)
        wanted = [line.decode() for batch in batches for line in ndjson(batch)]
    assert rows(path) == sorted(wanted)
