"""`jobtrail up`: everything on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import aiohttp
import click
from filelock import FileLock, Timeout

from jobtrail.cli.common import chosen_data_dir, data_dir_option
from jobtrail.demo import run_demo
from jobtrail.errors import AlreadyRunning, JobtrailError
from jobtrail.local import Running, forget_running, write_running
from jobtrail.process import child_environment
from jobtrail.settings import Settings, load
from jobtrail.supervisor import Child
from jobtrail.tokens import local_secret
from jobtrail.version import __version__

#: Seconds that the whole service has to stop; the broker gets the most of it.
_STOP_API: Final = 4.0
_STOP_PROJECTOR: Final = 5.0
_STOP_BROKER: Final = 10.0
#: Seconds that a port has to become free: the API of an `up` that was killed ends within them.
_PORT_WITHIN: Final = 6.0


class PortTaken(JobtrailError):
    """Another program listens where the API should."""


@click.command()
@data_dir_option
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the API; 0 takes a free one.")
@click.option("--demo", is_flag=True, help="Add a stream of synthetic jobs.")
@click.option(
    "--api-processes", type=click.IntRange(1, 64), default=1, show_default=True,
    help="API processes that share the port.",
)  # fmt: skip
@click.option(
    "--projectors", type=click.IntRange(1, 64), default=1, show_default=True,
    help="Projector processes that share the partitions.",
)  # fmt: skip
@click.option("--bootstrap-servers", help="Use this Kafka instead of running one: host:port[,...].")
@click.option("--store", help="Projection store: sqlite:///FOLDER.")
def up(
    data_dir: Path | None,
    port: int | None,
    demo: bool,
    api_processes: int,
    projectors: int,
    bootstrap_servers: str | None,
    store: str | None,
) -> None:
    """Run everything on this machine, in the foreground, until SIGINT or SIGTERM.

    Prints `ready http://127.0.0.1:PORT` on standard output when it answers.
    """
    settings = load(
        data_dir=chosen_data_dir(data_dir),
        port=port,
        bootstrap_servers=bootstrap_servers,
        store=store,
    )
    # Children are started in other folders' terms: what they are told must not be relative.
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.data_dir / "up.lock")
    try:
        with lock.acquire(timeout=0):
            asyncio.run(_Service(settings, api_processes, projectors).run(demo))
    except Timeout:
        raise AlreadyRunning(
            "Another `jobtrail up` is running on this data folder.",
            where=str(settings.data_dir),
            mend="Use that one, stop it, or choose another folder with --data-dir.",
        ) from None


class _Service:
    """The children of one `up`, and the order in which they come and go."""

    def __init__(self, settings: Settings, api_processes: int, projectors: int) -> None:
        self._settings = settings
        self._api_processes = api_processes
        self._projectors = projectors
        self._broker: list[Child] = []
        self._folding: list[Child] = []
        self._answering: list[Child] = []

    async def run(self, demo: bool) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                tasks = [asyncio.create_task(run_demo(self._settings))] if demo else []
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            stopping.cancel()
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            _say("stopping")
            await self._stop()

    async def _start(self) -> None:
        settings = self._settings
        if settings.port:
            await _port_is_free(settings.host, settings.port)
        local_secret(settings.data_dir)
        if not settings.bootstrap_servers:
            _say("starting Kafka")
            servers = await self._start_broker()
            settings = settings.model_copy(update={"bootstrap_servers": servers})
        _say("starting projector and API")
        environment = child_environment(settings)
        logs = settings.data_dir / "logs"
        self._folding = [
            Child(name, "projections", ["--name", name], environment, logs / f"{name}.log")
            for name in (f"projector-{number}" for number in range(self._projectors))
        ]
        first = Child("api-0", "services.api", [], environment, logs / "api-0.log")
        self._answering = [first]
        folding = [asyncio.create_task(child.start()) for child in self._folding]
        url = await first.start()
        # A port that was free to choose is kept: by its siblings, and when it is started anew.
        port = url.rsplit(":", 1)[1]
        settings = settings.model_copy(update={"port": int(port)})
        environment = child_environment(settings)
        first.environment = environment
        siblings = [
            Child(name, "services.api", [], environment, logs / f"{name}.log")
            for name in (f"api-{number}" for number in range(1, self._api_processes))
        ]
        self._answering += siblings
        await asyncio.gather(*folding, *(child.start() for child in siblings))
        await _ready(url)
        self._settings = settings
        write_running(
            settings.data_dir,
            Running(os.getpid(), url, settings.bootstrap_servers, __version__),
        )
        click.echo(f"ready {url}")
        sys.stdout.flush()

    async def _start_broker(self) -> str:
        folder = self._settings.data_dir / "broker"
        broker = Child(
            "broker",
            "services.broker",
            ["--data-dir", str(folder)],
            child_environment(self._settings),
            # Its own log is in its folder; what it says is for the person at the terminal.
            None,
        )
        self._broker = [broker]
        servers = await broker.start()
        # Clients know it by this port, so it keeps it when it is started anew.
        broker.arguments += ["--port", servers.rsplit(":", 1)[1]]
        return servers

    async def _stop(self) -> None:
        forget_running(self._settings.data_dir)
        for children, within in (
            (self._answering, _STOP_API),
            (self._folding, _STOP_PROJECTOR),
            (self._broker, _STOP_BROKER),
        ):
            await asyncio.gather(*(child.stop(within) for child in children))


async def _port_is_free(host: str, port: int) -> None:
    """Wait for a port that the API can have to itself.

    API processes share their port, so by themselves they would share it with those of another
    service, and each would get some of the other's requests.

    Raises:
        PortTaken: Somebody listens there.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + _PORT_WITHIN
    family, kind, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    while True:
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if clock() > give_up:
                    raise PortTaken(
                        "The API can't listen there.",
                        where=f"{host}:{port}",
                        found=str(error),
                        mend="Stop what listens there, or choose another port with --port.",
                    ) from None
            else:
                return
        await asyncio.sleep(0.1)


async def _ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


def _say(what: str) -> None:
    if sys.stderr.isatty():
        click.echo(what, err=True)
