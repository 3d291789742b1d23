"""What requests cost a service that has nothing else to do, in one process: for `in_turns`.

It is run by its path, with the modules of the checkout that is measured. Requests go one by one
through the whole of the server, from the bytes that came to those that go out, without a socket: so
what is told is the processor's time of one process, and hardly depends on what else runs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.asking import SEARCH, Requests, asked_load, fill
from benchmarks.client import get
from benchmarks.options import Options
from benchmarks.sending import send_to
from benchmarks.stage import Stage
from jobtrail.access.tokens import local_secret
from jobtrail.settings import Settings, as_environment, load
from projections.sqlite.read.reader import SqliteReader
from services.api.__main__ import settle
from services.api.app import make_app, make_service
from services.api.serving.protocol import Runner

OPTIONS: Final = Options(jobs=50_000, owners=2_500, big_jobs=5_000)
#: Requests of a kind that differ, how many are asked for in one batch, and how many batches.
DIFFERENT: Final = 500
BATCH: Final = 40
BATCHES: Final = 300
#: Seconds for the tail to be level.
SETTLED: Final = 3.0


class Elsewhere(Stage):
    """A stage whose broker is another process's.

    Args:
        servers: Where it is.
    """

    def __init__(self, servers: str) -> None:
        super().__init__(quiet=True)
        self._elsewhere = servers

    async def bootstrap_servers(self) -> str:
        """Return where the broker is."""
        return self._elsewhere


class Taker(asyncio.Transport):
    """Takes answers as a connection does, and throws them away."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.last = b""
        self.answered = asyncio.get_running_loop().create_future()

    def write(self, data: Any) -> None:
        """Take a part of an answer."""
        self.writelines([data])

    def writelines(self, list_of_data: Any) -> None:
        """Take an answer, which comes at one go."""
        self.last = b"".join(list_of_data)
        if not self.answered.done():
            self.answered.set_result(None)

    def is_closing(self) -> bool:
        """Return that it goes on."""
        return False

    def close(self) -> None:
        """Do nothing: it ends with the process."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: nothing stays in a buffer."""

    def get_write_buffer_size(self) -> int:
        """Return that nothing does."""
        return 0

    def pause_reading(self) -> None:
        """Do nothing: one request comes after the other."""

    def resume_reading(self) -> None:
        """Do nothing."""


async def make(servers: str, folder: Path) -> None:
    """Make a store, and write down its settings."""
    async with Elsewhere(servers) as stage:
        settings = await stage.settings(data_dir=folder)
        load = asked_load(OPTIONS)
        await send_to(settings, load)
        await fill(stage, settings, load.events)
        (folder / "settings.json").write_bytes(msgspec.json.encode(as_environment(settings)))


async def ask(folder: Path) -> dict[str, float]:
    """Return what a request of each kind costs, in microseconds: of batches the quickest tenth."""
    os.environ.update(msgspec.json.decode((folder / "settings.json").read_bytes()))
    settings = load()
    service = make_service(
        settings,
        secret=local_secret(settings.data_dir),
        open_reader=lambda: SqliteReader(settings.store_folder),
        kafka={"bootstrap_servers": settings.bootstrap_servers},
    )
    runner = Runner(make_app(service), service.bounds, service.timeouts, shutdown_timeout=1)
    await runner.setup()
    assert runner.server is not None
    protocol, transport = runner.server(), Taker()
    protocol.connection_made(transport)

    async def answer(request: bytes) -> None:
        transport.answered = asyncio.get_running_loop().create_future()
        protocol.data_received(request)
        await transport.answered

    await asyncio.sleep(SETTLED)
    settle()
    gc.disable()
    kinds = _kinds(settings)
    for requests in kinds.values():
        for request in requests:
            await answer(request)
            assert transport.last.startswith(b"HTTP/1.1 200 "), transport.last[:500]
    costs: dict[str, list[float]] = {name: [] for name in kinds}
    for batch in range(BATCHES):
        for name, requests in kinds.items():
            some = [requests[(batch * BATCH + n) % len(requests)] for n in range(BATCH)]
            began = time.process_time_ns()
            for request in some:
                await answer(request)
            costs[name].append((time.process_time_ns() - began) / BATCH / 1000)
    return {name: sorted(found)[BATCHES // 10] for name, found in costs.items()}


def _kinds(settings: Settings) -> dict[str, list[bytes]]:
    requests = Requests(asked_load(OPTIONS), settings)
    kinds = {
        "nothing found": requests.of_users(f"{SEARCH}?size=20&owner=nobody"),
        "page of 20": requests.of_users(f"{SEARCH}?size=20"),
        "page of 100": [get(f"{SEARCH}?size=100", requests.big)],
        "summary": requests.of_users("/jobs/summary"),
        "10 statuses": requests.statuses(),
    }
    return {name: some[:DIFFERENT] for name, some in kinds.items()}


def main() -> None:
    """Do what the command line says: `make SERVERS FOLDER`, or `ask FOLDER`."""
    what, *arguments = sys.argv[1:]
    if what == "make":
        asyncio.run(make(arguments[0], Path(arguments[1])))
    else:
        costs = asyncio.run(ask(Path(arguments[0])))
        sys.stdout.buffer.write(msgspec.json.encode(costs))
    sys.stdout.flush()
    # Without the end of the tail, whose broker may be gone.
    os._exit(0)


if __name__ == "__main__":
    main()
