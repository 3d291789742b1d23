"""Kafka's Java as a child process that never outlives this one.

On Linux the kernel kills it when this process dies, however it dies. Elsewhere the next start on
the same data directory stops it (`DataDir.stop_leftover`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jobtrail.core.errors import BrokerError
from jobtrail.terminal.text import visible
from services.broker.datadir import STOP_SECONDS, DataDir

#: The standard output and error of Java; emptied at every start.
OUTPUT = "java.log"
#: Lines of the logs that an error shows.
SHOWN_LINES = 12

_PR_SET_PDEATHSIG = 1


def _tied_to_this_process() -> Callable[[], None] | None:
    """Return what a child runs before Java so that the kernel kills it when this process dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return tie


def tail(path: Path, lines: int = SHOWN_LINES) -> list[str]:
    """Return the last lines of a file that are not empty; none if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65_536))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


async def spawn(
    command: Sequence[str], home: DataDir, environ: Mapping[str, str]
) -> asyncio.subprocess.Process:
    """Start a Java in the data directory, its output in `logs/java.log`.

    Other users can't access what it writes.

    It gets a session of its own, so that a Ctrl-C in the terminal reaches only this process,
    which then stops it in order.

    Raises:
        BrokerError: The program can't be run.
    """
    with (home.logs / OUTPUT).open("wb") as output:
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                cwd=home.root,
                env=environ,
                umask=0o077,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_tied_to_this_process(),
            )
        except PermissionError as error:
            raise BrokerError(
                "Java can't be run.", found=str(error.strerror), where=command[0]
            ) from error


async def stop(process: asyncio.subprocess.Process, seconds: float = STOP_SECONDS) -> None:
    """End a process: ask it, and kill it if it has not gone after `seconds`."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def run_to_end(
    command: Sequence[str], home: DataDir, environ: Mapping[str, str], doing: str
) -> None:
    """Run a Java until it has done its work.

    Args:
        command: What to run.
        home: The data directory.
        environ: Its environment.
        doing: What it does, as the subject of an error message.

    Raises:
        BrokerError: It failed.
    """
    process = await spawn(command, home, environ)
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        await stop(process)
        raise
    if status:
        raise ended(f"{doing} failed", status, home)


def ended(what: str, status: int, home: DataDir) -> BrokerError:
    """Return the error that says how Java ended, with the last lines it left."""
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    lines = tail(home.logs / OUTPUT) + tail(home.logs / "broker.log")
    shown = "".join(f"\n  {visible(line[:300])}" for line in lines)
    return BrokerError(
        f"{what} ({how}).",
        where=f"{home.logs}",
        hint=f"The last lines of its log:{shown}" if shown else "It left no log.",
    )
