"""A whole service that is made to suffer: broker, projectors, API processes, load and clients."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from jobtrail.access.tokens import local_secret, make_token
from jobtrail.settings import Settings
from tests.conftest import managed_broker
from tests.faults.kit import checker, store
from tests.faults.kit.clients import Clients, Listener, Poller, Waiter
from tests.faults.kit.keeping import Keeper, first_of, java_of, quietly
from tests.faults.kit.lives import TYPES
from tests.faults.kit.load import Load
from tests.faults.kit.proxy import Proxy
from tests.processes import api, free_port, projector

#: Seconds between two looks at the store's checkpoints.
_LOOK: Final = 0.1
#: Seconds within which all has to be level once nothing is done to it any more.
LEVEL_WITHIN: Final = 150.0
#: Seconds after which a fault counts as never mended.
MENDED_WITHIN: Final = 120.0
#: Seconds in which a listener that gets on is told something, or at least where it is.
_TOLD_WITHIN: Final = 40.0
_POSTS_EVERY: Final = 0.5
_KAFKA_CLIENTS: Final = ("producer", "projector", "api")


@dataclass(frozen=True)
class Shape:
    """How much of everything there is.

    Attributes:
        seed: Of all that is drawn.
        rate: Events a second.
        waits: Waits that are held at a time.
        listeners: Listeners; two of them to everything, each other one to one type of job.
        pollers: Clients that ask for states again and again.
        projectors: Projector processes.
        apis: API processes, each at a port of its own.
        proxied: Whether a proxy stands on every link.
    """

    seed: int
    rate: float = 1000.0
    waits: int = 200
    listeners: int = 50
    pollers: int = 2
    projectors: int = 2
    apis: int = 2
    proxied: bool = False


class Recovery(NamedTuple):
    """How long something did not work."""

    fault: str
    seconds: float
    #: Whether nothing else was done to anything in that time.
    alone: bool


class Stage:
    """The processes, the load and the clients of one run.

    Args:
        folder: For all files.
        shape: How much of everything.
    """

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder = folder
        self.shape = shape
        self.broker = Keeper("broker", managed_broker(folder), java_of(folder))
        self.projectors: list[Keeper] = []
        self.apis: list[Keeper] = []
        self.settings = Settings(data_dir=folder)
        self.acks = folder / "acks.txt"
        #: By link, such as `api-kafka`: what stands there, where the shape has it.
        self.links: dict[str, Proxy] = {}
        self.load: Load
        self.clients: Clients
        self.checker: checker.Checker
        self.position: dict[int, int] = {}
        self.recoveries: list[Recovery] = []
        self._hits: list[float] = []
        self._under_way: set[asyncio.Task[Any]] = set()
        self._session: aiohttp.ClientSession

    @property
    def keepers(self) -> list[Keeper]:
        """All that is kept running."""
        return [self.broker, *self.projectors, *self.apis]

    async def start(self) -> None:
        """Start everything, and the load and the clients last."""
        servers = await self.broker.start()
        # Clients know it by this port, so it keeps it.
        self.broker.process._argv += ["--port", servers.rpartition(":")[2]]
        self.settings = Settings(data_dir=self.folder, bootstrap_servers=servers)
        secret = local_secret(self.folder)
        await self._make_processes()
        await asyncio.gather(*(one.start() for one in (*self.projectors, *self.apis)))
        permissions = ["jobs:read:all", "jobs:write"]
        token = make_token(secret, "kit", (), permissions, timedelta(days=1))
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        urls = [self._url(keeper) for keeper in self.apis]
        self.clients = Clients(self._session, urls, headers, self.settings.partitions)
        self.load = Load(
            self._kafka("producer").bootstrap_servers,
            self.settings.topic,
            self.acks,
            seed=self.shape.seed,
            rate=self.shape.rate,
            partitions=self.settings.partitions,
        )
        self.checker = checker.Checker(
            servers,
            self.settings.topic,
            self.settings.store_folder,
            self.settings.partitions,
        )
        self.load.headers = headers
        self.load.url = urls[0]
        await self._ready()
        self._begin()

    async def _make_processes(self) -> None:
        """Make the processes, and the proxies where there are any."""
        broker = int(self.settings.bootstrap_servers.rpartition(":")[2])
        ports = [free_port() for _ in range(self.shape.apis)]
        if self.shape.proxied:
            links = [Proxy(f"{who}-kafka", broker, broker=True) for who in _KAFKA_CLIENTS]
            links += [Proxy(f"client-api-{n}", port) for n, port in enumerate(ports)]
            self.links = {link.name: await link.start() for link in links}
        settings = self._kafka("projector")
        for number in range(self.shape.projectors):
            keeper = Keeper(f"projector-{number}", projector(settings, number))
            self.projectors.append(keeper)
        settings = self._kafka("api")
        for number, port in enumerate(ports):
            process = api(settings.model_copy(update={"port": port}), number)
            self.apis.append(Keeper(f"api-{number}", process))

    def _kafka(self, who: str) -> Settings:
        """Return settings that lead to Kafka, through a proxy where there is one."""
        link = self.links.get(f"{who}-kafka")
        if link is None:
            return self.settings
        return self.settings.model_copy(update={"bootstrap_servers": link.address})

    def _url(self, keeper: Keeper) -> str:
        """Return where clients reach an API process."""
        link = self.links.get(f"client-{keeper.name}")
        return keeper.said if link is None else f"http://{link.address}"

    async def _ready(self) -> None:
        async def answers(keeper: Keeper) -> None:
            while not await self.answers(keeper):
                await asyncio.sleep(_LOOK)

        async with asyncio.timeout(MENDED_WITHIN):
            await asyncio.gather(*map(answers, self.apis))

    def _begin(self) -> None:
        shape, clients, load = self.shape, self.clients, self.load
        self._do(self._look())
        self._do(self.checker.follow())
        self._writing = self._do(load.run())
        self._posting = self._do(load.run_posting(self._session, _POSTS_EVERY))
        for number in range(shape.listeners):
            wanted = None if number < 2 else f"type-{(number - 2) % TYPES:02}"
            self._do(Listener(clients, number, wanted).run())
        for number in range(shape.waits):
            self._do(Waiter(clients, load, number).run())
        for number in range(shape.pollers):
            self._do(Poller(clients, load, number, every=0.4).run())

    def _do(self, what: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(what)
        self._under_way.add(task)
        return task

    async def _look(self) -> None:
        while True:
            self.position = await asyncio.to_thread(store.position, self.settings.store_folder)
            await asyncio.sleep(_LOOK)

    async def answers(self, keeper: Keeper) -> bool:
        """Tell whether an API process answers a read from the projections."""
        try:
            async with self._session.get(
                f"{self._url(keeper)}/jobs/summary?jobType=none",
                headers=self.clients.headers,
                timeout=aiohttp.ClientTimeout(5),
            ) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    # --- what is done to it

    def kill(self, keeper: Keeper) -> bool:
        """Kill a process, and measure how long what it does is not done."""
        if not keeper.kill():
            return False
        self._measure(f"kill {keeper.name.partition('-')[0]}", keeper)
        return True

    async def pause(self, keeper: Keeper, seconds: float) -> None:
        """Stop a process for so many seconds, and measure from when it may go on."""
        self._hits.append(time.monotonic())
        keeper.pause()
        await asyncio.sleep(seconds)
        keeper.resume()
        name = keeper.name.partition("-")[0]
        self._measure(f"pause {name}", keeper)

    def _measure(self, fault: str, keeper: Keeper) -> None:
        began = time.monotonic()
        self._hits.append(began)
        self.clients.calm_since = lambda: max(self._hits)
        self._do(self._until_mended(fault, keeper, began))

    async def _until_mended(self, fault: str, keeper: Keeper, began: float) -> None:
        incarnation, written = keeper.incarnation, dict(self.load.position)
        killed = fault.startswith("kill")

        def acknowledged() -> bool:
            since = keeper.started if killed else began
            return keeper.incarnation > incarnation - (not killed) and self.load.last_ack > since

        def moved_on() -> bool:
            # Each partition holds an event that was acknowledged after the fault.
            return all(self.position.get(p, 0) > at for p, at in written.items())

        if keeper in self.apis:
            mended = await self._answers_again(keeper, incarnation, killed)
        else:
            condition = acknowledged if keeper is self.broker else moved_on
            mended = await first_of(condition, MENDED_WITHIN, _LOOK)
        now = time.monotonic()
        alone = sum(began - 1 <= hit <= now for hit in self._hits) == 1
        self.recoveries.append(Recovery(fault, now - began if mended else float("inf"), alone))

    async def _answers_again(self, keeper: Keeper, incarnation: int, killed: bool) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MENDED_WITHIN):
                while not (
                    keeper.incarnation > incarnation - (not killed) and await self.answers(keeper)
                ):
                    await asyncio.sleep(_LOOK)
                return True
        return False

    # --- its end

    async def settle(self) -> None:
        """Write no more, and wait until everybody holds and was told everything."""
        await asyncio.gather(*(keeper.is_ready() for keeper in self.keepers))
        self.load.finish()
        await self._all_written()
        ends = dict(self.load.position)
        level = await first_of(lambda: _holds(self.position, ends), LEVEL_WITHIN)
        assert level, f"the store stays behind: {self.position}, written {ends}"
        await self._all_told(ends)
        for task in self._under_way:
            if task.done() and not task.cancelled() and (error := task.exception()):
                self.clients.fault("kit", f"{task.get_coro()} ended with {error!r}")
        self.clients.over.set()

    async def _all_written(self) -> None:
        """Wait until all that was begun is acknowledged."""
        both = {"writing": self._writing, "posting": self._posting}
        await asyncio.wait(both.values(), timeout=LEVEL_WITHIN, return_when=asyncio.FIRST_EXCEPTION)
        for task in both.values():
            if task.done():
                task.result()
        left = " and ".join(name for name, task in both.items() if not task.done())
        assert not left, f"{left} did not end in {LEVEL_WITHIN:.0f} s: {self.load.standing}"

    async def _all_told(self, ends: dict[int, int]) -> None:
        """Wait until every listener was told everything, as long as any of them gets on."""
        left: list[Listener] = []

        def told() -> bool:
            left[:] = [one for one in self.clients.listeners if not _holds(one.position(), ends)]
            return not left

        before: list[str] = []
        while not await first_of(told, _TOLD_WITHIN):
            now = [listener.last_id for listener in left]
            if now == before:
                break
            before = now
        for listener in left:
            words = f"{listener.name} on {listener.url}: told {listener.last_id}, written {ends}"
            self.clients.fault("feed-behind", words)

    async def check(self, tell: Callable[[str], None] = lambda _: None) -> checker.Report:
        """Compare everything, at the end."""
        report = await self.checker.compare(tell)
        self.checker.compare_acks(checker.Acks(self.acks), report, whole=True)
        await self.checker.compare_dead(self.settings.dead_topic, report)
        self.checker.told.check_feed(self.clients, report)
        self.checker.told.check_seen(self.clients, report)
        return report

    async def end_clients(self) -> None:
        """End the load, the clients and all that looks on."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if hasattr(self, "_session"):
            await self._session.close()

    async def stop(self) -> list[BaseException]:
        """Stop everything that was started; return what went wrong with that."""
        faults = await quietly(self.end_clients())
        faults += await quietly(*(one.stop() for one in (*self.apis, *self.projectors)))
        faults += await quietly(*(link.stop() for link in self.links.values()))
        return faults + await quietly(self.broker.stop())


def _holds(position: dict[int, int], wanted: dict[int, int]) -> bool:
    return all(position.get(p, 0) >= offset for p, offset in wanted.items())


@contextlib.asynccontextmanager
async def staged(folder: Path, shape: Shape) -> AsyncIterator[Stage]:
    """Run a stage while the context is open."""
    stage = Stage(folder, shape)
    try:
        await stage.start()
        yield stage
    finally:
        await stage.stop()
