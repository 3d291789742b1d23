"""Files that appear whole: what readers see, what a killed writer leaves, who cleans up."""

from __future__ import annotations

import re
import resource
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobtrail.files.atomic import atomic_write

ROOT = Path(__file__).parents[2]
#: Dies between the last byte and the new name.
STOPPED = """
import os, signal, sys
from pathlib import Path
import jobtrail.files.atomic as atomic
Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
atomic.atomic_write(Path(sys.argv[1]), b"new")
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def killed_writer(path: Path) -> None:
    """Run a writer that is killed when its temporary file is complete."""
    done = subprocess.run([sys.executable, "-c", STOPPED, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in (b"first, and long", b"", b"second"):
        atomic_write(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == {"x.json"}


def test_the_mode_is_that_of_the_first_byte(tmp_path: Path) -> None:
    atomic_write(tmp_path / "secret", b"x", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    atomic_write(tmp_path / "plain", b"x")
    (tmp_path / "other").touch()
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "other")}
    assert len(modes) == 1


def test_what_is_not_to_be_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        atomic_write(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == {"x"}


def test_what_killed_writers_leave_is_gone_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "x[1].json"
    path.write_bytes(b"old")
    for _ in range(3):
        killed_writer(path)
        assert path.read_bytes() == b"old"
        assert len(names(tmp_path)) == 2, "the one before was removed by the next"
    other = tmp_path / "x1.json"
    atomic_write(other, b"another file")
    assert len(names(tmp_path)) == 3
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {path.name, other.name}


def test_writers_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x"
    contents = [bytes([n]) * 1000 for n in range(64)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda content: atomic_write(path, content), contents))
    assert path.read_bytes() in contents
    assert names(tmp_path) == {"x"}


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            atomic_write(path, b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"x"}


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "none" / "x", b"")


#: What writes files that are not kept whole: logs, streams of rows, drafts in a folder of `whole`.
STREAMS = {
    "jobtrail/files/atomic.py",
    "jobtrail/replay/export/files.py",
    "jobtrail/replay/archive/place.py",
    "jobtrail/replay/export/growing.py",
    "jobtrail/processes/child_log.py",
    # Moves whole databases, the WAL first; there is no content to write.
    "projections/sqlite/write/replacing.py",
}
#: A file that takes another's place, or text that is written where it lies.
BY_HAND = re.compile(
    r"""\.write_(?:bytes|text)\(|mkstemp|os\.(?:rename|replace)\(|
    \.replace\((?:path|target|file|self\.\w*path|\w+\s/)|hardlink_to""",
    re.VERBOSE,
)


def test_there_is_one_way_to_write_a_file_for_good() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("jobtrail", "services", "projections")
        for path in (ROOT / folder).rglob("*.py")
        if BY_HAND.search(path.read_text(encoding="utf-8"))
    }
    assert found == STREAMS
