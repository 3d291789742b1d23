"""Fixtures of the tests of PostgreSQL's store: the same names, one store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.postgres_store import PostgresStore


@pytest.fixture
def unmade(tmp_path: Path) -> Iterator[PostgresStore]:
    """Return a store that nobody has created yet."""
    store = PostgresStore(tmp_path)
    yield store
    store.close()
