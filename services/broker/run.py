"""Runs one broker, from its lock to its end.

The order matters: first the checks that need no Java, so that errors are reported at once; then
Java; and while it starts, the slow imports of its clients.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import NoReturn

from jobtrail.core.errors import AlreadyRunning, BrokerError
from jobtrail.files.atomic import sync
from jobtrail.local.kafka_login import Login
from jobtrail.processes.pids import listens
from jobtrail.terminal.text import err
from services.broker import process
from services.broker.config import (
    HOST,
    LOG4J,
    PROPERTIES,
    SERVER,
    STORAGE_TOOL,
    OneStart,
    java_command,
    log4j_properties,
    server_properties,
)
from services.broker.datadir import PORTS, DataDir, Record, choose_port, is_free
from services.broker.jars import Fetch, Lock, ensure_jars, read_lock
from services.broker.java import Java, find_java, java_environment

#: Seconds from Java's start to the first answer after which a start is given up.
START_SECONDS = 180.0
#: Seconds between two checks of the port.
PAUSE = 0.02
#: How many ports are tried when other programs take them first.
PORT_TRIES = 3
#: What the folder of the log is called while it is being formatted.
_UNFINISHED = "kafka.new"


@dataclass(frozen=True)
class Options:
    """What a broker is started with.

    Attributes:
        data_dir: Its directory.
        port: Where clients shall connect; None: as last time, else a free one.
        cache: The user's cache folder for jobtrail.
        open: Whether to let in every user of the machine, without a password.
    """

    data_dir: Path
    port: int | None
    cache: Path
    open: bool = False


@dataclass(frozen=True)
class _Kit:
    """All that is needed to run a class of Kafka's in a data directory."""

    home: DataDir
    java: Java
    jars: list[Path]
    version: str
    #: Java's environment.
    environ: dict[str, str]
    #: Whether everybody is let in.
    open: bool

    def command(self, *arguments: str) -> list[str]:
        return java_command(self.java, self.jars, arguments)


async def run(options: Options, environ: Mapping[str, str], ready: Callable[[str], None]) -> None:
    """Run a broker until this coroutine is cancelled; Java is gone when it returns.

    Args:
        options: What to run and where.
        environ: The environment, to find Java in.
        ready: Called once with `host:port` when the broker serves and its topics are there.

    Raises:
        AlreadyRunning: Another broker runs on this directory.
        BrokerError: The broker can't start, or ended by itself.
    """
    home = DataDir(options.data_dir)
    home.make()
    with _sole_broker(home):
        lock = read_lock()
        mended = home.mend_record(lock.kafka_version)
        if mended:
            err(mended)
        home.check_version(lock.kafka_version)
        await asyncio.to_thread(home.stop_leftover)
        home.check_room()
        if options.port is not None and not is_free(options.port):
            raise _port_taken(options.port)
        java = find_java(environ)
        jars = await _jars(lock, options.cache)
        kit = _Kit(home, java, jars, lock.kafka_version, java_environment(environ), options.open)
        await _serve(kit, options.port, await _formatted(kit), ready)


@contextlib.contextmanager
def _sole_broker(home: DataDir) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(home.lock_file, timeout=0):
            yield
    except Timeout:
        raise AlreadyRunning(
            "Another broker is running on this data directory.",
            where=str(home.root),
            hint="Use that one, stop it first, or name another directory.",
        ) from None


def _port_taken(port: int) -> BrokerError:
    return BrokerError(
        f"Port {port} is taken by another program.",
        expected="a free port",
        where=f"{HOST}:{port}",
        hint="Stop that program, or name another port.",
    )


async def _jars(lock: Lock, cache: Path) -> list[Path]:
    cancelled = Event()

    def from_maven(cancelled: Event) -> contextlib.AbstractContextManager[Fetch]:
        from services.broker import maven  # slow, and mostly not needed

        return maven.from_maven(cancelled)

    try:
        return await asyncio.to_thread(ensure_jars, lock, cache, from_maven, cancelled)
    finally:
        cancelled.set()


async def _formatted(kit: _Kit) -> str:
    """Return the id of the log's cluster; format the log if there is none.

    Kafka formats another folder, which is renamed when it is complete: an interrupted start leaves
    nothing that the next one could take for a log.
    """
    home = kit.home
    found = home.cluster_id()
    if found is None:
        found = _new_cluster_id()
        unfinished = home.root / _UNFINISHED
        if unfinished.exists():
            shutil.rmtree(unfinished)
        home.write(LOG4J, log4j_properties())
        home.write(PROPERTIES, server_properties(PORTS[0], PORTS[1], _UNFINISHED))
        arguments = ("format", "--cluster-id", found, "--config", PROPERTIES)
        command = kit.command(STORAGE_TOOL, *arguments)
        await process.run_to_end(command, home, kit.environ, "Formatting the broker's log")
        for written in (*unfinished.rglob("*"), unfinished):
            sync(written)
        unfinished.rename(home.log)
        sync(home.root)
    if home.record() is None:
        home.remember(Record(kit.version))
    return found


