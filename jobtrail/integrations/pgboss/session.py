"""A session of the bridge: reads what changed, writes it to the log, stores how far it is.

The order makes it lossless: read, send, wait for the acknowledgement, and only then write the
checkpoint. After a crash in between, the same is read and sent again with the same ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Final

import msgspec

from jobtrail.core.errors import EventError
from jobtrail.core.events import NOTHING, Completed, Event, Failed, Retry, decode, encode
from jobtrail.core.job import event_key
from jobtrail.integrations.pgboss.mapping import Labels, Past, PgBossRow, changes
from jobtrail.integrations.pgboss.memory import BridgeCheckpoint, Memory, Reading
from jobtrail.integrations.pgboss.source import NUMBERS, Moment, PgBossSource, Table
from jobtrail.produce.log_writer import LogWriter

logger = logging.getLogger(__name__)

#: Jobs whose events of this session are cached, so that they are not sent again: about 20 MiB.
_CACHED_JOBS: Final = 100_000
#: Seconds between two checkpoints.
_SAVE_EVERY: Final = 2.0
#: The database serves others: it works for the bridge a tenth of the time at most, however long a
#: reading takes, but a change waits at most this many seconds for the next one.
_REST: Final = 9.0
_LONGEST_REST: Final = 60.0
#: Transaction numbers that a session goes back at its start. After a crash PostgreSQL reuses the
#: numbers that were not durable: those of transactions that had not committed, or not durably,
#: since a durable commit makes all numbers before it durable.
_BACK: Final = 1_000


async def elapsed(stop: asyncio.Event, seconds: float) -> None:
    """Wait some seconds, or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


class Figures:
    """Counters of a bridge."""

    def __init__(self) -> None:
        #: Rows read, including those read twice.
        self.read = 0
        #: Events that Kafka has acknowledged.
        self.acknowledged = 0
        #: The position after them.
        self.position: dict[int, int] = {}
        #: Rows and events that are not valid.
        self.refused = 0
        #: Outputs that were too large for an event, or that common JSON parsers refuse.
        self.left_out = 0
        #: Complete readings.
        self.readings = 0
        #: The event loop's clock when the last complete reading began: older changes are sent.
        self.current_at: float | None = None


