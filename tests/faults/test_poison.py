"""Records that are no valid event, in every partition: none of them stops the line."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from jobtrail.events import MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES
from jobtrail.partitions import partition_of
from tests.conftest import MakeLog
from tests.contract.store_streams import PARTITIONS, event
from tests.faults.flows import equals_fold, fold_of, losses, read_topic, write
from tests.processes import Process, projector

#: Names that come twice, bytes that are no text, and no value at all.
HEADERS: Final = (("by", b"\xff\x00"), ("by", b""), ("none", None), ("jobtrail-reason", b"theirs"))
#: Jobs with a home in each partition, in order.
JOBS: Final = [
    next(job for n in range(10_000) if partition_of(job := f"job-{n}", PARTITIONS) == partition)
    for partition in range(PARTITIONS)
]


class Sent(NamedTuple):
    """A record as it was written, and why it is bad."""

    partition: int
    key: bytes | None
    value: bytes | None
    reason: str | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def changed(job: str, **fields: Any) -> bytes:
    """Return a job's event with other fields in its envelope; None takes a field out."""
    body = {**json.loads(event("active", job, "bad")), **fields}
    return json.dumps({k: v for k, v in body.items() if v is not None}).encode()


def kinds(job: str, stranger: str) -> list[tuple[bytes | None, bytes | None, str]]:
    """Return key, value and reason of a record of each bad kind; a stranger lives elsewhere."""
    key, good, large = job.encode(), event("active", job, "bad"), "x" * MAX_PAYLOAD_BYTES
    return [
        (key, None, "no-value"),
        (key, b"", "no-value"),
        (key, good + b" " * MAX_EVENT_BYTES, "too-large"),
        (key, changed(job, type="job.completed", data={"output": large}), "too-large"),
        (key, good.replace(b"//s", b"\xff\xfe"), "not-utf-8"),
        (key, b"\x00" * 10, "not-json"),
        (key, good[:-1], "not-json"),
        (key, good + good, "not-json"),
        (None, b"[" + good + b"]", "invalid"),
        (b"\xff", b"null", "invalid"),
        (key, b"[" * 100_000, "invalid"),
        (key, changed(job, id=None), "invalid"),
        (key, changed(job, subject=None), "invalid"),
        (key, changed(job, type="job.paused"), "invalid"),
        (key, changed(job, specversion="0.3"), "invalid"),
        (key, changed(job, time="2026-03-01T00:00:00"), "invalid"),
        (key, changed(job, id="a\x00b"), "invalid"),
        (key, changed(job, data={"attempt": -1}), "invalid"),
        (key, changed(job, type="job.created", data={"jobType": "scan"}), "invalid"),
        (None, good, "wrong-key"),
        (stranger.encode(), good, "wrong-key"),
        (stranger.encode(), event("active", stranger, "astray"), "wrong-partition"),
    ]


def mixed() -> list[Sent]:
    """Return every kind of bad record in every partition, with a good one behind each."""
    records = []
    for partition, job in enumerate(JOBS):
        for number, (key, value, reason) in enumerate(kinds(job, JOBS[partition - 1])):
            good = event("progress", job, f"{number}", progress=number / 100)
            records.append(Sent(partition, key, value, reason, HEADERS))
            records.append(Sent(partition, job.encode(), good))
    return records


def place_of(topic: str, record: Any) -> bytes:
    return f"{topic}/{record.partition}/{record.offset}".encode()


async def test_bad_records_end_as_dead_letters_and_the_next_good_ones_are_applied(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    sent = mixed()
    bad = [record for record in sent if record.reason]
    assert len(bad) >= 20 * PARTITIONS
    running.append(projector(settings))
    await running[0].start()
    await write(settings, sent)
    log = await equals_fold(settings)
    for tally in fold_of(log).tallies().values():
        assert tally.applied == tally.dead == len(bad) // PARTITIONS
    letters = (await read_topic(settings, settings.dead_topic))[0]
    found = {letter.headers[-1][1]: letter for letter in letters}
    assert len(found) == len(letters) == len(bad)
    for partition, records in log.records.items():
        for original, was in zip(
            records, (record for record in sent if record.partition == partition), strict=True
        ):
            letter = found.pop(place_of(settings.topic, original), None)
            assert (letter is not None) == (was.reason is not None), original
            if letter is not None and was.reason is not None:
                assert (letter.key, letter.value) == (was.key, was.value)
                assert letter.headers[: len(HEADERS)] == HEADERS
                names, values = zip(*letter.headers[len(HEADERS) :], strict=True)
                assert names == ("jobtrail-reason", "jobtrail-detail", "jobtrail-place")
                assert values[0] == was.reason.encode()
                assert values[1].decode()
    assert found == {}
    assert losses(settings) == []
