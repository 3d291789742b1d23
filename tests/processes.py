"""The service's processes as a test handles them: start, wait for `ready`, kill, stop, resume."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings

START_WITHIN: Final = 90.0
STOP_WITHIN: Final = 30.0


class Process:
    """One child process; its standard error goes to a file that is shown when it fails."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._argv = list(argv)
        self._environment = dict(environment)
        self.log = log
        self._child: asyncio.subprocess.Process | None = None

    @property
    def child(self) -> asyncio.subprocess.Process:
        assert self._child is not None, "not started"
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    async def start(self, within: float = START_WITHIN) -> str:
        """Start it, wait for its `ready` and return what it says behind that."""
        await self.spawn()
        return await self.next_ready(within)

    async def spawn(self) -> None:
        """Start it."""
        with self.log.open("ab") as errors:
            self._child = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                start_new_session=True,
            )

    async def next_ready(self, within: float = START_WITHIN) -> str:
        """Wait for the next line on standard output that says `ready`."""
        assert self.child.stdout is not None
        async with asyncio.timeout(within):
            async for line in self.child.stdout:
                word, _, rest = line.decode().strip().partition(" ")
                if word == "ready":
                    return rest
        status = await self.child.wait()
        raise AssertionError(f"{self._argv} ended with {status}:\n{self.log.read_text()[-4000:]}")

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    async def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        if self.child.returncode is None:
            self.child.kill()
        await self.child.wait()

    async def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        if self.child.returncode is None:
            self.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_WITHIN):
            return await self.child.wait()


def module(
    name: str, settings: Settings, folder: Path, *arguments: str, label: str | None = None
) -> Process:
    """Return a process of the service, not started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", name, *arguments]
    return Process(argv, child_environment(settings), folder / f"{label or name}.log")


def projector(settings: Settings, number: int = 0, *options: str) -> Process:
    """Return a projector on these settings, not started yet."""
    label = f"projector-{number}"
    arguments = ("--name", label, "--with-parent", *options)
    return module("projections", settings, settings.data_dir / "logs", *arguments, label=label)


def api(settings: Settings, number: int = 0) -> Process:
    """Return an API process on these settings, not started yet."""
    folder = settings.data_dir / "logs"
    return module("services.api", settings, folder, "--with-parent", label=f"api-{number}")


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of jobtrail."""
    return {k: v for k, v in os.environ.items() if not k.startswith("JOBTRAIL_")}
