"""A projector that was stopped past its session and goes on later: it writes no row."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.contract.store_streams import PARTITIONS, Log
from tests.contract.stores import SqliteStore
from tests.faults.flows import DEADLINE, equals_fold, losses, read_topic, stream, until, write
from tests.faults.groups import settled
from tests.processes import Process, projector


@contextlib.contextmanager
def locked(files: list[Path]) -> Iterator[None]:
    """Hold the write lock of SQLite files."""
    with contextlib.ExitStack() as stack:
        for file in files:
            db = stack.enter_context(contextlib.closing(sqlite3.connect(file)))
            db.execute("BEGIN IMMEDIATE")
        yield


async def letters_of_both(settings: Settings) -> None:
    """Wait until each of two projectors has written a letter: it comes before the batch's rows."""
    found: set[bytes] = set()
    async with asyncio.timeout(DEADLINE):
        while len(found) < 2:
            letters = (await read_topic(settings, settings.dead_topic))[0]
            found = {dict(letter.headers)["jobtrail-place"] for letter in letters}


@pytest.mark.timeout(420)
async def test_a_projector_stopped_past_its_session_writes_nothing(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    store = SqliteStore(settings.store_folder, settings.shards)
    zombie, other = projector(settings, 0), projector(settings, 1)
    running += [zombie, other]
    await asyncio.gather(zombie.start(), other.start())
    await settled(settings, "projector-0", "projector-1")
    poison = Log()
    for partition in range(PARTITIONS):
        poison.add(b"no event", None, partition=partition)
    with locked(store.files()):
        # Stopped with a batch in its hands, folded onto what the store holds now.
        await write(settings, [*itertools.chain(*poison.records.values()), *stream(7)])
        await letters_of_both(settings)
        zombie.signal(signal.SIGSTOP)
    await settled(settings, "projector-1")
    await equals_fold(settings)
    before = store.rows()
    zombie.signal(signal.SIGCONT)
    await until(lambda: "action=fenced" in zombie.log.read_text(), "the zombie was fenced")
    await settled(settings, "projector-0", "projector-1")
    assert store.rows() == before
    await write(settings, stream(8))
    await equals_fold(settings)
    assert losses(settings) == []
    assert zombie.child.returncode is other.child.returncode is None
