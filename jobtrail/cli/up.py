"""`jobtrail up`: everything on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import aiohttp
import click
import msgspec
from filelock import FileLock, Timeout

from jobtrail.access.tokens import local_secret
from jobtrail.cli.common import chosen_data_dir, data_dir_option
from jobtrail.contract.readiness import reasons_of
from jobtrail.core.errors import AlreadyRunning, JobtrailError
from jobtrail.files.private import OURS, keep_private, narrow, private_folder
from jobtrail.local import kafka_login as local_kafka
from jobtrail.local import running as local
from jobtrail.local.demo import run_demo
from jobtrail.local.kafka_login import login_of
from jobtrail.processes import process_states as processes
from jobtrail.processes.child_log import is_terminal, say
from jobtrail.processes.kept_file import KeptFile
from jobtrail.processes.pids import birth_of
from jobtrail.processes.runtime import broker_environment, child_environment
from jobtrail.processes.supervisor import Child
from jobtrail.settings import Settings, load
from jobtrail.terminal.text import out
from jobtrail.version import __version__

#: Seconds within which the service has to stop; the broker gets most of them.
_STOP_API: Final = 4.0
_STOP_PROJECTOR: Final = 5.0
_STOP_BROKER: Final = 10.0
#: Seconds within which a port has to become free: the API of an `up` that was killed ends within
#: them.
_PORT_WITHIN: Final = 6.0
#: Seconds between two messages about what a slow start waits for.
_SAY_EVERY: Final = 10.0
#: Timeout in seconds of one request to `/readyz`.
_ANSWER_WITHIN: Final = 10.0

#: Projectors of one service: more than partitions would have nothing to do.
_MOST_PROJECTORS: Final = 64


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
    "--projectors", type=click.IntRange(1, _MOST_PROJECTORS), default=1, show_default=True,
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
    # Children may run in other folders: their paths must not be relative. Projectors would want one
    # port, and nothing waits here for a service that drains.
    settings = settings.model_copy(
        update={"data_dir": settings.data_dir.absolute(), "health_port": 0, "drain": 0.0}
    )
    try:
        keep_private()
        _close(settings)
        with FileLock(settings.data_dir / "up.lock").acquire(timeout=0):
            asyncio.run(_run(settings, api_processes, projectors, demo))
    except Timeout:
        raise AlreadyRunning(
            "Another `jobtrail up` is running on this data folder.",
            where=str(settings.data_dir),
            hint="Use that one, stop it, or choose another folder with --data-dir.",
        ) from None
    except OSError as error:
        raise _unusable(settings.data_dir, error) from None


def _close(settings: Settings) -> None:
    """Make the folders of the service, and remove other users' rights to them.

    Raises:
        NotPrivate: One belongs to another user.
    """
    folder, store = private_folder(settings.data_dir), settings.store_folder
    # An empty folder exposed nothing.
    is_new = not any((folder / name).exists() for name in OURS)
    narrowed = narrow(folder, OURS)
    if store.is_dir() and not store.resolve().is_relative_to(folder.resolve()):
        narrowed += narrow(store)
    if narrowed and not is_new:
        say(
            f"{narrowed} files and folders in {folder} were open to other users of this machine. "
            "They are private now."
        )


def _unusable(data_dir: Path, error: OSError) -> JobtrailError:
    return JobtrailError(
        "The files of the local service can't be used.",
        where=str(error.filename or data_dir),
        found=error.strerror or repr(error),
        hint="Make room, give this user the right to write there, or choose another folder with "
        "--data-dir.",
    )


async def _run(settings: Settings, api_processes: int, projectors: int, demo: bool) -> None:
    await _Service(settings, api_processes, projectors).run(demo)


class _Service:
    """The children of one `up`, and their order of start and stop."""

    def __init__(self, settings: Settings, api_processes: int, projectors: int) -> None:
        self._settings = settings
        self._api_processes = api_processes
        self._projectors = projectors
        self._broker: list[Child] = []
        self._folding: list[Child] = []
        self._answering: list[Child] = []
        self._birth = birth_of(os.getpid()) or ""
        self._running = KeptFile(settings.data_dir / local.FILE)
        self._processes = KeptFile(settings.data_dir / processes.FILE)
        #: The file with the login of our own Kafka; empty where there is none.
        self._client_properties = ""
        #: What the start waits for when all children are ready.
        self._waits_for = ""

    async def run(self, demo: bool) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._start())
        keeping = [asyncio.create_task(file.run()) for file in (self._running, self._processes)]
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
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            await self._processes.forget()

    async def _start(self) -> None:
        saying = asyncio.create_task(self._say_what_is_missing())
        try:
            async with asyncio.TaskGroup() as group:
                url = await self._start_children(group)
            await self._ready(url)
        except ExceptionGroup as failed:
            # The first failure ends the start of the others.
            raise failed.exceptions[0] from None
        finally:
            saying.cancel()
        servers = self._settings.bootstrap_servers
        running = local.Running(
            os.getpid(), self._birth, url, servers, __version__, self._client_properties
        )
        self._running.want(msgspec.json.encode(running))
        await self._running.keep()
        if self._client_properties:
            say(f"Kafka {servers}: clients of others take {self._client_properties}")
        out(f"ready {url}")
        sys.stdout.flush()

    async def _start_children(self, group: asyncio.TaskGroup) -> str:
        """Start all of them, the last ones as tasks of the group; return where the API is."""
        settings = self._settings
        if settings.port:
            await _port_is_free(settings.host, settings.port)
        local_secret(settings.data_dir)
        if not settings.bootstrap_servers:
            _say("starting Kafka")
            servers = await self._start_broker()
            login = await asyncio.to_thread(login_of, Path(self._client_properties))
            found = {"bootstrap_servers": servers, **login.overrides}
            settings = settings.model_copy(update=found)
        _say("starting projector and API")
        environment = child_environment(settings)
        names = [f"projector-{number}" for number in range(_MOST_PROJECTORS)]
        # Those of an earlier start with more of them may still be members of the group.
        removed = [word for name in names[self._projectors :] for word in ("--gone", name)]
        self._folding = [
            self._child(name, "projections", ["--name", name, *removed], environment)
            for name in names[: self._projectors]
        ]
        first = self._child("api-0", "services.api", [], environment)
        self._answering = [first]
        for child in self._folding:
            group.create_task(child.start())
        url = await first.start()
        # A port chosen by the system is kept: by its siblings, and when it is started again.
        port = url.rsplit(":", 1)[1]
        self._settings = settings = settings.model_copy(update={"port": int(port)})
        environment = child_environment(settings)
        first.environment = environment
        siblings = [
            self._child(name, "services.api", [], environment)
            for name in (f"api-{number}" for number in range(1, self._api_processes))
        ]
        self._answering += siblings
        for child in siblings:
            group.create_task(child.start())
        return url

    def _child(
        self, name: str, module: str, arguments: list[str], environment: dict[str, str]
    ) -> Child:
        log = self._settings.data_dir / "logs" / f"{name}.log"
        return Child(
            name, module, arguments, environment, log, self._settings.hung_after, self._changed
        )

    async def _start_broker(self) -> str:
        folder = self._settings.data_dir / local_kafka.FOLDER
        broker = Child(
            "broker",
            "services.broker",
            ["--data-dir", str(folder)],
            broker_environment(self._settings),
            # Its log is in its folder; its standard error is for the person at the terminal.
            None,
            self._settings.hung_after,
            self._changed,
        )
        self._broker = [broker]
        servers = await broker.start()
        self._client_properties = str(folder / local_kafka.FILE)
        # Clients know it by this port, so it keeps it when it is started again.
        broker.arguments += ["--port", servers.rsplit(":", 1)[1]]
        return servers

    @property
    def _children(self) -> list[Child]:
        return [*self._broker, *self._folding, *self._answering]

    def _changed(self) -> None:
        states = tuple(child.state for child in self._children)
        content = processes.Processes(os.getpid(), self._birth, states)
        self._processes.want(msgspec.json.encode(content))

    async def _say_what_is_missing(self) -> None:
        """Print what a slow start waits for, on standard error."""
        while True:
            await asyncio.sleep(_SAY_EVERY)
            missing = []
            for child in self._children:
                trouble = child.state.trouble(processes.now())
                if trouble is not None:
                    place = f" (its log is {child.log_path})" if child.log_path else ""
                    missing.append(trouble + place)
            if self._waits_for and not missing:
                missing.append(self._waits_for)
            if missing:
                say(f"still waiting: {'; '.join(missing)}")

    async def _ready(self, url: str) -> None:
        """Wait until the complete service is ready."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_WITHIN)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(f"{url}/readyz") as answer:
                        if answer.status == 200:
                            return
                        health = await answer.json(content_type=None)
                        self._waits_for = "; ".join(reasons_of(health)) or f"{url} is not ready"
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    self._waits_for = f"{url} does not answer: {error!r}"
                await asyncio.sleep(0.1)

    async def _stop(self) -> None:
        await self._running.forget()
        for children, within in (
            (self._answering, _STOP_API),
            (self._folding, _STOP_PROJECTOR),
            (self._broker, _STOP_BROKER),
        ):
            await asyncio.gather(*(child.stop(within) for child in children))


async def _port_is_free(host: str, port: int) -> None:
    """Wait for a port that no other service uses.

    API processes share their port, so by themselves they would share it with those of another
    service, and each would get some of the other's requests.

    Raises:
        PortTaken: Another program listens there.
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
                        hint="Stop what listens there, or choose another port with --port.",
                    ) from None
            else:
                return
        await asyncio.sleep(0.1)


def _say(what: str) -> None:
    if is_terminal():
        say(what)
