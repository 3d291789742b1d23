"""The ports are all that a store has to have: each implementation offers them, and no less."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from projections.ports.read import ProjectionReader, Snapshot, Trail
from projections.ports.write import ProjectionWriter
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