class Session:
    """A bridge while it has its connections.

    Args:
        source: pg-boss.
        memory: The stored state.
        writer: The log.
        labels: The fields that all events share.
        figures: The counters.
    """

    def __init__(
        self,
        source: PgBossSource,
        memory: Memory,
        writer: LogWriter,
        labels: Labels,
        figures: Figures,
    ) -> None:
        self._source = source
        self._memory = memory
        self._writer = writer
        self._labels = labels
        self._figures = figures
        self._checkpoint = memory.checkpoint
        self._saved_at = 0.0
        #: Seconds that the present reading waited for the database.
        self._spent = 0.0
        #: Of jobs read lately: keys of the ids of the events sent.
        self._sent_keys: OrderedDict[str, bytes] = OrderedDict()
        #: Cancellations of a page, not stored yet.
        self._cancelled: dict[str, Past] = {}

    def forget(self) -> None:
        """Start again with all rows."""
        self._checkpoint = BridgeCheckpoint()

    async def run(self, stop: asyncio.Event, every: float, *, once: bool) -> None:
        """Read repeatedly.

        Args:
            stop: Ends it, after the current page.
            every: The least seconds between two readings.
            once: End when a reading that began in this session is complete.

        Raises:
            Unavailable: PostgreSQL does not answer.
            LogUnavailable: Kafka does not.
        """
        clock = asyncio.get_running_loop().time
        seen = ""
        self._go_back()
        while not stop.is_set():
            began = clock()
            self._spent = 0.0
            moment = await self._source.moment()
            self._begin(moment)
            resumed = self._reading.place != (0, 0) or self._reading.table != 0
            if resumed or not seen or moment.snapshot != seen:
                if not await self._read_tables(stop):
                    break
                seen = "" if resumed else moment.snapshot
            if not resumed:
                self._figures.readings += 1
                self._figures.current_at = began
                if once:
                    break
                await elapsed(stop, max(every, min(_REST * self._spent, _LONGEST_REST)))
        await self._save()

    @property
    def _reading(self) -> Reading:
        assert self._checkpoint.reading is not None
        return self._checkpoint.reading

    def _go_back(self) -> None:
        """Begin a little before the checkpoint: PostgreSQL may have crashed since."""
        at = self._checkpoint
        since = None if at.since is None else max(at.since - _BACK, 1)
        reading = at.reading
        if reading is not None:
            reading = msgspec.structs.replace(reading, until=max(reading.until - _BACK, 1))
        self._checkpoint = BridgeCheckpoint(at.origin, since, reading)

    def _begin(self, moment: Moment) -> None:
        """Continue the reading in progress, or begin the next one."""
        at = self._checkpoint
        since, reading = at.since, at.reading
        # Numbers are not comparable across databases, nor after half a circle.
        newest = max(since or 0, reading.until if reading else 0)
        oldest = min(since or moment.number, reading.until if reading else moment.number)
        if (
            at.origin != moment.origin
            or newest > moment.number
            or moment.number - oldest >= NUMBERS // 4
        ):
            since = reading = None
        reading = reading or Reading(since, moment.number)
        self._checkpoint = BridgeCheckpoint(moment.origin, since, reading)

    async def _read_tables(self, stop: asyncio.Event) -> bool:
        """Finish the reading in progress; False if it was stopped before."""
        for table in await self._source.tables():
            if table.oid < self._reading.table:
                continue
            if not await self._read_table(table, stop):
                return False
        self._checkpoint = BridgeCheckpoint(self._checkpoint.origin, self._reading.until)
        await self._save_at_times()
        return True

    async def _read_table(self, table: Table, stop: asyncio.Event) -> bool:
        """Read a table to its end; False if it was stopped before."""
        reading = self._reading
        file: int | None = table.file
        place = reading.place if (table.oid, file) == (reading.table, reading.file) else (0, 0)
        while True:
            while place[0] < table.blocks:
                if stop.is_set():
                    return False
                place = await self._read_page(table, place)
                reading = Reading(reading.since, reading.until, table.oid, table.file, place)
                self._checkpoint = BridgeCheckpoint(
                    self._checkpoint.origin, self._checkpoint.since, reading
                )
                await self._save_at_times()
            file = await self._source.file_of(table)
            if file is None or file == table.file:
                return True
            # The table was rewritten since, as VACUUM FULL does: its rows have moved.
            found = [t for t in await self._source.tables() if t.oid == table.oid]
            if not found:
                return True
            table, place = found[0], (0, 0)

    async def _read_page(self, table: Table, place: tuple[int, int]) -> tuple[int, int]:
        clock = asyncio.get_running_loop().time
        began = clock()
        page = await self._source.page(table, place, self._reading.since)
        self._spent += clock() - began
        self._figures.read += len(page.rows) + page.refused
        self._figures.refused += page.refused
        self._figures.left_out += page.left_out
        told = [(row.id, event) for row in page.rows for event in self._changes_of(row)]
        # Before their events: a cancellation in the log that is not stored could not be undone.
        self._memory.remember(self._cancelled)
        self._cancelled = {}
        for job, event in told:
            await self._send(job, event)
        return page.next_place

    def _changes_of(self, row: PgBossRow) -> list[Event]:
        past = self._cancelled.get(row.id) or self._memory.past(row.id)
        try:
            told, now = changes(row, past, self._labels)
        except OverflowError:
            # A time beyond the calendar.
            self._figures.refused += 1
            return []
        if now is not None and now != past:
            self._cancelled[row.id] = now
        return told

    async def _send(self, job: str, event: Event) -> None:
        """Send an event, unless this session has sent it."""
        key = event_key(event.id)
        known = self._sent_keys.pop(job, b"")
        if not _holds(known, key):
            try:
                value, fault = _valid(event)
                if fault is not None:
                    self._figures.left_out += 1
                    logger.warning("action=output_left_out job=%s why=%s", job, fault)
                await self._writer.append(job, value, self._acknowledged)
            except EventError:
                # A name that is not valid in an event.
                self._figures.refused += 1
            known += key
        self._sent_keys[job] = known
        if len(self._sent_keys) > _CACHED_JOBS:
            self._sent_keys.popitem(last=False)

    def _acknowledged(self) -> None:
        self._figures.acknowledged += 1

    async def _save_at_times(self) -> None:
        if asyncio.get_running_loop().time() - self._saved_at >= _SAVE_EVERY:
            await self._save()

    async def _save(self) -> None:
        """Write the checkpoint, once Kafka has acknowledged all events before it."""
        await self._writer.settle()
        self._figures.position.update(self._writer.position)
        if self._checkpoint != self._memory.checkpoint:
            self._memory.save(self._checkpoint)
        self._saved_at = asyncio.get_running_loop().time()


def _holds(keys: bytes, key: bytes) -> bool:
    return any(keys[at : at + 8] == key for at in range(0, len(keys), 8))


def _valid(event: Event) -> tuple[bytes, EventError | None]:
    """Encode an event that every reader can decode; an output that is not valid is left out.

    Returns:
        The event, and why its output was left out, if it was.

    Raises:
        EventError: It can't be made valid.
    """
    value = encode(event)
    try:
        decode(value)
    except EventError as error:
        if isinstance(event, Completed):
            event.data.output = NOTHING
        elif isinstance(event, (Failed, Retry)):
            event.data.error = NOTHING
        else:
            raise
        value = encode(event)
        decode(value)
        return value, error
    return value, None