def _new_cluster_id() -> str:
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):  # Kafka's tool would take it for an option
            return text


async def _serve(
    kit: _Kit, port: int | None, cluster: str, ready: Callable[[str], None]
) -> NoReturn:
    record = kit.home.record() or Record(kit.version)
    for _ in range(PORT_TRIES):
        chosen = port or choose_port(record.port)
        try:
            await _serve_on(kit, chosen, cluster, ready)
        except _PortLost:
            if port is not None:
                raise _port_taken(port) from None
    raise BrokerError(
        "Other programs took every port that was chosen for the broker.",
        found=f"{PORT_TRIES} ports lost",
        hint="Start again, or name a port with --port.",
    )


class _PortLost(Exception):
    """Another program took the port between the check and Kafka's start."""


async def _serve_on(kit: _Kit, port: int, cluster: str, ready: Callable[[str], None]) -> NoReturn:
    home = kit.home
    home.write(LOG4J, log4j_properties())
    passwords = None if kit.open else OneStart(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
    configured = server_properties(port, choose_port(taken={port}), passwords=passwords)
    home.write(PROPERTIES, configured)
    guard = None
    if passwords is not None:
        login, is_new = home.login()
        guard = _Guard(login, is_new, passwords.clients)
        home.write_login(login, f"{HOST}:{port}")
    java = await process.spawn(kit.command(SERVER, str(home.properties)), home, kit.environ)
    tasks: list[asyncio.Task[object]] = []
    try:
        home.note_java(java.pid)
        died = asyncio.create_task(java.wait())
        answers = asyncio.create_task(_answers(java.pid, port, cluster, guard))
        tasks += [died, answers]
        await asyncio.wait(tasks, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if died.done():
            raise _died_at_start(died.result(), home)
        if not answers.done():
            raise BrokerError(
                "Kafka did not start in time.",
                expected=f"an answer within {START_SECONDS:.0f} s",
                where=str(home.logs),
                hint="Its log says what it was doing.",
            )
        answers.result()
        home.remember(replace(home.record() or Record(kit.version), port=port))
        ready(f"{HOST}:{port}")
        raise process.ended("Kafka ended by itself", await died, home)
    finally:
        for task in tasks:
            task.cancel()
        await process.stop(java)
        home.forget_java()


def _died_at_start(status: int, home: DataDir) -> Exception:
    lines = process.tail(home.logs / "broker.log", 200)
    if any("Address already in use" in line for line in lines):
        return _PortLost()
    return process.ended("Kafka could not start", status, home)


@dataclass(frozen=True)
class _Guard:
    """How clients and this process authenticate with our Kafka.

    Attributes:
        login: Of its clients.
        is_new: Whether it was made now, so that Kafka can't have it yet.
        password: Of Kafka's own user, for this start.
    """

    login: Login
    is_new: bool
    password: str


async def _answers(pid: int, port: int, cluster: str, guard: _Guard | None) -> None:
    """Return when our own Kafka serves on the port, accepts clients and has its topics.

    Nothing is sent before it is certain that Kafka's own process listens there: the password of its
    own user is sent in plain text.
    """
    # Java takes longer to start than these imports.
    from jobtrail.settings import load
    from services.broker.topics import cluster_id, ensure_topics

    security = {"security_protocol": "PLAINTEXT"} if guard is None else guard.login.overrides
    settings = load(replication=1, **security)
    address = f"{HOST}:{port}"
    is_in = guard is None
    while True:
        if not listens(pid, port):
            await asyncio.sleep(PAUSE)
            continue
        if guard is not None and not is_in:
            is_in = await _gets_in(address, guard)
        if is_in and await cluster_id(address, settings) == cluster:
            break
        await asyncio.sleep(PAUSE)
    await ensure_topics(address, settings)


async def _gets_in(address: str, guard: _Guard) -> bool:
    """Tell whether Kafka accepts our clients; if it does not, set their password."""
    from aiokafka.errors import KafkaError

    from services.broker.access import lets_in, put_password

    try:
        if guard.is_new or not await lets_in(address, guard.login):
            await put_password(address, guard.login, guard.password)
            # It is in the metadata now, from which Kafka reads it.
            return await lets_in(address, guard.login)
    except (KafkaError, OSError, TimeoutError, ValueError):
        # It has only just started.
        return False
    return True
