"""Jobs that live: events of every kind at a steady rate, written by plain aiokafka and by HTTP.

Each acknowledged event goes into a file, a line each: partition, offset, id. What was not
acknowledged is written again under the same id, so the log has repeats of its own accord, beside
those that are made on purpose. A few records are no event.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import aiohttp
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.faults.kit.lives import Life

#: Seconds in which Kafka has to answer what was sent.
_ANSWERED_WITHIN: Final = 45.0
#: Seconds between two turns of the writer.
_TURN: Final = 0.02
#: Seconds until what failed is tried again.
_RETRY_AFTER: Final = 0.2
#: Seconds behind its rate from which on a writer does not catch up any more.
_CATCH_UP: Final = 30.0
#: Seconds in which a producer that is given up has to stop.
_STOPPED_WITHIN: Final = 20.0
#: Events that may be on their way at a time.
_ON_THE_WAY: Final = 4_000


class Load:
    """Makes events of many jobs and writes them at a rate, while it runs.

    Args:
        servers: Kafka, as its writers reach it.
        topic: The log.
        acks: The file of what was acknowledged.
        seed: Of all that is drawn.
        rate: Events a second.
        partitions: Of the log.
    """

    def __init__(
        self, servers: str, topic: str, acks: Path, *, seed: int, rate: float, partitions: int = 8
    ) -> None:
        self._servers = servers
        self._topic = topic
        self._rate = rate
        self._partitions = partitions
        self._draw = random.Random(seed)
        self._name = f"s{seed}"
        self._lives: list[Life] = []
        self._numbers = 0
        # Line by line, so that whoever reads it meanwhile, or after a failure, misses nothing.
        self._file: IO[str] = acks.open("a", buffering=1)
        self._writers = 0
        self._producer: AIOKafkaProducer | None = None
        self._on_the_way = 0
        self._again: deque[tuple[Life | None, bytes, bytes, str, bool]] = deque()
        self._failing: set[asyncio.Future[None]] = set()
        #: What was sent and not answered: by which producer, what, and when; the oldest first.
        self._sent: dict[asyncio.Future[Any], tuple[AIOKafkaProducer, Any, float]] = {}
        self._over = False
        self._pool = max(int(rate * 1.5), 50)
        #: Where events are posted, and with which headers.
        self.url = ""
        self.headers: dict[str, str] = {}
        self.acknowledged = 0
        self.posted = 0
        self.written = 0
        self.repeats = 0
        self.failures = 0
        #: What last kept an event from being written, and a batch from being posted.
        self.not_written = self.not_posted = "nothing"
        #: When the last event was acknowledged, on the monotonic clock.
        self.last_ack = 0.0
        #: Per partition the offset behind the last acknowledged event.
        self.position: dict[int, int] = {}
        #: Of jobs that ended for good, when that was acknowledged; whoever waits takes it out.
        self.ended: dict[str, float] = {}
        self.awaited: set[str] = set()

    # --- what is said

    def _next(self) -> Iterator[tuple[Life | None, bytes, bytes, str, bool]]:
        draw = self._draw
        chance = draw.random()
        if chance < 0.0005:
            yield None, b"no-event", draw.choice((b"no event", b"{}", b"")), "", False
            return
        if len(self._lives) < self._pool or draw.random() < 0.02:
            self._numbers += 1
            self._lives.append(Life(f"{self._name}-job-{self._numbers}", draw))
        number = draw.randrange(len(self._lives))
        life = self._lives[number]
        if life.said and draw.random() < 0.05:
            value = draw.choice(life.said)
            yield life, life.id.encode(), value, json.loads(value)["id"], False
        last = life.ending
        value, event_id = self._event(life)
        if last:
            self._lives[number] = self._lives[-1]
            self._lives.pop()
        yield life, life.id.encode(), value, event_id, last and life.ends

    def _event(self, life: Life) -> tuple[bytes, str]:
        kind, data = life.steps[life.at]
        event_id = f"{life.id}.{life.at}"
        life.at += 1
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": event_id,
            "source": "//kit",
            "type": f"job.{kind}",
            "subject": life.id,
        }
        if self._draw.random() > 0.03:
            event["time"] = datetime.now(UTC).isoformat()
        if data:
            event["data"] = data
        value = json.dumps(event, ensure_ascii=False).encode()
        life.said.append(value)
        return value, event_id

    def candidate(self) -> str | None:
        """Return a job that will end once and for good, and that nobody waits for yet."""
        for _ in range(20):
            life = self._draw.choice(self._lives) if self._lives else None
            if life is not None and life.ends and life.known and life.id not in self.awaited:
                self.awaited.add(life.id)
                return life.id
        return None

    def sample(self, count: int) -> list[Life]:
        """Return some jobs that are under way."""
        return self._draw.sample(self._lives, min(count, len(self._lives)))

    # --- how it is written

    async def run(self) -> None:
        """Write at the rate until `finish`, then until all that was begun is acknowledged."""
        with self._acknowledging():
            try:
                await self._write_all()
                await self._close()
            finally:
                # What is answered after a cancellation is nobody's.
                self._sent.clear()

    @contextlib.contextmanager
    def _acknowledging(self) -> Iterator[None]:
        """Keep the file open for one who takes down what is acknowledged; the last one closes it.

        The events that are written and those that are posted come to their ends by themselves.
        """
        self._writers += 1
        try:
            yield
        finally:
            self._writers -= 1
            if not self._writers:
                self._file.close()

    async def _write_all(self) -> None:
        clock = asyncio.get_running_loop().time
        began, due = clock(), 0.0
        while not self._over or self._again or self._on_the_way:
            now = clock()
            due = max(due, (now - began - _CATCH_UP) * self._rate)
            target = (now - began) * self._rate
            while not self._over and due < target and self._on_the_way < _ON_THE_WAY:
                for one in self._next():
                    due += 1
                    await self._write(one)
            while self._again and self._on_the_way < _ON_THE_WAY:
                self.repeats += 1
                await self._write(self._again.popleft())
            self._give_up_late()
            await asyncio.sleep(_TURN)

    def finish(self) -> None:
        """Begin nothing more."""
        self._over = True

    @property
    def standing(self) -> str:
        """How far it is, in words: for who waits in vain for its end."""
        return (
            f"{self._on_the_way} events are on their way and {len(self._again)} to be written "
            f"again, of which the last failure was {self.not_written}; the last failure of a post "
            f"was {self.not_posted}"
        )

    async def _write(self, one: tuple[Life | None, bytes, bytes, str, bool]) -> None:
        self.written += 1
        self._on_the_way += 1
        try:
            if self._producer is None:
                self._producer = await self._started()
            producer = self._producer
            async with asyncio.timeout(60):
                future = await producer.send(self._topic, one[2], one[1])
        except (KafkaError, TimeoutError, OSError, AssertionError) as error:
            await self._failed(self._producer, one, error)
            return
        self._sent[future] = (producer, one, time.monotonic())
        future.add_done_callback(self._done)

    async def _started(self) -> AIOKafkaProducer:
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._servers,
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                max_batch_size=256 * 1024,
                request_timeout_ms=15_000,
                metadata_max_age_ms=10_000,
            )
            try:
                async with asyncio.timeout(20):
                    await producer.start()
            except (KafkaError, TimeoutError, OSError) as error:
                self.failures += 1
                self.not_written = repr(error)
                self._give_up(producer)
                await asyncio.sleep(_RETRY_AFTER)
            else:
                return producer

    def _give_up_late(self) -> None:
        """Take what was not answered for long as failed: aiokafka may never answer (#1101)."""
        late = time.monotonic() - _ANSWERED_WITHIN
        while self._sent:
            future, (producer, one, sent_at) = next(iter(self._sent.items()))
            if sent_at > late:
                return
            del self._sent[future]
            error = TimeoutError(f"no answer in {_ANSWERED_WITHIN:.0f} s")
            self._failing.add(failing := asyncio.ensure_future(self._failed(producer, one, error)))
            failing.add_done_callback(self._failing.discard)

    def _done(self, done: asyncio.Future[Any]) -> None:
        sent = self._sent.pop(done, None)
        if sent is None:
            # Given up; what comes of it now is nobody's.
            done.cancelled() or done.exception()
            return
        producer, one, _ = sent
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is not None:
            failing = asyncio.ensure_future(self._failed(producer, one, error))
            self._failing.add(failing)
            failing.add_done_callback(self._failing.discard)
            return
        self._on_the_way -= 1
        about = done.result()
        self._acknowledged(about.partition, about.offset, one)

    def _acknowledged(self, partition: int, offset: int, one: Any) -> None:
        self.last_ack = time.monotonic()
        self.acknowledged += 1
        if offset >= self.position.get(partition, 0):
            self.position[partition] = offset + 1
        self._file.write(f"{partition} {offset} {one[3]}\n")
        if one[0] is not None:
            one[0].known = True
        if one[4] and one[0].id in self.awaited:
            self.ended[one[0].id] = self.last_ack

    async def _failed(
        self, producer: AIOKafkaProducer | None, one: Any, error: BaseException
    ) -> None:
        """Write it again with another producer: this one's sequence may be broken."""
        self.failures += 1
        self.not_written = repr(error)
        self._on_the_way -= 1
        self._again.append(one)
        if producer is not None and producer is self._producer:
            self._producer = None
            self._give_up(producer)

    def _give_up(self, producer: AIOKafkaProducer) -> None:
        """Let a producer be stopped, which may take as long as there is no broker."""
        stopping = asyncio.ensure_future(_stopped(producer))
        self._failing.add(stopping)
        stopping.add_done_callback(self._failing.discard)

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            self._give_up(producer)
        if self._failing:
            await asyncio.wait(self._failing)

    # --- by HTTP

    async def run_posting(self, session: aiohttp.ClientSession, every: float) -> None:
        """Post a batch of events of jobs of their own every so many seconds, until `finish`."""
        with self._acknowledging():
            draw = random.Random(f"{self._name}-posted")
            number = 0
            while not self._over:
                number += 1
                life = Life(f"{self._name}-posted-{number}", draw)
                made = [self._event(life) for _ in life.steps]
                body = b"[" + b",".join(value for value, _ in made) + b"]"
                while (verdicts := await self._post(session, body)) is None:
                    self.failures += 1
                    await asyncio.sleep(_RETRY_AFTER)
                self._posted(life, made, verdicts)
                await asyncio.sleep(every)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> list[Any] | None:
        """Post a batch; return its verdicts, or None where it has to be posted again.

        What is wrong with the answer to one that was taken is let out: no other try mends that.
        """
        headers = self.headers | {"Content-Type": "application/cloudevents-batch+json"}
        timeout = aiohttp.ClientTimeout(20)
        try:
            async with session.post(
                f"{self.url}/events", data=body, headers=headers, timeout=timeout
            ) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.not_posted = repr(error)
            return None
        if answer.status != 200:
            self.not_posted = f"{answer.status} {text[:1000]}"
            return None
        verdicts: list[Any] = json.loads(text)["events"]
        return verdicts

    def _posted(self, life: Life, made: list[Any], verdicts: list[Any]) -> None:
        for (value, event_id), verdict in zip(made, verdicts, strict=True):
            ((partition, behind),) = parse_position(verdict["position"]).items()
            one = (life, life.id.encode(), value, event_id, False)
            self._acknowledged(partition, behind - 1, one)
            self.posted += 1


def parse_position(text: str) -> dict[int, int]:
    """Read a position, with or without marks."""
    found = {}
    for pair in text.split(","):
        partition, _, rest = pair.partition(":")
        found[int(partition)] = int(rest.partition(".")[0])
    return found


async def _stopped(producer: AIOKafkaProducer) -> None:
    """Stop a producer, whatever it says: it is not used any more."""
    # Not by a timeout around it: aiokafka's `stop` may swallow the one cancellation that it gets.
    stopping = asyncio.create_task(producer.stop())
    await asyncio.wait([stopping], timeout=_STOPPED_WITHIN)
    if not stopping.done():
        stopping.cancel()
    elif not stopping.cancelled():
        stopping.exception()
