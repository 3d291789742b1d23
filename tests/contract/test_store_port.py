"""The ports are all that a store has to have: each implementation offers them, and no less."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from projections.memory.store import MemoryStore
from projections.memory.writer import MemoryWriter
from projections.ports.read import ProjectionReader, Snapshot, Trail
from projections.ports.write import Entry, ProjectionWriter
from projections.projector.store_thread import StoreThread
from tests.contract.stores import Kit


def methods(port: type) -> dict[str, inspect.Signature]:
    """Return what a port asks for."""
    return {
        name: inspect.signature(found)
        for name, found in vars(port).items()
        if inspect.isfunction(found) and not name.startswith("_")
    }


def missing(port: type, implementation: Any) -> list[str]:
    """Return the methods that an implementation has not, or has with other parameters."""
    return [
        name
        for name, wanted in methods(port).items()
        if [*inspect.signature(getattr(type(implementation), name, len)).parameters]
        != [*wanted.parameters]
    ]


def test_each_side_is_what_its_port_asks_for(store: Kit) -> None:
    reader = store.reader()
    assert missing(ProjectionWriter, store.writer()) == []
    assert missing(ProjectionReader, reader) == []
    with reader.snapshot() as snapshot:
        assert missing(Snapshot, snapshot) == []


@pytest.mark.parametrize("port", [ProjectionWriter, ProjectionReader, Snapshot, Trail])
def test_what_a_port_misses_is_seen(port: type) -> None:
    assert set(missing(port, object())) == methods(port).keys() != set()


class Noting(MemoryWriter):
    """Notes in which threads it is read."""

    def __init__(self, store: MemoryStore, *, at_once: bool) -> None:
        super().__init__(store)
        self._at_once = at_once
        self.threads: set[threading.Thread] = set()

    @property
    def reads_at_once(self) -> bool:
        return self._at_once

    def load(self, partition: int, ids: Iterable[str]) -> dict[str, Entry]:
        self.threads.add(threading.current_thread())
        return super().load(partition, ids)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_store_that_takes_time_to_read_is_not_read_on_the_event_loop(at_once: bool) -> None:
    writer = Noting(MemoryStore({0: 0}, {0: 0}), at_once=at_once)
    store = StoreThread(writer)
    assert await store.load(0, ["a", "b"]) == {}
    store.close()
    assert (writer.threads == {threading.current_thread()}) is at_once
    assert len(writer.threads) == 1
