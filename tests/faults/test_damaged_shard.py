"""A shard that is damaged, missing or another file: it is set aside, and folded again by itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.faults.flows import ends_of, equals_fold, held, said, stream, until, write
from tests.processes import Process, projector

HURT: Final = "shard-1.db"
PAGE: Final = 4096


def whole(path: Path) -> None:
    """Move everything into the file, so that nothing of it lies in the WAL alone."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def flip(path: Path) -> None:
    """Change bytes all over the file, but for its first page."""
    whole(path)
    content = bytearray(path.read_bytes())
    for page in range(PAGE, len(content), PAGE):
        content[page : page + 64] = bytes(byte ^ 0x5A for byte in content[page : page + 64])
    path.write_bytes(content)


def zero_header(path: Path) -> None:
    whole(path)
    with path.open("r+b") as file:
        file.write(bytes(100))


def cut_off(path: Path) -> None:
    whole(path)
    os.truncate(path, path.stat().st_size // PAGE // 2 * PAGE)


def empty(path: Path) -> None:
    whole(path)
    os.truncate(path, 0)


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def lose_wal(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def put_another(path: Path) -> None:
    """Put the other shard's file in its place: a whole database, of other partitions."""
    copy = path.with_name("copy")
    whole(path)
    whole(path.with_name("shard-0.db"))
    shutil.copy(path.with_name("shard-0.db"), copy)
    copy.replace(path)


HARMS: Final[list[Callable[[Path], None]]] = [
    flip,
    zero_header,
    cut_off,
    empty,
    delete,
    delete_all,
    lose_wal,
    put_another,
]


async def level(settings: Settings) -> None:
    ends = await ends_of(settings)
    await until(lambda: held(settings).position == ends, "the store is level")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("alive", [True, False], ids=["alive", "at rest"])
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
async def test_a_shard_that_was_harmed_is_folded_again_and_the_other_goes_on(
    make_log: MakeLog, running: list[Process], harm: Callable[[Path], None], alive: bool
) -> None:
    settings = await make_log()
    await write(settings, stream(61))
    worker = projector(settings)
    running.append(worker)
    await worker.start()
    await level(settings)
    if not alive:
        await worker.kill()
    other = settings.store_folder / "shard-0.db"
    before = other.stat().st_ino
    harm(settings.store_folder / HURT)
    if not alive:
        await worker.start()
    await write(settings, stream(62))
    await equals_fold(settings)
    (line,) = said(settings, "action=shard_made_again")
    assert HURT in line
    assert other.stat().st_ino == before
    assert worker.child.returncode is None


@pytest.mark.timeout(300)
async def test_a_store_that_was_deleted_under_its_projector_is_made_again(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    await write(settings, stream(64))
    worker = projector(settings)
    running.append(worker)
    await worker.start()
    await level(settings)
    shutil.rmtree(settings.store_folder)
    await write(settings, stream(65))
    await until(lambda: (settings.store_folder / "store.json").exists(), "the store is there")
    await equals_fold(settings)
    assert worker.child.returncode is None


@pytest.mark.timeout(300)
async def test_a_shard_that_a_reader_suspects_is_looked_through(
    make_log: MakeLog, running: list[Process]
) -> None:
    """A projector that has nothing to write never meets the damage by itself."""
    settings = await make_log()
    await write(settings, stream(63))
    worker = projector(settings)
    running.append(worker)
    await worker.start()
    await level(settings)
    shard = settings.store_folder / HURT
    suspect = shard.with_suffix(".suspect")
    suspect.touch()
    await until(lambda: not suspect.exists(), "it is looked through")
    assert not said(settings, "action=shard_made_again")
    flip(shard)
    suspect.touch()
    await until(lambda: bool(said(settings, "action=shard_made_again")), "it is made again")
    await equals_fold(settings)
    assert shard.with_suffix(".damaged").exists()
