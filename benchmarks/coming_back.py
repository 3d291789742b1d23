"""How soon listeners who come back are told everything, while events go on coming in.

One who listens alone comes back to a place in the middle of those that many come back to at once,
each to another one, as when an API process has ended and theirs is the next. The process is asked
by nobody else; a projector applies what comes in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from benchmarks.asking import fill, warmed
from benchmarks.client import address, get
from benchmarks.flow import Flow, going_on
from benchmarks.load import Load
from benchmarks.options import PATIENCE, Options
from benchmarks.results import Result, Row
from benchmarks.sending import send_to
from benchmarks.stage import Stage, Tokens
from benchmarks.stats import middle
from benchmarks.usage import Meter, resident_kib
from jobtrail.access.tokens import READ_ALL
from jobtrail.core.position import parse_position
from jobtrail.settings import Settings
from tests.processes import Process, api, projector

ALONE: Final = "one alone"
TOGETHER: Final = "all at once"
#: Who owns the jobs: so many hear of an event now and then.
_OWNERS: Final = 48
#: Listeners who see everything; each other one sees the jobs of one owner.
_SEE_ALL: Final = 2
#: Seconds of events behind which nobody counts as level, and between two looks.
_LEVEL: Final = 1.0
_LOOK: Final = 0.25
#: As long as a line that says where a listener is may be, in bytes.
_LINE: Final = 1_024


class Listener(asyncio.Protocol):
    """Listens, and keeps up to where it was told everything.

    Args:
        request: The bytes that it sends.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._told = b""
        self._rest = b""
        self.lost = False
        self.received = 0
        #: Set once it was told where it is.
        self.begun = asyncio.Event()

    @property
    def position(self) -> Mapping[int, int]:
        """Up to where it was told everything, per partition."""
        return parse_position(self._told.decode()) if self._told else {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Look for the last place that is said."""
        self.received += len(data)
        seen = self._rest + data
        end = len(seen)
        while (at := seen.rfind(b"\nid: ", 0, end)) >= 0:
            if (stop := seen.find(b"\n", at + 5)) >= 0:
                self._told = seen[at + 5 : stop]
                self.begun.set()
                break
            end = at
        self._rest = seen[-_LINE:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it is over."""
        self.lost = True


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    settings = await stage.settings()
    events = 2 * options.missed
    load = Load(events // 4, _OWNERS, min(20_000, events // 20))
    stage.say(f"sending {load.events:,} events")
    await send_to(settings, load)
    await fill(stage, settings, load.events)
    runs: list[dict[str, Any]] = []
    n = options.back
    for number in range(options.runs):
        for name, missed in (
            (ALONE, [options.missed * 3 // 4]),
            (TOGETHER, [options.missed * (2 * n - i) // (2 * n) for i in range(n)]),
        ):
            stage.say(name)
            service, worker = api(settings), projector(settings)
            url, _ = await asyncio.gather(stage.start(service), stage.start(worker))
            (await warmed(url)).close()
            more = Load(
                load.jobs, _OWNERS, load.under_way, seed=2 * number + (name == TOGETHER) + 1
            )
            flow = Flow.of(settings, more, options.missed_rate, more.events)
            sent: dict[str, int] = {}
            async with going_on(stage, settings, flow, sent):
                crowd = _Crowd(settings, url)
                try:
                    found = await _come_back(service, crowd, missed, options.missed_rate * _LEVEL)
                finally:
                    crowd.go()
            runs.append({"kind": name, **found, **sent})
            await stage.end(service, worker)
    return Result(
        figure="coming_back",
        what="Seconds until listeners who come back are told everything, while events come in.",
        parameters={
            "runs": options.runs,
            "listeners": options.back,
            "missed_events": [options.missed // 2, options.missed],
            "events_per_second": options.missed_rate,
            "load": load.as_parameters(),
            "projectors": 1,
        },
        runs=runs,
        rows=_rows(runs),
    )


class _Crowd:
    """Listeners to one service.

    Args:
        settings: Of the service, which issues the tokens.
        url: Where it is.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._tokens = Tokens(settings)
        self._everything = self._tokens.of("onlooker", READ_ALL)
        self._url = url
        self._transports: list[Any] = []

    async def level(self) -> Listener:
        """Return one who is told everything as it happens: where it is, the others have to get."""
        listener = await self._listen(self._everything)
        async with asyncio.timeout(PATIENCE):
            await listener.begun.wait()
        return listener

    async def back(self, number: int, ends: Mapping[int, int], missed: int) -> Listener:
        """Return one who comes back.

        Args:
            number: Which one.
            ends: The end of each partition.
            missed: How many events before the ends, of all partitions together.
        """
        total = sum(ends.values())
        sees_all = number < _SEE_ALL
        return await self._listen(
            self._everything if sees_all else self._tokens.of(f"user-{number % _OWNERS:05}"),
            Last_Event_ID=",".join(f"{p}:{end - end * missed // total}" for p, end in ends.items()),
        )

    async def _listen(self, bearer: str, **headers: str) -> Listener:
        request = get("/jobs/events", bearer, **headers)
        loop = asyncio.get_running_loop()
        made = await loop.create_connection(partial(Listener, request), *address(self._url))
        self._transports.append(made[0])
        return made[1]

    def go(self) -> None:
        """Hang up, all of them."""
        for transport in self._transports:
            transport.abort()


async def _come_back(
    service: Process, crowd: _Crowd, missed: Sequence[int], near: float
) -> dict[str, Any]:
    """Let listeners come back; return how soon all of them were level.

    Args:
        service: Its process.
        crowd: Who listens to it.
        missed: How many events each of them has missed.
        near: Events behind which nobody counts as level.

    Raises:
        RuntimeError: One was hung up on, or they do not get on.
    """
    clock = asyncio.get_running_loop().time
    level = await crowd.level()
    ends = level.position
    before = resident_kib(service.pid)
    meter = Meter({"server": service.pid})
    began = since = clock()
    listeners = [await crowd.back(number, ends, events) for number, events in enumerate(missed)]
    behind = least = sum(ends.values())
    most = before
    while behind > near:
        await asyncio.sleep(_LOOK)
        behind = max(_behind(one, level) for one in listeners)
        most = max(most, resident_kib(service.pid))
        if behind < least:
            least, since = behind, clock()
        if level.lost or any(one.lost for one in listeners):
            raise RuntimeError("one who listened was hung up on")
        if clock() - since > PATIENCE:
            raise RuntimeError(f"listeners stay {behind:,} events behind")
    return {
        "seconds": clock() - began,
        "missed": sum(missed),
        "received_mib": sum(one.received for one in listeners) / 2**20,
        "grown_mib": (most - before) / 1024,
        "processes": meter.stop(),
    }


def _behind(listener: Listener, level: Listener) -> int:
    """Return by how many events a listener is behind one who is level."""
    at = listener.position
    return sum(max(0, end - at.get(partition, 0)) for partition, end in level.position.items())


def _rows(runs: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for name in (ALONE, TOGETHER):
        mine = [run for run in runs if run["kind"] == name]
        shares = [run["processes"]["server"]["cpu_share"] for run in mine]
        rows += [
            Row(f"{name}, until all are level", "s", middle([run["seconds"] for run in mine])),
            Row(f"{name}, memory more", "MiB", middle([run["grown_mib"] for run in mine])),
            Row(f"{name}, of a core for the API process", "", middle(shares)),
        ]
    return rows
