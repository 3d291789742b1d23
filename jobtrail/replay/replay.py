"""The one object that analysts hold: events, jobs and transitions out of a log."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError, NotRunning, UsageError
from jobtrail.core.events import Event, from_microseconds
from jobtrail.core.job import Place
from jobtrail.core.position import parse_position
from jobtrail.local.running import with_log
from jobtrail.replay.archive.joined import JoinedSource
from jobtrail.replay.archive.reading import ArchiveSource
from jobtrail.replay.events.decoding import Decoder, in_turn
from jobtrail.replay.filters import Filters
from jobtrail.replay.folding.jobs import Folded, fold_tables
from jobtrail.replay.sources.holes import Holes
from jobtrail.replay.sources.log import LogSource
from jobtrail.replay.sources.source import Source
from jobtrail.replay.tables import Table
from jobtrail.settings import load

#: An instant, as a datetime or in ISO 8601; or a position, as a mapping or in its text form. A
#: date alone is that day's first instant where something begins, its last one where it ends.
When: TypeAlias = datetime | str | Mapping[int, int]
#: Is told how many offsets were read so far, of how many.
Progress: TypeAlias = Callable[[int, int], None]
_EVERYTHING = Filters()
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")


class LoggedEvent(NamedTuple):
    """An event and where it lies in the log."""

    place: Place
    event: Event


class Replay:
    """Reads a log. Use it as a context manager, in scripts and notebooks.

    What was in the log when it was opened is read; `refresh` looks again.

    Args:
        source: Where from.
        progress: Is told of each step of a read.
    """

    def __init__(self, source: Source, progress: Progress | None = None) -> None:
        self._source = source
        #: What the log is called.
        self.name = source.name
        self.progress = progress
        #: Of the last read: how many records were no valid event.
        self.refused = 0
        self.refresh()

    @classmethod
    def open(
        cls,
        *,
        bootstrap_servers: str | None = None,
        data_dir: Path | None = None,
        archive: str | None = None,
        max_rate: float | None = None,
        skip_holes: Callable[[str], None] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Open a log in Kafka, an archive of it, or both as one.

        Args:
            bootstrap_servers: The cluster, `host:port[,host:port]`; None for that of the settings,
                else of the local service.
            data_dir: The local service's; None for the usual one.
            archive: Where `jobtrail archive` writes to: a folder, or s3://bucket/prefix. What it
                holds is read from it, the rest from Kafka; where no cluster is named and no local
                service runs, it alone is read.
            max_rate: Records a second of Kafka's at most; None for as fast as it goes.
            skip_holes: Pass over records that are missing, and tell this of each hole once, in
                words; None: a hole is an error.
            progress: Is told of each step of a read.

        Raises:
            NotRunning: Neither a cluster nor an archive is named, and no local service runs.
            LogUnavailable: The log does not answer.
            ArchiveError: The archive can't be read, or is of another log.
        """
        holes = Holes(skip_holes)
        kept = None if archive is None else ArchiveSource.open(archive, holes)
        settings = load(data_dir=data_dir, bootstrap_servers=bootstrap_servers)
        try:
            settings = with_log(settings)
        except NotRunning:
            if kept is None:
                raise
            return cls(kept, progress)
        log = LogSource(settings, max_rate, holes)
        try:
            return cls(log if kept is None else JoinedSource(kept, log, holes), progress)
        except BaseException:
            log.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Let go of the log."""
        self.close()

    def close(self) -> None:
        """Let go of the log."""
        self._source.close()

    def refresh(self) -> None:
        """Look where the log begins and ends now."""
        self.begins = self._source.begins()
        self.ends = self._source.ends()

    def end_of(self, until: When | None) -> dict[int, int]:
        """Return where a read ends that goes up to here: where the log does, unless at a position.

        Args:
            until: A position has nothing of a partition that it does not name.

        Raises:
            UsageError: The position names a partition that the log has not.
        """
        position = position_of(until)
        if position is None:
            return dict(self.ends)
        for partition in position:
            if partition not in self.ends:
                raise UsageError(
                    "The position names a partition that the log has not.",
                    expected=f"partitions 0 to {len(self.ends) - 1}",
                    found=str(partition),
                )
        return {p: min(end, position.get(p, 0)) for p, end in self.ends.items()}

    def record_batches(
        self, *, since: When | None = None, until: When | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield records as they lie in the log, in batches of `schemas.RECORDS`.

        Args:
            since: A position to begin at; instants cut nothing off here.
            until: A position to stop before.
        """
        start = position_of(since) or {}
        end = self.end_of(until)
        at = {**self.begins, **start}
        total = sum(max(0, last - at[p]) for p, last in end.items())
        done = 0
        for batch in self._source.read(start, end):
            yield batch
            partition = batch["partition"][0].as_py()
            behind = batch["offset"][-1].as_py() + 1
            done, at[partition] = done + behind - at[partition], behind
            if self.progress is not None:
                self.progress(done, total)

    def event_batches(
        self,
        filters: Filters = _EVERYTHING,
        *,
        since: When | None = None,
        until: When | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield valid events, in batches of `schemas.EVENTS`, in log order within a partition.

        Args:
            filters: Only events of jobs that are so at the end of what is read. The log is then
                read twice, unless they only name ids, and the ids of these jobs are held in memory.
            since: Where to begin: a position, or the first instant that an event may name.
            until: Where to stop: a position, or the first instant that no event may name; a date
                alone is the last day that it may name.
        """
        wanted = self._ids(filters, until) if filters else None
        first, behind = instant_of(since), _behind(until)
        self.refused = 0
        decoder = Decoder(len(self.ends))
        for records in self.record_batches(since=since, until=until):
            events, refused = decoder.decode(records)
            self.refused += refused
            if wanted is not None:
                events = events.filter(pc.is_in(events.column("job_id"), value_set=wanted))
            if first is not None:
                events = events.filter(pc.greater_equal(events.column("time"), _scalar(first)))
            if behind is not None:
                events = events.filter(pc.less(events.column("time"), _scalar(behind)))
            if len(events):
                yield events

    def events(
        self,
        filters: Filters = _EVERYTHING,
        *,
        since: When | None = None,
        until: When | None = None,
    ) -> Iterator[LoggedEvent]:
        """Yield valid events as typed objects; all else is as of `event_batches`."""
        wanted = set(self._ids(filters, until).to_pylist()) if filters else None
        first, behind = instant_of(since), _behind(until)
        self.refused = 0
        for records in self.record_batches(since=since, until=until):
            for record in in_turn(records):
                try:
                    event = accept(record.key, record.value, record.place.partition, len(self.ends))
                except EventError:
                    self.refused += 1
                    continue
                time = event.time or from_microseconds(record.place.timestamp)
                if (
                    (first is None or time >= first)
                    and (behind is None or time < behind)
                    and (wanted is None or event.subject in wanted)
                ):
                    yield LoggedEvent(record.place, event)

    def fold(self, when: When | None = None, filters: Filters = _EVERYTHING) -> Folded:
        """Fold the log up to an instant or a position: both tables in one read.

        Args:
            when: An instant: each job as it was after its last event of then or before. A position:
                what the log told before it. None: all there is.
            filters: Only these jobs.

        Returns:
            The tables `jobs` and `transitions`; to be closed.
        """
        batches = self.event_batches(until=position_of(when))
        return fold_tables(
            batches, instant_of(when, last=True), keep=filters.keep if filters else None
        )

    def state_at(self, when: When | None = None, filters: Filters = _EVERYTHING) -> Table:
        """Return the jobs as they were at an instant or a position; see `fold`.

        Returns:
            Rows of `schemas.JOBS`.
        """
        folded = self.fold(when, filters)
        folded.transitions.close()
        return folded.jobs

    def transitions(self, when: When | None = None, filters: Filters = _EVERYTHING) -> Table:
        """Return every transition up to an instant or a position; see `fold`.

        Returns:
            Rows of `schemas.TRANSITIONS`.
        """
        folded = self.fold(when, filters)
        folded.jobs.close()
        return folded.transitions

    def _ids(self, filters: Filters, until: When | None) -> pa.Array:
        if filters.ids_only:
            return pa.array(filters.job_ids, pa.string())
        with self.fold(position_of(until), filters) as folded:
            found = [batch.column("id") for batch in folded.jobs.batches()]
        return pa.concat_arrays(found) if found else pa.array([], pa.string())


def meant(when: When | None, *, last: bool = False) -> datetime | Mapping[int, int] | None:
    """Return the instant, in UTC where it does not say, or the position that is meant.

    Args:
        when: What a user said.
        last: Whether a date alone means its day's last instant, and not the first.

    Raises:
        UsageError: The text is neither.
    """
    if isinstance(when, str):
        try:
            return parse_position(when)
        except UsageError:
            pass
        try:
            if last and _DATE.fullmatch(when):
                return datetime.combine(date.fromisoformat(when), time.max, UTC)
            when = datetime.fromisoformat(when)
        except ValueError:
            raise UsageError(
                "This is neither an instant nor a position in the log.",
                expected="ISO 8601, as 2026-11-23T13:00:00Z, or a position, as 0:10,1:7",
                found=repr(str(when)[:80]),
            ) from None
    if isinstance(when, datetime) and when.tzinfo is None:
        return when.replace(tzinfo=UTC)
    return when


def position_of(when: When | None) -> Mapping[int, int] | None:
    """Return a position; None where an instant is meant, or nothing; see `meant`."""
    found = meant(when)
    return None if isinstance(found, datetime) else found


def instant_of(when: When | None, *, last: bool = False) -> datetime | None:
    """Return an instant; None where a position is meant, or nothing; see `meant`."""
    found = meant(when, last=last)
    return found if isinstance(found, datetime) else None


def _behind(until: When | None) -> datetime | None:
    """Return the first instant that is not meant any more."""
    behind = instant_of(until, last=True)
    if behind is not None and isinstance(until, str) and _DATE.fullmatch(until):
        with contextlib.suppress(OverflowError):
            behind += timedelta(microseconds=1)
    return behind


def _scalar(instant: datetime) -> pa.Scalar:
    return pa.scalar(instant, pa.timestamp("us", tz="UTC"))
