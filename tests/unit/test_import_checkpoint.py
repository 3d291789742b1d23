"""How an import goes on: what a checkpoint counts for, and the report of rejected rows with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobtrail.importing.checkpoint import Checkpoint, Done, Identity, identify
from jobtrail.importing.rejects import MAX_NAMED, Rejects
from jobtrail.importing.row import Row
from jobtrail.importing.running import Source, rejects_of, tasks
from jobtrail.settings import Settings


def nothing(_after: int) -> Iterator[Row]:
    return iter(())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("id\n1\n")
    return path


def done(identity: Identity, rows: int = 5) -> Done:
    return Done(identity, rows, refused=2, rejects="", rejects_bytes=0, position={3: 7})


def test_a_checkpoint_is_read_as_it_was_written_and_forgotten(
    settings: Settings, file: Path
) -> None:
    checkpoint = Checkpoint(settings, file, "")
    assert checkpoint.read() is None
    checkpoint.forget()
    for rows in (5, 6):
        checkpoint.write(done(identify(file, "m"), rows))
        assert Checkpoint(settings, file, "").read() == done(identify(file, "m"), rows)
    assert [path.name for path in checkpoint.path.parent.iterdir()] == [checkpoint.path.name]
    checkpoint.forget()
    assert checkpoint.read() is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"rows":1}', b"\xff"])
def test_a_damaged_checkpoint_counts_for_nothing(
    settings: Settings, file: Path, content: bytes
) -> None:
    checkpoint = Checkpoint(settings, file, "")
    checkpoint.write(done(identify(file, "m")))
    checkpoint.path.write_bytes(content)
    assert checkpoint.read() is None


def test_another_log_or_file_has_a_checkpoint_of_its_own(settings: Settings, file: Path) -> None:
    paths = {
        Checkpoint(settings, file, "").path,
        Checkpoint(settings, file, "other:9092").path,
        Checkpoint(settings, file.with_name("x"), "").path,
        Checkpoint(settings.model_copy(update={"topic": "x"}), file, "").path,
    }
    assert len(paths) == 4
    assert Checkpoint(settings, file.parent / "data" / ".." / file.name, "").path in paths


def change_mapping(_file: Path) -> str:
    return "other"


def change_time(file: Path) -> str:
    os.utime(file, ns=(1, 1))
    return "m"


def change_size(file: Path) -> str:
    before = file.stat()
    with file.open("a") as end:
        end.write("2\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return "m"


def change_head(file: Path) -> str:
    before = file.stat()
    file.write_text("id\n2\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return "m"


@pytest.mark.parametrize("change", [change_mapping, change_time, change_size, change_head])
def test_a_changed_file_or_mapping_begins_anew_and_says_so(
    settings: Settings,
    file: Path,
    change: Callable[[Path], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = Checkpoint(settings, file, "")
    checkpoint.write(done(identify(file, "m")))
    source = Source(file, identify(file, "m"), nothing)
    (task,) = tasks(settings, [source], "", restart=False)
    assert task.done == done(identify(file, "m"))
    assert "continues after 5 rows" in capsys.readouterr().err
    changed = Source(file, identify(file, change(file)), nothing)
    (task,) = tasks(settings, [changed], "", restart=False)
    assert task.done is None
    assert "starts again, it or the mapping has changed" in capsys.readouterr().err
    assert checkpoint.read() is None
    (task,) = tasks(settings, [changed], "", restart=False)
    assert (task.done, capsys.readouterr().err) == (None, "")


def test_anew_passes_over_nothing(
    settings: Settings, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = identify(file, "m")
    Checkpoint(settings, file, "").write(done(identity))
    (task,) = tasks(settings, [Source(file, identity, nothing)], "", restart=True)
    assert task.done is None
    assert "starts again, as requested" in capsys.readouterr().err


def test_the_first_rejected_rows_are_named_and_all_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "rejects"
    with Rejects(report, "row") as rejects:
        for number in range(MAX_NAMED + 7):
            rejects.add(Row(Path("f"), number, error="bad", column="c" if number else ""))
    *named, more = capsys.readouterr().err.splitlines()
    assert named[:2] == ["f, row 0: bad", "f, row 1, column c: bad"]
    assert (len(named), more) == (MAX_NAMED, "and 7 more")
    written = [json.loads(line) for line in report.read_text().splitlines()]
    assert written[:2] == [
        {"file": "f", "row": 0, "column": None, "reason": "bad"},
        {"file": "f", "row": 1, "column": "c", "reason": "bad"},
    ]
    assert len(written) == rejects.count == MAX_NAMED + 7
    assert report.stat().st_size == rejects.bytes


def test_a_report_names_what_is_no_text_in_the_file(tmp_path: Path) -> None:
    report = tmp_path / "rejects"
    with Rejects(report, "row") as rejects:
        rejects.add(Row(Path("f"), 2, error="not UTF-8: \udcfc", column="Gr\udcf6\udcdfe"))
    (line,) = report.read_text("utf-8").splitlines()
    assert json.loads(line) == {
        "file": "f", "row": 2, "column": "Gr\\udcf6\\udcdfe", "reason": "not UTF-8: \\udcfc",
    }  # fmt: skip


def test_the_report_goes_on_behind_what_the_checkpoint_tells_of(
    settings: Settings, file: Path, tmp_path: Path
) -> None:
    report = tmp_path / "rejects"
    with Rejects(report) as rejects:
        rejects.add(Row(file, 1, error="a"))
        kept = rejects.bytes
        rejects.add(Row(file, 2, error="b"))
    identity = identify(file, "m")
    state = Done(identity, 5, refused=1, rejects=str(report), rejects_bytes=kept, position={})
    Checkpoint(settings, file, "").write(state)
    todo = tasks(settings, [Source(file, identity, nothing)], "", restart=False)

    def written(to: Path) -> list[str]:
        with rejects_of(todo, to, "line") as rejects:
            assert rejects.before == 1
            rejects.add(Row(file, 3, error="c"))
            rejects.flush()
            assert to.stat().st_size == rejects.bytes
        return [json.loads(line)["reason"] for line in to.read_text().splitlines()]

    assert written(report) == ["a", "c"]
    # Another file, or one that was cut since, is written from its beginning.
    assert written(tmp_path / "other") == ["c"]
    report.write_text("")
    assert written(report) == ["c"]
