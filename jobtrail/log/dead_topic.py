"""The dead-letter topic: reading, retrying and dropping letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from aiokafka.errors import KafkaError

from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError, LogUnavailable
from jobtrail.core.partitions import partition_of_key
from jobtrail.log.clients import Producer
from jobtrail.log.dead_letters import (
    BATCH,
    DONE,
    DROPPED,
    LETTER,
    MARK,
    RETRIED,
    RETRIES,
    RUN,
    DeadLetter,
    LetterFilter,
    OriginalRecord,
    original_of,
    parse_letter,
    parse_resolution,
    records_of,
)
from jobtrail.log.kafka import DEAD_LETTER_BYTES, kafka_security, stop_client
from jobtrail.log.log_range import LogRange
from jobtrail.settings import Settings

#: Letters that are written back, and then resolved, together; they are in memory.
TOGETHER: Final = 200
_TIMEOUT: Final = 30.0


class Outcome(NamedTuple):
    """What was done with a letter, or would be in a dry run."""

    letter: DeadLetter
    #: `retried`, `dropped` or `left`.
    what: str
    #: Why it was left; else its new place in the log, as partition:offset.
    note: str


class DeadTopic:
    """Reads the dead-letter topic, writes letters back and records what was done.

    Use it as an async context manager.

    Args:
        settings: Which Kafka, which topics.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = LogRange(settings, settings.dead_topic)
        self._producer: Any = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            LogUnavailable: Kafka does not answer, or has no such topic.
        """
        await self._topic.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        if self._producer is not None:
            await stop_client(self._producer)
        await self._topic.__aexit__(kind, error, trace)

    async def letters(
        self, wanted: LetterFilter | None = None, *, done: bool = False
    ) -> list[DeadLetter]:
        """Return letters, the oldest first, each once, also where it was written several times.

        Args:
            wanted: Which letters.
            done: Also those that were retried or dropped.

        Raises:
            LogUnavailable: Kafka does not answer.
        """
        chosen = LetterFilter() if wanted is None else wanted
        found: dict[tuple[str, str], DeadLetter] = {}
        resolutions: dict[tuple[str, str], str] = {}
        async for partition, record in self._records():
            if (resolution := parse_resolution(record)) is not None:
                resolutions[resolution[:2]] = resolution[2]
            elif (letter := parse_letter(record, partition)) is not None and chosen.has(letter):
                found.setdefault((letter.place, letter.fingerprint), letter)
        letters = [
            letter._replace(done=resolutions.get(key, ""))
            for key, letter in found.items()
            if done or key not in resolutions
        ]
        return sorted(letters, key=lambda letter: (letter.at, letter.partition, letter.offset))

    async def _records(self) -> AsyncIterator[tuple[int, Any]]:
        begins, ends = await self._topic.begins(), await self._topic.ends()
        async for partition, group in self._topic.read(begins, ends):
            for some in group.until(ends[partition]).pieces():
                for record in some:
                    yield partition, record

    async def originals(
        self, letters: Sequence[DeadLetter]
    ) -> AsyncIterator[tuple[DeadLetter, OriginalRecord]]:
        """Yield letters with their records as they were in the log.

        Raises:
            LogUnavailable: Kafka does not answer.
            LogGapError: A letter is no longer in the topic.
        """
        by_place = {letter.topic_place: letter for letter in letters}
        starts: dict[int, int] = {}
        ends: dict[int, int] = {}
        for partition, offset in by_place:
            starts[partition] = min(starts.get(partition, offset), offset)
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        async for partition, group in self._topic.read(starts, ends):
            for some in group.pieces():
                for record in some:
                    letter = by_place.get((partition, record.offset))
                    if letter is not None:
                        yield letter, original_of(letter, record)

    async def retry(
        self, letters: Sequence[DeadLetter], *, again: bool = False, dry: bool = False
    ) -> list[Outcome]:
        """Write letters' records back to the log, each to its key's partition, and record that.

        One that would be refused again is left as it is, and so is one that was written back
        before and came again: otherwise a record could go back and forth between the topics for
        ever.

        Args:
            letters: Which; those that were retried or dropped before are left.
            again: Also write back those.
            dry: Write nothing.

        Raises:
            LogUnavailable: Kafka does not answer. What was written back without a record of it
                would be written twice by the next retry, which changes nothing: events are
                deduplicated by id.
        """
        async with LogRange(self._settings) as log:
            partitions = log.partitions
        outcomes: list[Outcome] = []
        batch: list[tuple[DeadLetter, list[_RecordToWrite]]] = []
        count = 0
        async for letter, original in self.originals(letters):
            records = [
                _RecordToWrite(one, _home(one.key, letter.partition, partitions))
                for one in records_of(letter, original)
            ]
            if why := _why_not(letter, records, partitions, again=again):
                outcomes.append(Outcome(letter, "left", why))
            elif dry:
                to = sorted({record.to for record in records})
                note = f"partition{'s' if len(to) > 1 else ''} {', '.join(map(str, to))}"
                outcomes.append(Outcome(letter, RETRIED, note))
            else:
                batch.append((letter, records))
                count += len(records)
            if count >= TOGETHER:
                outcomes += await self._write_back(batch)
                batch, count = [], 0
        return outcomes + await self._write_back(batch)

    async def drop(self, letters: Sequence[DeadLetter], *, dry: bool = False) -> list[Outcome]:
        """Record letters as dropped: they are kept, and no longer listed.

        Args:
            letters: Which; those that were retried or dropped before are left.
            dry: Write nothing.

        Raises:
            LogUnavailable: Kafka does not answer.
        """
        outcomes = [
            Outcome(letter, "left", f"was {letter.done} before")
            if letter.done
            else Outcome(letter, DROPPED, "")
            for letter in letters
        ]
        if not dry:
            await self._resolve([o.letter for o in outcomes if o.what == DROPPED], DROPPED)
        return outcomes

    async def _write_back(
        self, batch: Sequence[tuple[DeadLetter, list[_RecordToWrite]]]
    ) -> list[Outcome]:
        sent: list[Any] = []
        for letter, records in batch:
            for original, partition in records:
                kept = [header for header in original.headers if header[0] != RETRIES]
                headers = [*kept, (RETRIES, b"%d" % (letter.retries + 1))]
                sent.append(
                    (self._settings.topic, original.value, original.key, partition, headers)
                )
        places = iter(await self._send(sent))
        outcomes = [
            _outcome(letter, list(islice(places, len(records)))) for letter, records in batch
        ]
        await self._resolve([o.letter for o in outcomes if o.what == RETRIED], RETRIED)
        return outcomes

    async def _resolve(self, letters: Sequence[DeadLetter], done: str) -> None:
        for begin in range(0, len(letters), TOGETHER):
            places = await self._send(
                [
                    (
                        self._settings.dead_topic,
                        b"",
                        letter.place.encode(),
                        None,
                        [
                            (LETTER, letter.place.encode()),
                            (MARK, letter.fingerprint.encode()),
                            (DONE, done.encode()),
                        ],
                    )
                    for letter in letters[begin : begin + TOGETHER]
                ]
            )
            if failed := [place for place in places if isinstance(place, str)]:
                raise LogUnavailable("Letters could not be marked.", found=failed[0])

    async def _send(self, records: Sequence[Any]) -> list[Any]:
        """Write records; return where each went, or why Kafka does not take it."""
        if not records:
            return []
        try:
            async with asyncio.timeout(_TIMEOUT):
                producer = await self._started()
                futures = [
                    await producer.send(topic, value, key, partition=partition, headers=headers)
                    for topic, value, key, partition, headers in records
                ]
                found = await asyncio.gather(*futures, return_exceptions=True)
        except (KafkaError, TimeoutError) as error:
            raise LogUnavailable(
                "Kafka did not take what was to be written.", found=repr(error),
                hint="Try again: an event that comes twice changes nothing.",
            ) from None  # fmt: skip
        for place in found:
            if isinstance(place, BaseException) and not isinstance(place, KafkaError):
                raise place
        return [repr(place) if isinstance(place, KafkaError) else place for place in found]

    async def _started(self) -> Any:
        if self._producer is None:
            producer = Producer(
                bootstrap_servers=self._settings.bootstrap_servers,
                acks="all",
                enable_idempotence=True,
                max_request_size=DEAD_LETTER_BYTES,
                **kafka_security(self._settings),
            )
            await producer.start()
            self._producer = producer
        return self._producer


class _RecordToWrite(NamedTuple):
    """A record to write back, and its partition."""

    original: OriginalRecord
    to: int


def _outcome(letter: DeadLetter, places: Sequence[Any]) -> Outcome:
    """Return the outcome of a letter whose records were written to these places."""
    if failed := [place for place in places if isinstance(place, str)]:
        count = f"{len(failed):,} of {len(places):,}: " if len(places) > 1 else ""
        return Outcome(letter, "left", f"{count}{failed[0]}")
    more = f" and {len(places) - 1:,} more" if len(places) > 1 else ""
    return Outcome(letter, RETRIED, f"{places[0].partition}:{places[0].offset}{more}")


def _home(key: bytes | None, partition: int, partitions: int) -> int:
    """Return the partition of a key; the original one where the key is no job's id."""
    try:
        if key is None:
            return partition
        key.decode()
        return partition_of_key(key, partitions)
    except UnicodeDecodeError:
        return partition


