"""A shard that takes the place of another one."""

from __future__ import annotations

import contextlib
from pathlib import Path

from projections.sqlite.files import schema
from projections.sqlite.write.replacing import Serving
from tests.contract.store_feeding import batch_of
from tests.contract.stores import SqliteStore
from tests.contract.test_store_reset import by_owner


def test_a_shard_that_was_rebuilt_waits_for_no_more_than_the_log_has(
    unmade: SqliteStore, tmp_path: Path
) -> None:
    log = by_owner(("alice", "bob"))
    unmade.create(ends={**log.ends(), 2: 50})
    writer = unmade.writer()
    writer.apply([batch_of(writer, 2, log.records[2])])
    built = SqliteStore(tmp_path / "built", unmade.shards)
    built.create()
    filling = built.writer()
    filling.apply([batch_of(filling, 2, log.records[2])])
    built.close()
    shard = writer.part_of(2)
    path = schema.shard_path(unmade.folder, shard)
    with contextlib.closing(Serving(path)) as serving, serving.locked():
        serving.hand_over(built.folder, shard, {**log.ends(), 2: 2})
    with unmade.reader().snapshot() as snapshot:
        assert snapshot.held.position[2] == 2
        assert snapshot.held.recovering == frozenset()
