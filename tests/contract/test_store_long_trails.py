"""Very long trails: what a store reads and writes for an event does not grow with them."""

from __future__ import annotations

from jobtrail.core.job import entry_at, read_trail, trail_page
from jobtrail.core.partitions import partition_of
from jobtrail.core.trail import CHUNK_ENTRIES, Elsewhere
from tests.contract.store_checks import check_equal
from tests.contract.store_feeding import fill
from tests.contract.store_model import Model
from tests.contract.store_streams import BASE, PARTITIONS, Log
from tests.contract.stores import Kit

CHUNKS = 12
ENTRIES = CHUNKS * CHUNK_ENTRIES + 9
PARTITION = partition_of("long", PARTITIONS)


def long_log() -> Log:
    log = Log()
    log.tell("created", "long", BASE)
    for _ in range(ENTRIES - 1):
        log.tell("progress", "long", BASE)
    return log


async def test_a_page_of_a_trail_is_read_by_its_chunks(store: Kit) -> None:
    log = long_log()
    await fill(store, log)
    with store.reader().snapshot() as snapshot:
        job = snapshot.watched(["long"])["long"]
        assert isinstance(job.earlier, Elsewhere)
        assert job.earlier.entries == CHUNKS * CHUNK_ENTRIES
        trail = snapshot.trail("long")
        assert trail is not None
        whole = b"".join(trail.chunks())
        assert len(read_trail(whole)) == ENTRIES
        for size in (1, 7, CHUNK_ENTRIES, 150, 10_000):
            for offset in (0, 1, 63, 64, 65, 300, ENTRIES - 9, ENTRIES - 1, ENTRIES, 10**9):
                part = trail.page(offset, size)
                assert trail_page(part, offset, size) == trail_page(whole, offset, size)
                # The chunk before, those of the page, and the last entries.
                assert len(read_trail(part)) <= size + 3 * CHUNK_ENTRIES
        assert entry_at(trail.page(70, 1), 70) == entry_at(whole, 70)
        assert trail.said() == (0, 0)
        assert snapshot.trail("unknown") is None


async def test_of_two_events_with_one_id_the_first_offset_is_known(store: Kit) -> None:
    log = long_log()
    first = log.records[PARTITION][5]
    for _ in range(2):
        log.add(first.value, first.key)
        for _ in range(CHUNK_ENTRIES):
            log.tell("progress", "long", BASE)
    await fill(store, log)
    with store.reader().snapshot() as snapshot:
        trail = snapshot.trail("long")
        assert trail is not None
        keys = [entry.key for entry in read_trail(b"".join(trail.chunks()))]
        assert keys.count(keys[5]) == 3
        assert trail.seen({keys[5], keys[6], b"whatever"}) == {keys[5]: 5, keys[6]: 6}
    check_equal(store, Model(log).advance())
    assert store.tallies()[PARTITION].duplicate == 2