def _why_not(
    letter: DeadLetter, records: Sequence[_RecordToWrite], partitions: int, *, again: bool
) -> str:
    """Return why a letter can't be written back; empty where it can."""
    if letter.done:
        return f"was {letter.done} before"
    if letter.cut:
        return "has not all of the record: it was too large"
    if letter.kind == BATCH:
        return "is a batch that could not be read"
    if lost := [record.to for record in records if record.to >= partitions]:
        return f"the log has no partition {lost[0]}"
    if any(original.key is None and original.value is None for original, _to in records):
        return "has neither key nor value"
    if again:
        return ""
    if letter.retries:
        return "was written back before and came again (--again)"
    for number, (original, to) in enumerate(records):
        try:
            accept(original.key, original.value, to, partitions)
        except EventError as error:
            which = f"record {number + 1:,} of {len(records):,} " if letter.kind == RUN else ""
            return f"{which}would be refused again, {error.reason} (--again)"
    return ""


async def open_letters(settings: Settings, within: float = 5.0) -> tuple[int, datetime | None]:
    """Count the records of the open letters.

    Args:
        settings: Which Kafka, which topic.
        within: Seconds in which they have to be read.

    Returns:
        The number of records that they stand for, and when the newest one was refused.

    Raises:
        LogUnavailable: Kafka does not answer, or there are too many to be read in time.
    """
    try:
        async with asyncio.timeout(within), DeadTopic(settings) as topic:
            letters = await topic.letters()
    except TimeoutError:
        raise LogUnavailable(
            "The dead letters could not be counted in time.", where=settings.dead_topic
        ) from None
    return sum(letter.records for letter in letters), letters[-1].at if letters else None
