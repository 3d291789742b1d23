"""Records that are no valid event: each is buried once with its reason, and the line goes on."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from jobtrail.core.events import MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES
from jobtrail.core.partitions import partition_of
from jobtrail.log.questions import last_record
from projections.ports.write import Tally
from tests.contract.store_checks import check_equal
from tests.contract.store_feeding import Graveyard, feed, fill, projecting
from tests.contract.store_model import Model
from tests.contract.store_streams import BASE, PARTITIONS, Log, event, seeded_log
from tests.contract.stores import Kit
from tests.groups import group_of

JOB = "job-1"
HOME = partition_of(JOB, PARTITIONS)
GOOD = event("active", JOB, "good", BASE)


def changed(kind: str = "active", **fields: Any) -> bytes:
    """Return an event with other fields in its envelope; None takes a field out."""
    body = {**json.loads(event(kind, JOB, "bad", BASE)), **fields}
    return json.dumps({k: v for k, v in body.items() if v is not None}).encode()


def created(**data: Any) -> bytes:
    """Return a `job.created` with other data; None takes a field out."""
    body = {"jobType": "scan", "owner": "alice", **data}
    return changed("created", data={k: v for k, v in body.items() if v is not None})


#: Key, value and reason of records that are all in the partition of `JOB`.
BAD: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "no value": (b"job-1", None, "no-value"),
    "an empty value": (b"job-1", b"", "no-value"),
    "too large": (b"job-1", GOOD + b" " * MAX_EVENT_BYTES, "too-large"),
    "not UTF-8": (b"job-1", changed(data={"worker": "w"}).replace(b"w", b"\xff"), "not-utf-8"),
    "a lone surrogate": (b"job-1", changed(id="\ud800"), "not-json"),
    "zeros": (b"job-1", b"\x00" * 10, "not-json"),
    "cut off": (b"job-1", GOOD[:-1], "not-json"),
    "something behind": (b"job-1", GOOD + GOOD, "not-json"),
    "a deep nesting": (b"job-1", b"[" * 100_000, "invalid"),
    "a deep output": (
        b"job-1",
        changed(type="job.completed", data={"output": 1}).replace(b"1}}", b"[" * 60_000),
        "invalid",
    ),
    "a list": (b"job-1", b"[" + GOOD + b"]", "invalid"),
    "null": (b"job-1", b"null", "invalid"),
    "no id": (b"job-1", changed(id=None), "invalid"),
    "an empty id": (b"job-1", changed(id=""), "invalid"),
    "no subject": (b"job-1", changed(subject=None), "invalid"),
    "no type": (b"job-1", changed(type=None), "invalid"),
    "an unknown type": (b"job-1", changed(type="job.paused"), "invalid"),
    "another version": (b"job-1", changed(specversion="0.3"), "invalid"),
    "a time without a zone": (b"job-1", changed(time="2026-03-01T00:00:00"), "invalid"),
    "a NUL in the subject": (b"job-1\x00", changed(subject="job-1\x00"), "invalid"),
    "a long subject": (b"j" * 257, changed(subject="j" * 257), "invalid"),
    "no owner": (b"job-1", created(owner=None), "invalid"),
    "a viewer without a kind": (b"job-1", created(viewers=["bob"]), "invalid"),
    "a tag that is no text": (b"job-1", created(tags={"a": 1}), "invalid"),
    "33 tags": (b"job-1", created(tags={f"t{n}": "" for n in range(33)}), "invalid"),
    "a negative attempt": (b"job-1", changed(data={"attempt": -1}), "invalid"),
    "progress above 1": (b"job-1", changed(type="job.progress", data={"progress": 1.1}), "invalid"),
    "a large output": (
        b"job-1",
        changed(type="job.completed", data={"output": "x" * MAX_PAYLOAD_BYTES}),
        "too-large",
    ),
    "no key": (None, GOOD, "wrong-key"),
    "another job's key": (b"job-2", GOOD, "wrong-key"),
    "a key that is not UTF-8": (b"\xff\xfe", GOOD, "wrong-key"),
}


def test_a_record_in_another_partition_than_its_keys_has_a_reason_of_its_own() -> None:
    assert len(BAD) >= 20
    assert {reason for _, _, reason in BAD.values()} | {"wrong-partition"} == {
        "no-value", "too-large", "not-utf-8", "not-json", "invalid", "wrong-key",
        "wrong-partition",
    }  # fmt: skip


async def test_each_bad_record_is_buried_and_the_next_good_one_applied(
    store: Kit,
) -> None:
    log, graveyard = Log(), Graveyard()
    async with projecting(store.writer(), graveyard) as projector:
        for number, (kind, (key, value, reason)) in enumerate(BAD.items(), 1):
            bad = log.add(value, key, partition=HOME)
            good = log.tell("progress", JOB, BASE)
            await projector.apply(HOME, group_of([bad]))
            checkpoint = (await projector.checkpoints())[HOME]
            assert checkpoint.next_offset == good.offset, kind
            assert checkpoint.last == last_record(bad, 0), kind
            await projector.apply(HOME, group_of([bad, good]))
            assert (graveyard.letters[-1].record, len(graveyard.letters)) == (bad, number), kind
            assert graveyard.letters[-1].error.reason == reason, kind
            assert store.tallies()[HOME] == Tally(applied=number, dead=number), kind
    check_equal(store, Model(log).advance())


async def test_bad_records_in_every_partition_do_not_stop_the_line(store: Kit) -> None:
    log, rng = seeded_log(61, jobs=60, events=300, steady=0), random.Random(61)
    mixed, graveyard, expected = Log(), Graveyard(), []
    for partition, records in log.records.items():
        bad = [(*kind, None) for kind in BAD.values()]
        some = [(r.key, r.value, None, r.timestamp) for r in records] + bad
        rng.shuffle(some)
        for key, value, reason, timestamp in some:
            record = mixed.add(value, key, partition=partition, timestamp=timestamp or 7)
            if reason:
                expected.append((record, reason))
        lost = mixed.add(GOOD, JOB.encode(), partition=partition)
        if partition != HOME:
            expected.append((lost, "wrong-partition"))
    async with projecting(store.writer(), graveyard) as projector:
        await feed(projector, mixed, rng)
    found = [(letter.record, letter.error.reason) for letter in graveyard.letters]
    noise = [(record, reason) for record, reason in found if record.value == b"\x00no event"]
    assert sorted(found, key=str) == sorted(expected + noise, key=str)
    assert sum(tally.dead for tally in store.tallies().values()) == len(found)
    check_equal(store, Model(mixed).advance())


async def test_a_batch_of_bad_records_only_moves_the_checkpoint(store: Kit) -> None:
    log, graveyard = Log(), Graveyard()
    for key, value, _ in BAD.values():
        log.add(value, key, partition=3, timestamp=BASE // 1000)
    await fill(store, log, most=1000, again=0.0)
    await fill(store, log)
    assert store.tallies()[3] == Tally(dead=len(BAD))
    check_equal(store, Model(log).advance())
    async with projecting(store.writer(), graveyard) as projector:
        await projector.apply(3, group_of(log.records[3]))
    assert graveyard.letters == []


async def test_nothing_is_written_before_the_dead_are_buried(store: Kit) -> None:
    log = Log()
    log.add(GOOD, JOB.encode())
    log.add(b"bad", JOB.encode())
    before = store.rows()

    class Closed(Graveyard):
        """Takes nothing, once."""

        async def bury(self, letters: Any) -> None:
            await super().bury(letters)
            assert store.rows() == before
            if len(self.letters) == 1:
                raise OSError("closed")

    graveyard = Closed()
    async with projecting(store.writer(), graveyard) as projector:
        with pytest.raises(OSError, match="closed"):
            await projector.apply(HOME, group_of(log.records[HOME]))
        assert store.rows() == before
        await projector.apply(HOME, group_of(log.records[HOME]))
    assert [letter.record.offset for letter in graveyard.letters] == [1, 1]
    check_equal(store, Model(log).advance())
