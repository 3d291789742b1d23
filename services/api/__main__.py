"""`python -m services.api`: one process of the service.

Several processes can listen on the same port: the kernel distributes the connections among them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import socket
import sys

import uvloop
from aiohttp import web

from jobtrail.access.tokens import local_secret
from jobtrail.core.errors import JobtrailError, SettingError
from jobtrail.files.private import keep_private
from jobtrail.log.kafka import Client
from jobtrail.log.topic_checks import report
from jobtrail.processes.runtime import end_with_parent, set_up_logging
from jobtrail.processes.stopping import end_within, stop_on_signals
from jobtrail.settings import Settings, load
from jobtrail.terminal.text import complain, out
from projections.sqlite.read.reader import SqliteReader
from services.api.app import make_app, make_service
from services.api.serving.protocol import Runner

logger = logging.getLogger(__name__)

#: Connections that the kernel queues until the process accepts them.
_BACKLOG = 4096
#: Open files beside connections: of the store, of Kafka, of the event loop, refused connections.
_OTHER_FILES = 1_200
#: Thresholds of the cyclic garbage collector: new objects before generation 0 is collected, such
#: collections before generation 1 is, and of that before generation 2. A collection of 20,000
#: objects took 9 ms and one of 200,000 took 60 ms, during which no request is answered. With these
#: thresholds one takes 1 to 9 ms, and a full one 40 ms, at most once a minute.
_COLLECTED_AFTER = (2_000, 5, 500)
#: Seconds after which a thread passes the interpreter on to another one. Python's default of 5 ms
#: is as long as ten pages of 20 jobs take.
_SWITCH_SECONDS = 0.000_5
#: Seconds that requests have to end once the process takes no new ones.
_SHUTDOWN_SECONDS = 5.0
#: Seconds after which a process that takes no new requests is ended where it has not by itself.
_END_WITHIN = 10.0


def main() -> int:
    """Run until told to stop; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.api", description=__doc__)
    parser.add_argument(
        "--with-parent", action="store_true", help="end when standard input reaches its end"
    )
    options = parser.parse_args()
    try:
        settings = load()
        keep_private()
        set_up_logging(settings)
        uvloop.run(_serve(settings, with_parent=options.with_parent))
    except JobtrailError as error:
        complain(error)
        return 1
    return 0


async def _serve(settings: Settings, *, with_parent: bool) -> None:
    if not settings.bootstrap_servers:
        raise SettingError(
            "The API does not know where the log is.",
            where="JOBTRAIL_BOOTSTRAP_SERVERS",
            expected="host:port[,host:port]",
            hint="`jobtrail up` sets it.",
        )
    room = connections_within(settings.max_connections)
    if room < settings.max_connections:
        logger.warning("action=few-files connections=%d of=%d", room, settings.max_connections)
        settings = settings.model_copy(update={"max_connections": room})
    kafka = Client(settings)
    service = make_service(
        settings,
        secret=local_secret(settings.data_dir),
        open_reader=lambda: SqliteReader(settings.store_folder),
        kafka=kafka,
    )
    stop = _stop_event(with_parent=with_parent)
    runner = Runner(
        make_app(service), service.bounds, service.timeouts, shutdown_timeout=_SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        listener = _listen(settings.host, settings.port)
        site = web.SockSite(runner, listener, backlog=_BACKLOG)
        await site.start()
        host, port = listener.getsockname()[:2]
        settle()
        checking = asyncio.create_task(report(settings))
        out(f"ready http://{_in_url(host)}:{port}")
        await stop.wait()
        logger.info("action=stopping drain=%.1f", settings.drain)
        checking.cancel()
        service.draining.set()
        end_within(settings.drain + _END_WITHIN, 1)
        # It goes on answering: what sends requests here has to see first that it is not ready.
        await asyncio.sleep(settings.drain)
    finally:
        await runner.cleanup()


def connections_within(most: int) -> int:
    """Return how many connections the process can have, each an open file.

    The limit on open files is raised as far as the process itself may: with a shell's 1,024
    connections would be closed without an answer.

    Args:
        most: How many it should have.
    """
    wanted = most + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(soft - _OTHER_FILES, soft // 2)
    return most


def settle() -> None:
    """Exempt the objects of the start from garbage collection, and collect others less often.

    Also bound the time that the event loop waits for the thread of long reads.

    Requests create no reference cycles, so that a collection after every 700 objects, Python's
    default, finds nothing; rare cycles add up to a few MiB before they are collected.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)
    sys.setswitchinterval(_SWITCH_SECONDS)


def _stop_event(*, with_parent: bool) -> asyncio.Event:
    """Return an event that is set by a signal, or by the end of standard input."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    if with_parent:
        end_with_parent(stop)
    return stop


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that shares its port with other processes of the service."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise SettingError(
            "The API can't listen there.",
            where=f"{host}:{port}",
            found=str(error),
            hint="Set JOBTRAIL_HOST and JOBTRAIL_PORT.",
        ) from None
    listener.setblocking(False)
    return listener


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(main())
