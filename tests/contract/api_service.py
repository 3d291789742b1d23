"""A service for the contract tests: the real application on a real store.

Its log is a list in this process: `project` hands it to the real projector, `show` to the real
tail, so that a test says who has seen what.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from aiokafka import TopicPartition

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.core.partitions import partition_of
from jobtrail.core.position import Position, format_position, mark_of, parse_position
from jobtrail.log.consumers import Group
from jobtrail.log.questions import last_record
from jobtrail.settings import Settings
from projections.projector.projector import Projector
from projections.sqlite.files import schema
from projections.sqlite.read.reader import SqliteReader
from projections.sqlite.write.writer import SqliteWriter
from services.api.app import make_app, make_service
from services.api.feed.spans import Spans
from services.api.ingest import Ingest
from services.api.limits.limits import Timeouts
from services.api.live.bodies import Bodies
from services.api.live.proofs import Proofs, QueryableLog
from services.api.problems.problems import log_unavailable
from services.api.reads.past import Past
from services.api.serving.protocol import Runner
from tests.contract.conformance import assert_documented
from tests.groups import MemoryLog, group_of

PARTITIONS = 3
#: Records that one fetch of the log brings.
FETCHED = 2_000
#: 2026-11-23T13:00:00Z
NOON = 1_795_438_800
NOBODY_LISTENS = "127.0.0.1:1"

#: So that no test ends by a limit that it is not about.
PATIENT = Timeouts(unknown=60, position=60, sign_of_life=60)
#: The content type of every error.
PROBLEM = "application/problem+json"


class Record(NamedTuple):
    """A record as aiokafka gives it, as far as anybody looks."""

    key: bytes | None
    value: bytes | None
    offset: int
    timestamp: int


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def errors(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.json["errors"]
        return found


class ListedBodies(Bodies):
    """Reads the log that is a list in this process."""

    def __init__(self, api: Api) -> None:
        super().__init__("log", {}, api.verifier)
        self._api = api

    async def _group(self, tp: TopicPartition, begin: int) -> Group:
        """Return records from an offset on, as many as one fetch brings."""
        self.scans += 1
        await asyncio.sleep(0)
        await self._api.readable.wait()
        return group_of(self._api.records[tp.partition][begin : begin + FETCHED])

    async def read(
        self, partition: int, keys: Mapping[int, bytes], user: str = ""
    ) -> dict[int, bytes | None]:
        """Return the values of records; without those that the log has lost."""
        lost = self._api.lost
        if lost is None:
            raise log_unavailable("it is away")
        records = self._api.records[partition]
        there = {n: records[n] for n in keys if n < len(records) and (partition, n) not in lost}
        return {n: record.value for n, record in there.items() if record.key == keys[n]}


class ListedIngest(Ingest):
    """Writes to the log that is a list in this process."""

    def __init__(self, api: Api) -> None:
        super().__init__(api.settings)
        self._api = api

    async def write(self, events: Sequence[tuple[str, bytes]]) -> list[Position]:
        """Append events; return the position behind each."""
        return [
            parse_position(self._api.write(job.encode(), value, partition_of(job, PARTITIONS)))
            for job, value in events
        ]


class Api:
    """A running service, and the log that it answers from."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession, **options: Any) -> None:
        #: Whether what is sent to it gets into the log; else Kafka is away.
        writable = options.pop("writable", False)
        timeouts = options.pop("timeouts", Timeouts(unknown=0.2, position=0.2))
        #: Whether histories are read, too, from the log that is a list.
        listed = options.pop("listed", False)
        #: Makes of the records what positions are proven by; else that log is away.
        make_log: Callable[[dict[int, list[Any]]], QueryableLog] | None = options.pop("log", None)
        self.settings = Settings(data_dir=folder, **options)
        self.secret = local_secret(folder)
        #: Cleared, the log keeps those waiting who read it.
        self.readable = asyncio.Event()
        self.readable.set()
        self.session = session
        self.url = ""
        self.runner: Runner | None = None
        self.records: dict[int, list[Any]] = {p: [] for p in range(PARTITIONS)}
        self.projected = dict.fromkeys(range(PARTITIONS), 0)
        self.shown = dict.fromkeys(range(PARTITIONS), 0)
        self.seconds = 0
        self.dead: list[Any] = []
        self.projector: Projector | None = None
        #: Offsets of the log, by partition, that it does not hold any more; None: it is away.
        self.lost: set[tuple[int, int]] | None = set()

        def open_reader() -> SqliteReader:
            return SqliteReader(self.settings.store_folder)

        service = make_service(
            self.settings,
            secret=self.secret,
            open_reader=open_reader,
            kafka={"bootstrap_servers": NOBODY_LISTENS},
            timeouts=timeouts,
        )
        self.verifier = service.verifier
        bodies = ListedBodies(self)
        self.service = dataclasses.replace(
            service,
            past=Past(service.reads, bodies),
            proofs=service.proofs
            if make_log is None
            else Proofs(make_log(self.records), service.verifier, service.buffer),
            bodies=bodies if listed else service.bodies,
            spans=Spans(ListedBodies(self), service.store, self.settings.feed_buffer_bytes // 2),
            ingest=ListedIngest(self) if writable else service.ingest,
        )

    # --- the log

    def emit(self, job: str, kind: str, at: float | None = None, **data: Any) -> str:
        """Write an event of a job; return its position. It is a second after the one before."""
        self.seconds += 1
        seconds = NOON + self.seconds if at is None else at
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"event-{self.seconds}",
            "source": "//test",
            "type": f"job.{kind}",
            "subject": job,
            "time": _iso(seconds),
        }
        if kind == "created":
            data = {"jobType": "bulkPolicy", "owner": "alice"} | data
        value = json.dumps(event | ({"data": data} if data else {})).encode()
        return self.write(job.encode(), value, partition_of(job, PARTITIONS))

    def write(self, key: bytes | None, value: bytes | None, partition: int) -> str:
        """Write any record; return its position."""
        records = self.records[partition]
        records.append(Record(key, value, len(records), (NOON + self.seconds) * 1000))
        return self.position_at({partition: len(records)})

    def make_store(self, ends: dict[int, int] | None = None) -> None:
        """Make the projections, empty; they have to get to `ends` before they count."""
        folder = self.settings.store_folder
        layout = schema.Layout(schema.SCHEMA_VERSION, 2, PARTITIONS)
        begins = dict.fromkeys(range(PARTITIONS), 0)
        schema.create(folder, layout, begins, {**begins, **(ends or {})})

        async def write_dead_letters(dead: Any) -> None:
            self.dead.extend(dead)

        look = MemoryLog({partition: [] for partition in range(PARTITIONS)}, trusted=True)
        self.projector = Projector(SqliteWriter(folder), look, PARTITIONS, write_dead_letters)

    async def project(self) -> None:
        """Let the projector apply what is in the log."""
        assert self.projector is not None
        for partition, records in self.records.items():
            if new := records[self.projected[partition] :]:
                await self.projector.apply(partition, group_of(new))
                self.projected[partition] = len(records)

    def follow(self) -> None:
        """Let the tail begin at the end of the log, which answers from now on."""
        self.service.liveness.note_answer(-1e9)
        for partition, records in self.records.items():
            last = last_record(records[-1], -1) if records else None
            self.service.tail.begin(partition, len(records), last)
            self.shown[partition] = len(records)

    def deafen(self) -> None:
        """Let the log answer no longer."""
        self.service.liveness.note_lost()

    def show(self) -> None:
        """Let the tail take in what is in the log."""
        for partition, records in self.records.items():
            new = records[self.shown[partition] :]
            self.shown[partition] = len(records)
            self.service.tail.take(partition, new, len(records))

    @property
    def end(self) -> str:
        """The position behind everything, as answers have it."""
        return self.position_at({p: len(records) for p, records in self.records.items()})

    def position_at(self, offsets: dict[int, int]) -> str:
        """Return a position with the marks of the records before it."""
        lasts = {p: self.records[p][offset - 1] for p, offset in offsets.items() if offset}
        marks = {p: mark_of(record.key, record.value) for p, record in lasts.items()}
        return format_position(offsets, marks)

    # --- callers

    def token(self, user: str, *groups: str, reads_all: bool = False) -> str:
        permissions = [READ_ALL] if reads_all else []
        return make_token(self.secret, user, groups, permissions, timedelta(hours=1))

    def bearer(self, user: str, *groups: str, reads_all: bool = False) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user, *groups, reads_all=reads_all)}"}

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return await self.ask("GET", path, headers)

    async def statuses(
        self, *ids: str, headers: dict[str, str] | None = None, **fields: Any
    ) -> Answer:
        body = json.dumps({"jobIds": ids, **fields}).encode()
        return await self.ask("POST", "/jobs/statuses", headers, body)

    async def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send a request, as an administrator where no headers say otherwise."""
        if headers is None:
            headers = {}
        if "Authorization" not in headers:
            headers = self.bearer("root", reads_all=True) | headers
        return await self.send(method, path, headers, body)

    async def send(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> Answer:
        """Send a request with exactly these headers."""
        url = aiohttp.client.URL(self.url + path, encoded=True)
        async with self.session.request(method, url, headers=headers, data=body) as response:
            answer = Answer(response.status, response.headers, await response.read())
        assert_documented(method, path, *answer)
        return answer

    async def raw(self, request: bytes) -> tuple[bytes, bytes]:
        """Send bytes; return head and body of the answer."""
        _, _, address = self.url.partition("//")
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            return head, await reader.readexactly(size)
        finally:
            writer.close()

    def connections(self) -> int:
        """Return how many connections the process serves."""
        assert self.runner is not None
        assert self.runner.server is not None
        return len(self.runner.server.connections)

    async def metric(self, name: str) -> float:
        """Return a figure of the process."""
        plain = {"Accept-Encoding": "identity"}
        text = (await self.send("GET", "/metrics", plain)).body.decode()
        lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[1])


async def held(api: Api, number: int) -> None:
    """Return when the service holds as many waits."""
    async with asyncio.timeout(30):
        while await api.metric("jobtrail_waits_held") != number:
            pass


async def wait_for(
    api: Api, *ids: str, user: str = "alice", **fields: object
) -> asyncio.Task[Answer]:
    """Start a wait and return when the service holds it."""
    before = api.service.waits.held
    fields = {"wait": -1, **fields}
    task = asyncio.create_task(api.statuses(*ids, headers=api.bearer(user), **fields))
    await held(api, before + 1)
    return task


def _iso(seconds: float) -> str:
    whole, rest = divmod(round(seconds * 1_000_000), 1_000_000)
    minutes, second = divmod(whole - NOON, 60)
    day, minute = divmod(minutes + 13 * 60, 24 * 60)
    return f"2026-11-{23 + day:02}T{minute // 60:02}:{minute % 60:02}:{second:02}.{rest:06}Z"


@contextlib.asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[Api]:
    """Run a service that has no store yet; without `auto_decompress` answers are as they came."""
    auto_decompress = options.pop("auto_decompress", True)
    port = options.pop("port", 0)
    async with aiohttp.ClientSession(auto_decompress=auto_decompress) as session:
        api = Api(folder, session, **options)
        made = make_app(api.service)
        runner = Runner(made, api.service.bounds, api.service.timeouts, shutdown_timeout=5)
        api.runner = runner
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        api.url = f"http://127.0.0.1:{site.port}"
        try:
            yield api
        finally:
            await runner.cleanup()
            if api.projector is not None:
                api.projector.close()
