"""What is known of whose jobs are, where the projections have not got there: true, and bounded."""

from __future__ import annotations

import json
from typing import Any

from projections.ports.read import Caller
from services.api.live.buffer import MANY, Buffer, Record
from services.api.live.overlay import _AUDIENCE_BYTES, Overlay

KEY = b"job"


def created(partition: int, offset: int, owner: str, *viewers: str) -> Record:
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{partition}-{offset}",
        "source": "//test",
        "type": "job.created",
        "subject": KEY.decode(),
        "data": {"jobType": "t", "owner": owner, "viewers": viewers},
    }
    return (partition, offset, 0, json.dumps(event).encode())


def test_what_records_said_does_not_outlive_them_without_bound() -> None:
    buffer = Buffer(64 << 20)
    overlay = Overlay(buffer, 1_000)
    buffer.listen(overlay.index_audiences)
    buffer.begin(0, 0, 0)
    viewers = [f"user:{number:0>250}" for number in range(64)]
    value = created(0, 0, "alice", *viewers)[3]
    each = 2 * MANY + 1
    for number in range(3 * each):
        buffer.add(b"job-%d" % (number // each), (0, number, 0, value))
        if not number % each:
            buffer.trim({0: number})
    held = [said for said, _size in overlay._audiences.values()]
    assert len(held) == 1
    assert overlay._audiences_size == held[0].size
    # Of many that say little, all are kept.
    for number in range(100):
        overlay.index_audiences(b"%d" % number, [created(0, 10_000 + number, "alice")])
    assert len(overlay._audiences) == 100
    assert overlay._audiences_size == sum(said.size for said, _size in overlay._audiences.values())
    assert overlay._audiences_size < _AUDIENCE_BYTES
    overlay.forget()
    assert overlay._audiences_size == 0


def test_what_is_in_another_partition_says_nothing_of_whose_a_job_is() -> None:
    overlay = Overlay(Buffer(1 << 20), 1_000)
    overlay.index_audiences(KEY, [created(1, offset, "mallory") for offset in range(1_000)])
    said = overlay.index_audiences(KEY, [created(0, 500, "alice")])
    assert [Caller(user).sees(said.jobs[0]) for user in ("alice", "mallory")] == [True, False]
    assert len(said.jobs) == 1
    # The same ones are looked at once.
    again = overlay.index_audiences(KEY, [created(0, 500, "alice"), created(0, 501, "bob")])
    assert [job.owner for job in again.jobs] == ["alice", "bob"]
    assert [job.owner for job in overlay.index_audiences(KEY, [created(0, 501, "bob")]).jobs] == [
        "bob"
    ]
