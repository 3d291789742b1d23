"""Fixtures of the tests of SQLite's store: the same names, other stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.stores import SQLITE, SqliteStore


@pytest.fixture(params=SQLITE)
def unmade(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    """Return a store that nobody has created yet."""
    store = SQLITE[request.param](tmp_path / "store")
    yield store
    store.close()
