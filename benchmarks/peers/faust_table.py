"""Stock Faust with a table of jobs: `python -m benchmarks.peers.faust_table --events N`.

As Faust's documentation shows it: an agent takes one event at a time and keeps what is known of a
job in a table on RocksDB, with a changelog in Kafka. The fold is the service's own; there is no
listing and no counter. It says `ready` and what it measured after so many events, and then waits
to be ended.
"""

from __future__ import annotations

from typing import Any

import faust
import msgspec

from benchmarks.peers.stock_faust import Tally, job_events, main, make_app
from jobtrail.core.events import decode
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.settings import Settings


def build_app(settings: Settings, tally: Tally) -> faust.App:
    """Build the app."""
    app = make_app(settings, "rocksdb://?driver=rocksdict")
    table = app.Table("jobs", partitions=settings.partitions, key_type=bytes, value_type=bytes)
    read, write = msgspec.msgpack.Decoder(Job).decode, msgspec.msgpack.Encoder().encode

    async def keep(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            known = table.get(event.key)
            place = Place(message.partition, message.offset, round(message.timestamp * 1e6))
            job, _verdict = fold(read(known) if known else None, decode(event.value), place)
            table[event.key] = write(job)
            tally.one()

    app.agent(job_events(app, settings), concurrency=1, name="keep-jobs")(keep)
    return app


if __name__ == "__main__":
    main(build_app, __doc__)
