"""Processes that are killed, stopped and hung on purpose, and each time started again at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from tests.processes import Process

#: Seconds in which a process has to be ready, whatever else happens.
READY_WITHIN: Final = 120.0
#: Seconds between two tries to start one that ends by itself.
_PAUSE: Final = 0.5


class Sample(NamedTuple):
    """What a process took at an instant."""

    #: Seconds on the monotonic clock.
    at: float
    incarnation: int
    mib: float


class Keeper:
    """Keeps one process running: whenever it ends, it is started again.

    Args:
        name: For reports.
        process: What is run, not started yet.
        below: Returns the pid of a child that is meant along with it, such as Kafka's Java.
    """

    def __init__(
        self, name: str, process: Process, below: Callable[[], int | None] = lambda: None
    ) -> None:
        self.name = name
        self.process = process
        self._below = below
        self.ready = asyncio.Event()
        #: What it said behind `ready` last.
        self.said = ""
        self.incarnation = 0
        #: When it was last started, on the monotonic clock.
        self.started = 0.0
        self.kills = 0
        self.pauses = 0
        #: Exit statuses with which it ended by itself.
        self.fell: list[int] = []
        self.samples: list[Sample] = []
        self._task: asyncio.Task[None] | None = None
        self._paused: list[int] = []
        self._expected = False
        self._over = False

    async def start(self) -> str:
        """Start it, keep it running from now on, and return what it says behind `ready`."""
        self._task = asyncio.create_task(self._keep(), name=self.name)
        await self.is_ready()
        return self.said

    async def is_ready(self, within: float = READY_WITHIN) -> None:
        """Wait until it is ready."""
        try:
            async with asyncio.timeout(within):
                await self.ready.wait()
        except TimeoutError:
            last = self.process.log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"{self.name} was not ready in {within:.0f} s:\n{last}") from None

    async def _keep(self) -> None:
        while not self._over:
            self._expected = False
            await self.process.spawn()
            self.incarnation += 1
            self.started = time.monotonic()
            child = self.process.child
            assert child.stdout is not None
            with contextlib.suppress(OSError):
                async for line in child.stdout:
                    word, _, rest = line.decode(errors="replace").strip().partition(" ")
                    if word == "ready":
                        self.said = rest
                        self.ready.set()
            status = await child.wait()
            self.ready.clear()
            if not self._expected and not self._over:
                self.fell.append(status)
                await asyncio.sleep(_PAUSE)

    def pids(self) -> list[int]:
        """Return the pids that are meant: its own, and that of the child below it."""
        child = self.process._child
        own = [] if child is None or child.returncode is not None else [child.pid]
        below = self._below()
        return own + ([] if below is None else [below])

    def _signal(self, number: int) -> list[int]:
        reached = []
        # The child first: its parent would stop it in order.
        for pid in reversed(self.pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                reached.append(pid)
        return reached

    def kill(self) -> bool:
        """Kill it where it stands, starting or running; return whether there was anything."""
        self._expected = True
        self.ready.clear()
        hit = bool(self._signal(signal.SIGKILL))
        self.kills += hit
        return hit

    def pause(self) -> None:
        """Stop it as a debugger would; `resume` lets it go on."""
        self.pauses += 1
        self._paused = self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let what was paused go on."""
        for pid in self._paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._paused = []

    def sample(self) -> None:
        """Take down how much memory it takes."""
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                total += psutil.Process(pid).memory_info().rss / (1 << 20)
        if total and self.ready.is_set():
            self.samples.append(Sample(time.monotonic(), self.incarnation, total))

    async def stop(self) -> None:
        """Stop it for good, in order where it can."""
        self._over = True
        self.resume()
        if self.process._child is not None:
            try:
                await self.process.stop()
            except TimeoutError:
                self._signal(signal.SIGKILL)
        if self._task is not None:
            async with asyncio.timeout(READY_WITHIN):
                await self._task


def java_of(folder: Path) -> Callable[[], int | None]:
    """Return what finds the Java of the broker on a folder."""

    def find() -> int | None:
        try:
            pid = int((folder / "broker" / "broker.pid").read_text())
            return pid if "java" in psutil.Process(pid).name() else None
        except (OSError, ValueError, psutil.Error):
            return None

    return find


async def first_of(condition: Callable[[], bool], within: float, every: float = 0.05) -> bool:
    """Wait until a condition holds; return whether it did in time (seconds)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not condition():
                await asyncio.sleep(every)
            return True
    return False


async def quietly(*steps: Awaitable[object]) -> list[BaseException]:
    """Take all steps of a clean-up, whatever happens at one; return what went wrong."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    return [result for result in results if isinstance(result, BaseException)]
