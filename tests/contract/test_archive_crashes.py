"""Archiving that is killed at any step, or done by several at once, leaves a sound archive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobtrail.replay.archive.checking import verify
from jobtrail.replay.archive.description import Archive
from jobtrail.replay.archive.place import DRAFTS
from tests.archiving import ListLog, archived, ends, expected, files, run

ROOT = Path(__file__).parents[2]


def processes(*arguments: object) -> None:
    command = [sys.executable, "-m", "tests.archive_dying", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True)


def counting(to: Path) -> dict[str, bytes]:
    return {name: held for name, held in files(to).items() if not name.startswith(DRAFTS)}


@pytest.mark.parametrize(
    ("begun", "counts", "least"), [((50, 10), (130, 40), 30), (None, (60, 0), 10)]
)
def test_killed_at_any_step_it_goes_on(
    tmp_path: Path, begun: tuple[int, ...] | None, counts: tuple[int, ...], least: int
) -> None:
    log, before, whole, to = ListLog(*counts), *(tmp_path / name for name in ("a", "b", "c"))
    before.mkdir()
    if begun is not None:
        run(before, ListLog(*begun), rest=True)
    run(whole, log, rest=True)
    processes("die_at_every_step", before, to, *counts)
    folders = sorted(to.iterdir(), key=lambda folder: int(folder.name))
    for folder in folders:
        if (folder / "archive.json").exists():
            assert list(verify(Archive.open(str(folder)), lambda *_: None)) == [], folder
            assert archived(folder) == expected(log, *ends(folder))
        run(folder, log, rest=True)
        assert counting(folder) == counting(whole), folder
    assert len(folders) > least


def test_several_at_once(tmp_path: Path) -> None:
    size, to, counts = tmp_path / "size", tmp_path / "archive", (170, 230)
    size.touch()
    processes("work_at_once", to, size, *counts)
    log = ListLog(*counts)
    run(to, log, rest=True)
    assert list(verify(Archive.open(str(to)), lambda *_: None)) == []
    assert archived(to) == expected(log, *counts)
