"""A projector that was stopped past its session and goes on later: it writes no row."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from projections.sqlite.files.schema import connect
from tests.conftest import MakeLog
from tests.contract.stores import SqliteStore
from tests.faults.flows import equals_fold, losses, stream, until, write
from tests.faults.groups import settled
from tests.processes import Process, projector


@contextlib.contextmanager
def locked(files: list[Path]) -> Iterator[None]:
    """Hold the write lock of SQLite files."""
    with contextlib.ExitStack() as stack:
        for file in files:
            db = stack.enter_context(contextlib.closing(connect(file)))
            db.execute("BEGIN IMMEDIATE")
        yield


def projected(store: SqliteStore) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row that was folded: not when projectors last said that they live."""
    return {table: rows for table, rows in store.rows().items() if table != "beats"}


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
    with locked(store.files()):
        # Stopped with a batch in its hands, folded onto what the store holds now: it has tried to
        # write it. A sign of anything before that would leave it open whether it had one.
        await write(settings, [*stream(7)])
        await until(
            lambda: "action=store_retry" in zombie.log.read_text(), "the zombie had to wait"
        )
        zombie.signal(signal.SIGSTOP)
    await settled(settings, "projector-1")
    await equals_fold(settings)
    before = projected(store)
    zombie.signal(signal.SIGCONT)
    await until(lambda: "action=fenced" in zombie.log.read_text(), "the zombie was fenced")
    await settled(settings, "projector-0", "projector-1")
    assert projected(store) == before
    await write(settings, stream(8))
    await equals_fold(settings)
    assert losses(settings) == []
    assert zombie.child.returncode is other.child.returncode is None
