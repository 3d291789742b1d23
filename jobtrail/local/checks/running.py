"""The running processes: whether they match the files, how often they ended, if they answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Final

import aiohttp
import psutil

from jobtrail.contract.readiness import reasons_of
from jobtrail.core.errors import NotRunning
from jobtrail.local.checks.finding import Finding, ok, problem, warning
from jobtrail.local.running import FILE, Running, read_running
from jobtrail.processes.pids import birth_of
from jobtrail.processes.process_states import Processes, now, read_processes
from jobtrail.settings import Settings

#: The share of a process's open-file limit above which to warn.
_MANY_FILES: Final = 0.8
#: Timeout of an answer, in seconds.
_WITHIN: Final = 10.0
#: A request for metadata of no topic: length, key, version, correlation, no client id, no topics.
#: Kafka closes the connection of a client that has not authenticated.
_WHICH_TOPICS: Final = struct.pack(">ihhihi", 14, 3, 1, 1, -1, 0)
_START: Final = "Start it with `jobtrail up`."


def found_running(settings: Settings) -> Running | None:
    """Return the service that runs on a data folder."""
    with contextlib.suppress(NotRunning):
        return read_running(settings.data_dir)
    return None


def service(settings: Settings) -> Iterator[Finding]:
    """Check whether a service runs, and whether the files about it are right."""
    running, said = found_running(settings), read_processes(settings.data_dir)
    if running is not None:
        yield ok("service", f"it runs as process {running.pid} at {running.url}")
    elif said is not None and said.current:
        yield warning(
            "service", f"it is starting as process {said.pid}", "Wait, or check what it waits for."
        )
    else:
        yield warning("service", "it is not running", _START)
    if running is None and (settings.data_dir / FILE).exists():
        yield warning(
            "pids",
            f"{settings.data_dir / FILE} names a process that has ended",
            "Nothing has to be done: the next start writes it again.",
        )
    yield from _broker_pid(settings)


def _broker_pid(settings: Settings) -> Iterator[Finding]:
    path = settings.data_dir / "broker" / "broker.pid"
    try:
        pid = int(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        yield warning("pids", f"{path} can't be read: {error}", "The next start writes it again.")
        return
    arguments: list[str] = []
    with contextlib.suppress(psutil.Error, OverflowError):
        arguments = psutil.Process(pid).cmdline()
    if str(path.with_name("server.properties").resolve()) in arguments:
        yield ok("pids", f"Kafka runs as process {pid}")
    else:
        yield warning(
            "pids",
            f"{path} names process {pid}, which is not this folder's Kafka",
            "Nothing has to be done: the next start of the broker writes it again.",
        )


def processes(settings: Settings) -> Iterator[Finding]:
    """Check each process of the service: its state, its restarts, its log."""
    said = read_processes(settings.data_dir)
    if said is None or not said.current:
        return
    for process in said.processes:
        trouble = process.trouble(now())
        log = settings.data_dir / "logs" / f"{process.name}.log"
        if trouble is not None:
            yield problem("processes", trouble, f"Its log says more: {log}")
        elif process.pid is not None and birth_of(process.pid) != process.birth:
            yield problem(
                "pids",
                f"{process.name} should be process {process.pid}, which is gone",
                "`jobtrail up` starts it again; where it does not, stop and start that.",
            )
        elif process.ends:
            last = process.ends[-1]
            ago = now() - last.at
            yield warning(
                "restarts",
                f"{process.name} was started again {process.restarts} times; it last ended "
                f"{ago:.0f} s ago: {last}",
                f"Its log says more: {log}",
            )
        else:
            yield ok("processes", f"{process.name} is {process.state}, never started again")
        if process.log_fault:
            yield problem("logs", process.log_fault, "Make room, or give the right to write there.")
        yield from _descriptors(process.name, process.pid)


def _descriptors(name: str, pid: int | None) -> Iterator[Finding]:
    if pid is None or not sys.platform.startswith("linux"):
        return
    try:
        process = psutil.Process(pid)
        count, (most, _) = process.num_fds(), process.rlimit(psutil.RLIMIT_NOFILE)
    except psutil.Error:
        return
    text = f"{name} has {count:,} open files of {most:,}"
    if 0 < most * _MANY_FILES < count:
        yield warning("descriptors", text, "Raise the bound: `ulimit -n`, LimitNOFILE of systemd.")
    else:
        yield ok("descriptors", text)


async def readiness(settings: Settings) -> AsyncIterator[Finding]:
    """Check whether the service is ready."""
    running = found_running(settings)
    if running is None:
        return
    timeout = aiohttp.ClientTimeout(total=_WITHIN)
    mend = "Its log, and that of the projectors, say more: " + str(settings.data_dir / "logs")
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{running.url}/readyz") as answer,
        ):
            health = await answer.json(content_type=None)
            is_ready = answer.status == 200
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        yield problem("ready", f"{running.url} does not answer: {error!r}", mend)
        return
    if is_ready:
        yield ok("ready", f"{running.url} is ready")
        return
    for reason in reasons_of(health) or ["it does not say why"]:
        yield problem("ready", f"not ready: {reason}", mend)


async def kafka_access(running: Running) -> AsyncIterator[Finding]:
    """Check that the service's own Kafka refuses clients without a password."""
    if not running.client_properties:
        return
    if await _answers_anybody(running.bootstrap_servers):
        yield problem(
            "kafka-access",
            f"Kafka at {running.bootstrap_servers} accepts every user of this machine",
            "Stop `jobtrail up` and start it again: it makes Kafka require a password.",
        )
    else:
        yield ok("kafka-access", f"it takes the password of {running.client_properties}")


async def _answers_anybody(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_WITHIN):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(_WHICH_TOPICS)
                return bool(await reader.read(1))
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def ports(settings: Settings) -> Iterator[Finding]:
    """Check that the API's port is free where no service runs."""
    said: Processes | None = read_processes(settings.data_dir)
    if found_running(settings) is not None or (said is not None and said.current):
        return
    if not settings.port:
        return
    place = f"{settings.host}:{settings.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        yield problem(
            "ports",
            f"the API can't listen at {place}: {error.strerror or error}",
            "Stop what listens there, or choose another port with --port or JOBTRAIL_PORT.",
        )
    else:
        yield ok("ports", f"{place} is free")
