"""What a peer on Kafka Streams must hold after some records, made with the service's own fold."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from jobtrail.core.events import decode
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, entries_of
from jobtrail.core.states import STATES

_DAY = 86_400_000_000
_BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
_PAYLOADS = ('{"a": [1, "b\\"}"]}', '"text é"', "17", "[ ]", "null")


def unruly(jobs: int, events: int) -> Iterable[tuple[str, bytes]]:
    """Make up events in any order: twice, too late, of other attempts, not allowed."""
    draw = random.Random(7)
    for number in range(events):
        job = f"unruly-{draw.randrange(jobs)}"
        state = draw.choice([*STATES, "progress", "created"])
        data: dict[str, Any] = {}
        if draw.random() < 0.5:
            data["attempt"] = draw.randrange(4)
        if draw.random() < 0.3:
            data["tags"] = {f"tag-{draw.randrange(40)}": str(number) for _ in range(8)}
        if state == "created":
            data |= {"jobType": draw.choice("xyz"), "owner": f"owner-{draw.randrange(3)}"}
            data["viewers"] = draw.choice([[], ["user:v"], ["user:v", "group:g", "user:v"]])
            if draw.random() < 0.5:
                data["bulkId"] = f"bulk-{draw.randrange(3)}"
        elif state == "progress":
            data["progress"] = draw.random()
        for name in {
            "retry": ["error"],
            "completed": ["output"],
            "failed": ["error", "output"],
        }.get(state, ()):
            data[name] = msgspec.Raw(draw.choice(_PAYLOADS).encode())
        event = {
            "specversion": "1.0",
            "id": str(draw.randrange(events)),
            "source": "//tests",
            "type": f"job.{state}",
            "subject": job,
            "time": _BEGIN + timedelta(hours=number / 3, microseconds=draw.randrange(10**6)),
            "data": data,
        }
        yield job, msgspec.json.encode(event)


def expected(records: Iterable[tuple[str, bytes]]) -> dict[str, dict[str, Any]]:
    """Return what has to be in each store, by key.

    Args:
        records: Of each job, its events in order.
    """
    jobs: dict[str, Job] = {}
    for offset, (job_id, value) in enumerate(records):
        jobs[job_id], _ = fold(jobs.get(job_id), decode(value), Place(0, offset, 0))
    listing, members = {}, {}
    counters: dict[str, list[int]] = {}
    for job in jobs.values():
        audience = "\1".join([job.owner, *job.viewers]) if job.owner else ""
        placed = (~job.created_at & (1 << 64) - 1 ^ 1 << 63).to_bytes(8) + job.id.encode()
        for kind, name in (("a", audience), ("e", "*"), ("b", job.bulk_id)):
            if name is not None:
                listing[f"{kind}{name}\0".encode().hex() + placed.hex()] = {}
        if job.owner:
            for principal in (f"user:{job.owner}", *job.viewers):
                members[f"{principal}\0{audience}".encode().hex()] = {}
        day = (job.created_at // _DAY).to_bytes(4)
        for name in (audience, "*"):
            key = (name.encode() + b"\0" + day + (job.job_type or "").encode()).hex()
            counters.setdefault(key, [0] * len(STATES))[STATES.index(job.state)] += 1
    told = {job.id: _told(job) for job in jobs.values()}
    return {"jobs": told, "listing": listing, "members": members, "counters": counters}


def _told(job: Job) -> dict[str, Any]:
    return {
        "state": job.state,
        "createdAt": job.created_at,
        "updatedAt": job.updated_at,
        "startedAt": job.started_at,
        "endedAt": job.ended_at,
        "attempt": job.attempt,
        "owner": job.owner,
        "jobType": job.job_type,
        "bulkId": job.bulk_id,
        "viewers": list(job.viewers),
        "tags": job.tags,
        "progress": job.progress,
        "error": job.error and job.error.decode(),
        "output": job.output and job.output.decode(),
        "events": entries_of(job),
    }


def found(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read what the peer has written, summed up over its partitions."""
    stores: dict[str, dict[str, Any]] = {"jobs": {}, "listing": {}, "members": {}, "counters": {}}
    for line in lines:
        entry = msgspec.json.decode(line)
        store, key = stores[entry.pop("store")], entry.pop("key")
        if "counts" in entry:
            before = store.get(key, [0] * len(STATES))
            store[key] = [a + b for a, b in zip(before, entry["counts"], strict=True)]
        else:
            store[key] = entry
    # A bucket that jobs have left stays behind, empty.
    stores["counters"] = {key: counts for key, counts in stores["counters"].items() if any(counts)}
    return stores
