"""`python -m services.api`: one process of the service.

Several processes share a port: each listens on it by itself, and the kernel shares out the
connections.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import signal
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
from jobtrail.settings import Settings, load
from jobtrail.terminal.text import complain, out
from projections.sqlite.read.reader import SqliteReader
from services.api.app import make_app, make_service
from services.api.serving.protocol import Runner

logger = logging.getLogger(__name__)

#: Connections that the kernel holds until they are taken up.
_BACKLOG = 4096
#: Files that are open beside connections: the store's, Kafka's, the loop's, those being refused.
_OTHER_FILES = 1_200
#: Objects that have come and not gone before the collector looks at them, and after how many looks
#: it looks at older ones, and at all. A look at 20,000 took 9 ms, one at ten times as many 60, in
#: which nobody was answered; with these 1 to 9 ms, and one at all of 40 ms in a minute at most.
_COLLECTED_AFTER = (2_000, 5, 500)
#: Seconds after which a thread lets another one have the interpreter. Python's own 5 ms are ten
#: pages of 20.
_SWITCH_SECONDS = 0.000_5
#: Seconds that requests have to end once the process is told to.
_SHUTDOWN_SECONDS = 5.0


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
        logger.info("action=stopping")
        checking.cancel()
    finally:
        await runner.cleanup()


def connections_within(most: int) -> int:
    """Return how many connections the process can hold, each an open file.

    The bound on open files is raised as far as the process itself may: a shell's 1,024 would cut
    connections off without an answer.

    Args:
        most: How many it should hold.
    """
    wanted = most + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(soft - _OTHER_FILES, soft // 2)
    return most


def settle() -> None:
    """Let the collector of cycles pass over what is there from the start, and come less often.

    And let the event loop wait for the thread of long reads no longer than a page takes.

    A request leaves no cycle behind, so looking for some after every 700 objects finds none; what
    an odd one leaves is a few MiB.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)
    sys.setswitchinterval(_SWITCH_SECONDS)


def _stop_event(*, with_parent: bool) -> asyncio.Event:
    """Return what is set when a signal, or the end of standard input, ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
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
