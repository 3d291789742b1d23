"""Files that appear whole or not at all, also where a process is killed while it writes them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobtrail.replay.export.files import whole

DYING = """
import os, signal, sys
from pathlib import Path
from jobtrail.replay.export.files import whole
with whole(Path(sys.argv[1])) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(path: Path, text: str) -> None:
    with whole(path) as draft:
        draft.write_text(text)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_is_there_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.csv"
    with whole(path) as draft:
        draft.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert names(path.parent) == {"a.csv"}


def test_it_stays_what_it_was_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write(path, "half \udc80")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.csv"}


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a[1].csv"
    write(path, "old")
    other = tmp_path / ".a[1].csv.mine_own"
    other.mkdir()
    killed = subprocess.run([sys.executable, "-c", DYING, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 3
    write(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == {path.name, other.name}


def test_two_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with whole(path) as first:
        first.write_text("first")
        write(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert names(tmp_path) == {"a.csv"}
