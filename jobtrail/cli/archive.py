"""`jobtrail archive`: the log's history in files that outlive the cluster's retention."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import orjson
from aiokafka.errors import KafkaError

from jobtrail.cli.common import log_options, log_settings, prepare_to_read, progress, skipper
from jobtrail.core.errors import LogUnavailable
from jobtrail.files.private import is_private, keep_private
from jobtrail.internals.aiokafka_admin_internals import Admin
from jobtrail.log.kafka import kafka_security
from jobtrail.settings import Settings
from jobtrail.terminal.text import err, out, out_json

if TYPE_CHECKING:
    from jobtrail.replay.archive.description import Archive

#: Some megabytes of compressed events: few files for a store, little to repeat after a crash.
_SEGMENT_RECORDS: Final = 250_000
#: Timeout in seconds of the request for the cluster's id.
_TIMEOUT: Final = 30.0


@click.command()
@click.option("--to", required=True, help="A folder, or s3://bucket/prefix.")
@click.option("--verify", is_flag=True, help="Write nothing; read and compare the whole archive.")
@click.option("--all", "rest", is_flag=True, help="Also the records after the last closed segment.")
@click.option(
    "--segment-records",
    type=click.IntRange(min=1),
    default=_SEGMENT_RECORDS,
    show_default=True,
    help="Records of a closed segment, for a new archive; an existing one keeps its own.",
)
@click.option("--max-rate", type=click.FloatRange(min=1), help="Records read a second at most.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option(
    "--skip-holes",
    "--past-gap",
    "skip_holes",
    is_flag=True,
    help="Continue after records that the log has lost; each hole is reported.",
)
@log_options
def archive(
    to: str,
    verify: bool,
    rest: bool,
    skip_holes: bool,
    segment_records: int,
    max_rate: float | None,
    as_json: bool,
    data_dir: Path | None,
    bootstrap_servers: str | None,
) -> None:
    """Archive the log as Parquet, in a folder or an S3-compatible store.

    Writes the segments that are closed and not archived yet; running it again, or twice at once,
    changes nothing. Every file is read again and compared before it counts.
    """
    prepare_to_read()
    from jobtrail.replay.archive.description import Archive, LogName
    from jobtrail.replay.archive.place import ArchiveStore
    from jobtrail.replay.archive.writing import Archiver, open_for
    from jobtrail.replay.sources.holes import Holes
    from jobtrail.replay.sources.log import LogSource

    if verify:
        _verify(Archive.open(to), as_json)
        return
    if "://" not in to and is_private(Path(to)):
        # An existing folder that others may read was opened to them on purpose.
        keep_private()
    settings = log_settings(data_dir, bootstrap_servers)
    name = LogName(asyncio.run(_cluster(settings)), settings.topic)
    holes = Holes(skipper(skip_holes))
    log = LogSource(settings, max_rate, holes)
    try:
        kept = open_for(ArchiveStore.open(to), name, log, segment_records)
        archiver = Archiver(kept, log, rest=rest, holes=holes)
        with progress("offsets archived", total=archiver.total) as show:
            done = archiver.run(show)
    finally:
        log.close()
    if as_json:
        outcome = {
            "segments": done.segments,
            "records": done.records,
            "bytes": done.file_bytes,
            "archived": {str(partition): end for partition, end in kept.ends().items()},
        }
        out_json(orjson.dumps(outcome))
    else:
        out(f"{done.records} records archived in {done.segments} segments, {done.file_bytes} bytes")


def _verify(kept: Archive, as_json: bool) -> None:
    """Print what is wrong with an archive; exit with status 1 where anything is."""
    from jobtrail.replay.archive.checking import verify

    segments = sum(len(spans) for spans in kept.spans.values())
    records, faults = 0, []
    with progress("segments compared", total=segments) as show:

        def done(segments: int, compared: int) -> None:
            nonlocal records
            records = compared
            show(segments)

        for fault in verify(kept, done):
            faults.append(fault._asdict())
            if not as_json:
                err(f"{fault.kind}: {fault.text}")
    if as_json:
        out_json(orjson.dumps({"segments": segments, "records": records, "faults": faults}))
    else:
        out(f"{records} records in {segments} segments compared, {len(faults)} faults")
    if faults:
        sys.exit(1)


async def _cluster(settings: Settings) -> str:
    """Return the cluster's id.

    Raises:
        LogUnavailable: Kafka does not answer.
    """
    admin = Admin(bootstrap_servers=settings.bootstrap_servers, **kafka_security(settings))
    try:
        async with asyncio.timeout(_TIMEOUT):
            await admin.start()
            found = await admin.describe_cluster()
    except (KafkaError, TimeoutError) as error:
        raise LogUnavailable(
            "The log can't be reached.", where=settings.bootstrap_servers, found=repr(error)
        ) from None
    finally:
        await admin.close()
    return str(found["cluster_id"])
