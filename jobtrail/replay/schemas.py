"""The tables of replay, as Arrow schemas: the same names and types in memory, in files, in DuckDB.

All instants are microseconds in UTC.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

_INSTANT: Final = pa.timestamp("us", tz="UTC")
_TAGS: Final = pa.map_(pa.string(), pa.string())

#: Records as they lie in the log, whether they are valid events or not.
RECORDS: Final = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        #: When the log took it in, by the record's timestamp: whole milliseconds.
        pa.field("logged_at", _INSTANT, nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.list_(pa.struct([("name", pa.binary()), ("value", pa.binary())]))),
    ]
)

#: Valid events, one row each, in log order within a partition.
EVENTS: Final = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("logged_at", _INSTANT, nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        #: `job.created`, `job.active` and so on.
        pa.field("type", pa.string(), nullable=False),
        pa.field("job_id", pa.string(), nullable=False),
        #: The event's own time as the fold takes it: `logged_at` where it names none.
        pa.field("time", _INSTANT, nullable=False),
        pa.field("attempt", pa.int32()),
        pa.field("job_type", pa.string()),
        pa.field("owner", pa.string()),
        pa.field("bulk_id", pa.string()),
        pa.field("viewers", pa.list_(pa.string())),
        pa.field("tags", _TAGS),
        pa.field("progress", pa.float64()),
        #: JSON as it came.
        pa.field("error", pa.string()),
        pa.field("output", pa.string()),
        #: What else `data` says: worker, message, retryAt, reason; a JSON object or null.
        pa.field("details", pa.string()),
        #: Sources that may work on the job beside the one that created it.
        pa.field("writers", pa.list_(pa.string())),
        #: The sources that the event's sender is bound to, as `jobtrail.core.source_binding` packs
        #: them; null for one who may do anything.
        pa.field("bound_to", pa.string()),
    ]
)

#: Jobs as the fold leaves them at one instant or position, one row each.
JOBS: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("job_type", pa.string()),
        pa.field("owner", pa.string()),
        pa.field("bulk_id", pa.string()),
        pa.field("viewers", pa.list_(pa.string())),
        pa.field("tags", _TAGS),
        pa.field("created_at", _INSTANT, nullable=False),
        pa.field("started_at", _INSTANT),
        pa.field("updated_at", _INSTANT, nullable=False),
        pa.field("ended_at", _INSTANT),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("progress", pa.float64()),
        pa.field("error", pa.string()),
        pa.field("output", pa.string()),
        pa.field("partition", pa.int32(), nullable=False),
        #: Events in its trail, and those of them that were not applied.
        pa.field("events", pa.int32(), nullable=False),
        pa.field("ignored", pa.int32(), nullable=False),
    ]
)

#: Every applied event that sets a state, the first one included, in log order within a job.
TRANSITIONS: Final = pa.schema(
    [
        pa.field("job_id", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("time", _INSTANT, nullable=False),
        #: Null for the first.
        pa.field("from_state", pa.string()),
        pa.field("to_state", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        #: Since the transition before, in seconds; null for the first. Can be negative: times come
        #: from the events.
        pa.field("seconds", pa.float64()),
        #: As the job has them at the end of what was read.
        pa.field("job_type", pa.string()),
        pa.field("owner", pa.string()),
        pa.field("bulk_id", pa.string()),
    ]
)
