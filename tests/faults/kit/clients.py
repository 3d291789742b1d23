"""Clients that go on whatever happens, and take down what they were told: for the checker.

A client that was cut off comes back as its contract says: a listener with the id of the last event
it saw, a poller with the position of its last answer.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from array import array
from collections import Counter
from collections.abc import Callable
from sys import intern
from typing import Final

import aiohttp

from tests.faults.kit.load import Load, parse_position
from tests.faults.kit.model import ENDED
from tests.faults.kit.validity import partition_of

#: What may go wrong on the way to a service that is killed.
CUT_OFF: Final = (aiohttp.ClientError, OSError, TimeoutError, ValueError)
_PAUSE: Final = 1.0
#: Faults of a kind that are told in words.
_WORDS: Final = 20
_PLACE: Final = re.compile(rb'"partition":(\d+),"offset":(\d+)')


class Seen:
    """What was seen of a job's state, and where: told to the checker."""

    __slots__ = ("client", "job", "least", "state")

    def __init__(self, client: str, job: str, state: str, least: int) -> None:
        self.client = client
        self.job = intern(job)
        self.state = intern(state)
        #: The answer held everything before this offset of the job's partition.
        self.least = least


class Clients:
    """What all clients share: where the service is, who asks, what was seen.

    Args:
        session: Asks.
        urls: Of each API process.
        headers: Of an administrator.
        partitions: Of the log.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        urls: list[str],
        headers: dict[str, str],
        partitions: int,
    ) -> None:
        self.session = session
        self.urls = urls
        self.headers = headers
        self.partitions = partitions
        self.seen: list[Seen] = []
        #: Answers by client and status.
        self.answers: Counter[str] = Counter()
        #: What must not be: how often, by kind, and the first of each in words.
        self.faults: Counter[str] = Counter()
        self.words: list[str] = []
        self.over = asyncio.Event()
        self.listeners: list[Listener] = []
        #: Seconds from a job's end being acknowledged to its wait's answer.
        self.woken: list[float] = []
        #: Waits that were not told of an end for longer than this are missed.
        self.grace = 20.0
        #: From when on, on the monotonic clock, a wait can't have been cut off from the log.
        self.calm_since: Callable[[], float] = lambda: 0.0

    def least(self, job: str, position: dict[int, int]) -> int:
        """Return up to where an answer held the partition of a job."""
        return position.get(partition_of(job.encode(), self.partitions), 0)

    def fault(self, kind: str, words: str) -> None:
        """Take down what must not be."""
        self.faults[kind] += 1
        if self.faults[kind] <= _WORDS:
            self.words.append(f"{kind}: {words}")

    async def pause(self) -> None:
        """Wait a little before another try: all of them at once would hold others up."""
        await asyncio.sleep(random.uniform(0.5, 1.5) * _PAUSE)


class Waiter:
    """Waits for jobs to end, one after the other."""

    def __init__(self, clients: Clients, load: Load, number: int, wait: int = 30) -> None:
        self._clients = clients
        self._load = load
        self._name = f"waiter-{number}"
        self._url = clients.urls[number % len(clients.urls)]
        self._wait = wait

    async def run(self) -> None:
        """Wait again and again."""
        while not self._clients.over.is_set():
            job = self._load.candidate()
            if job is None:
                await self._clients.pause()
                continue
            while not self._clients.over.is_set() and not await self._once(job):
                pass
            self._load.awaited.discard(job)
            self._load.ended.pop(job, None)

    async def _once(self, job: str) -> bool:
        """Wait for a job; return whether it is done with."""
        clients = self._clients
        began = time.monotonic()
        body = {"jobIds": [job], "wait": self._wait}
        timeout = aiohttp.ClientTimeout(self._wait + 60)
        try:
            async with clients.session.post(
                f"{self._url}/jobs/statuses", json=body, headers=clients.headers, timeout=timeout
            ) as answer:
                told = await answer.json(content_type=None)
                clients.answers[f"wait {answer.status}"] += 1
                if answer.status != 200:
                    await clients.pause()
                    return False
                position = parse_position(answer.headers.get("Jobtrail-Position", "0:0"))
        except CUT_OFF:
            clients.answers["wait cut off"] += 1
            await clients.pause()
            return False
        now = time.monotonic()
        state = (told.get(job) or {}).get("state")
        self._judge(job, state, began, now, position)
        return state in ENDED

    def _judge(
        self, job: str, state: str | None, began: float, now: float, position: dict[int, int]
    ) -> None:
        clients = self._clients
        ended = self._load.ended.get(job)
        if state is None:
            # It was acknowledged long before: what is not known must not be answered as absent.
            after = now - began
            clients.fault("wait-unknown", f"{self._name}: acknowledged {job}, {after:.1f} s")
            return
        # A wait says its position before it waits; what it answers is no older.
        clients.seen.append(Seen(f"{self._name} {job}", job, state, clients.least(job, position)))
        if state in ENDED:
            if ended is not None:
                clients.woken.append(now - max(ended, began))
        elif now - began < self._wait - 0.5:
            after = now - began
            clients.fault("wait-early", f"{self._name}: {job} is {state} after {after:.1f} s")
        elif ended is not None and now - max(ended, clients.calm_since()) > clients.grace:
            after = now - ended
            clients.fault("wait-missed", f"{self._name}: {job} is {state}, ended {after:.1f} s ago")


class Listener:
    """Listens to the feed, and takes down the places of the events that it was told."""

    def __init__(self, clients: Clients, number: int, job_type: str | None) -> None:
        self._clients = clients
        self.name = f"listener-{number}"
        self.url = clients.urls[number % len(clients.urls)]
        #: What it asks for; None: everything.
        self.job_type = job_type
        self.last_id = ""
        #: Per partition where it began, and the offsets that it was told.
        self.begin: dict[int, int] = {}
        self.told: dict[int, array[int]] = {}
        self.connections = 0
        clients.listeners.append(self)

    def position(self) -> dict[int, int]:
        """Return up to where it was told everything, per partition."""
        return parse_position(self.last_id) if self.last_id else {}

    async def run(self) -> None:
        """Listen, and go on from the last event whenever it was cut off."""
        clients = self._clients
        query = f"?jobType={self.job_type}" if self.job_type else ""
        while not clients.over.is_set():
            headers = clients.headers | ({"Last-Event-ID": self.last_id} if self.last_id else {})
            timeout = aiohttp.ClientTimeout(None, sock_read=60)
            try:
                async with clients.session.get(
                    f"{self.url}/jobs/events{query}", headers=headers, timeout=timeout
                ) as answer:
                    clients.answers[f"feed {answer.status}"] += 1
                    if answer.status == 410:
                        clients.fault("feed-gone", f"{self.name}: {await answer.text()}")
                        self.last_id, self.told, self.begin = "", {}, {}
                    elif answer.status == 200:
                        self.connections += 1
                        await self._read(answer)
            except CUT_OFF:
                clients.answers["feed cut off"] += 1
            await clients.pause()

    async def _read(self, answer: aiohttp.ClientResponse) -> None:
        rest = b""
        async for chunk in answer.content.iter_any():
            *blocks, rest = (rest + chunk).split(b"\n\n")
            for block in blocks:
                self._take(block)

    def _take(self, block: bytes) -> None:
        data, at = b"", ""
        for line in block.split(b"\n"):
            if line.startswith(b"data: "):
                data = line
            elif line.startswith(b"id: "):
                at = line[4:].decode()
        if not self.begin and at and not data:
            self.begin = parse_position(at)
        if data:
            # Before the event itself, which is the last of its members but for the job.
            place = _PLACE.search(data)
            assert place is not None, data[:300]
            partition, offset = int(place[1]), int(place[2])
            told = self.told.setdefault(partition, array("q"))
            if told and offset <= told[-1]:
                self._clients.fault(
                    "feed-repeat", f"{self.name}: {partition}:{offset} behind {told[-1]}"
                )
            told.append(offset)
        self.last_id = at or self.last_id


class Poller:
    """Asks for jobs' states again and again, and sends the position of its last answer along."""

    def __init__(self, clients: Clients, load: Load, number: int, every: float) -> None:
        self._clients = clients
        self._load = load
        self._name = f"poller-{number}"
        self._draw = random.Random(number)
        self._every = every
        self._position = ""
        self._jobs: list[str] = []

    async def run(self) -> None:
        """Ask until it is over; any of the processes, whichever is drawn."""
        clients = self._clients
        while not clients.over.is_set():
            try:
                await self._once(self._draw.choice(clients.urls))
            except CUT_OFF:
                clients.answers["poll cut off"] += 1
            await asyncio.sleep(self._every)

    async def _once(self, url: str) -> None:
        clients = self._clients
        if self._draw.random() < 0.1:
            self._jobs = self._jobs[-15:]
            self._jobs += [life.id for life in self._load.sample(5) if life.at]
        if not self._jobs:
            self._jobs = [life.id for life in self._load.sample(20) if life.at]
            return
        headers = clients.headers | (
            {"Jobtrail-Position": self._position} if self._position else {}
        )
        body = {"jobIds": sorted(set(self._jobs))}
        timeout = aiohttp.ClientTimeout(60)
        async with clients.session.post(
            f"{url}/jobs/statuses", json=body, headers=headers, timeout=timeout
        ) as answer:
            clients.answers[f"poll {answer.status}"] += 1
            told = await answer.json(content_type=None)
            if answer.status == 410:
                clients.fault("position-gone", f"{self._name}: {told}")
                self._position = ""
            if answer.status != 200:
                return
            text = answer.headers["Jobtrail-Position"]
        position = parse_position(text)
        before = parse_position(self._position) if self._position else {}
        back = {p: (at, position.get(p, 0)) for p, at in before.items() if position.get(p, 0) < at}
        if back:
            clients.fault("position-back", f"{self._name}: (from, to) {back}")
        self._position = text
        for job, status in told.items():
            clients.seen.append(
                Seen(self._name, job, status["state"], clients.least(job, position))
            )
