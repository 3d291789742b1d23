"""The broker's command line: its output and its exit status.

Standard output gets one line, `ready HOST:PORT`, when the broker serves; with a parent process that
watches it also lines with `alive`, as long as Kafka answers. An error is a sentence on standard
error and exit status 1 (2: wrong usage).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from jobtrail.core.errors import BrokerError, JobtrailError, UsageError
from jobtrail.files.private import keep_private
from jobtrail.processes.alive import BEAT, say_alive
from jobtrail.terminal.text import complain, out
from services.broker.probe import answers
from services.broker.run import Options, run


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m services.broker",
        description="Run a local Kafka in the foreground until SIGINT or SIGTERM.",
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="its directory")
    parser.add_argument(
        "--port", type=port_number, help="where clients connect (else as last time, or a free one)"
    )
    parser.add_argument(
        "--with-parent",
        action="store_true",
        help="end when standard input ends, whose other end the parent process has",
    )
    parser.add_argument(
        "--open",
        action="store_true",
        help="let in every user of this machine, without a password: for tests",
    )
    return parser.parse_args(arguments)


def port_number(text: str) -> int:
    """Read a port from the command line."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"expected 1 to 65535, found {text!r}")
    return int(text)


async def _until_stopped(options: Options, *, with_parent: bool) -> None:
    """Run the broker until a signal or the parent's end; errors of the broker pass through."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    heart = _Heart()
    broker = asyncio.create_task(run(options, os.environ, heart.say_ready))
    ends: list[asyncio.Task[object]] = [broker, asyncio.create_task(stop.wait())]
    if with_parent:
        ends += [asyncio.create_task(_end_of_input()), asyncio.create_task(heart.beat())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    for result in await asyncio.gather(*ends, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def _check_input() -> None:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        mode = 0  # it is closed
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(0)):
        raise UsageError(
            "--with-parent can't watch standard input.",
            expected="a pipe whose other end the parent has",
            found="something else",
        )


async def _end_of_input() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.read(4096):
        pass


class _Heart:
    """Tells the parent process that the broker is alive: this process, and Java too.

    Until Java serves, the bounds of the start apply instead.
    """

    def __init__(self) -> None:
        self._address: str | None = None

    def say_ready(self, address: str) -> None:
        out(f"ready {address}")
        self._address = address

    async def beat(self) -> None:
        while True:
            if self._address is None or await answers(self._address):
                say_alive()
            await asyncio.sleep(BEAT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parsed = _parse(arguments)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its warnings become our errors
    cache = Path(platformdirs.user_cache_dir("jobtrail", appauthor=False)).absolute()
    options = Options(parsed.data_dir, parsed.port, cache, parsed.open)
    keep_private()
    try:
        if parsed.with_parent:
            _check_input()
        asyncio.run(_until_stopped(options, with_parent=parsed.with_parent))
    except JobtrailError as error:
        complain(error)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        complain(_in_one_sentence(error))
        return 1
    return 0


def _in_one_sentence(error: OSError) -> BrokerError:
    return BrokerError(
        "The broker's files can't be used.",
        found=error.strerror or type(error).__name__,
        where=str(error.filename) if error.filename else None,
        hint="Make room or give this user the right to write there, or use another directory.",
    )
