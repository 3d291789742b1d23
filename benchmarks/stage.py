"""What figures are measured on: one broker, and processes that are gone when a figure is done."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from benchmarks.usage import java_below
from jobtrail.access.tokens import local_secret, make_token
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings, load
from services.broker.topics import ensure_topics
from tests.processes import START_WITHIN, Process, module


class Stage:
    """A temporary folder, a broker, and the processes of the figure at hand.

    Use it as an async context manager: everything it started is ended with it.

    Args:
        broker_folder: Where the broker's log is kept for the next time; None: nowhere.
        quiet: Whether nothing is said of what goes on.
    """

    def __init__(self, broker_folder: Path | None = None, *, quiet: bool = False) -> None:
        self._kept = broker_folder
        self._quiet = quiet
        self._broker: Process | None = None
        self._servers = ""
        self._running: list[Process] = []

    async def __aenter__(self) -> Self:
        """Make the folder."""
        self._temporary = tempfile.TemporaryDirectory(
            prefix="jobtrail-benchmarks-", ignore_cleanup_errors=True
        )
        self.folder = Path(self._temporary.name)
        # PostgreSQL, as another user, has to get to a folder of its own below.
        self.folder.chmod(0o711)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything and remove the folder."""
        try:
            await self.clear()
            if self._broker is not None:
                await self._stop_broker(self._broker)
        finally:
            self._temporary.cleanup()

    async def _stop_broker(self, broker: Process) -> None:
        try:
            await broker.stop()
        finally:
            await broker.kill()

    def say(self, what: str) -> None:
        """Say what goes on, on standard error."""
        if not self._quiet:
            print(f"  {what}", file=sys.stderr, flush=True)

    async def bootstrap_servers(self) -> str:
        """Return where the broker is; it is started when the first figure needs it."""
        if self._broker is None:
            folder = self._kept or self.folder / "broker"
            options = ("--data-dir", str(folder.absolute()), "--with-parent", "--open")
            settings = Settings(data_dir=self.folder)
            self._broker = module("services.broker", settings, self.folder, *options)
            self._servers = await self._broker.start()
        return self._servers

    def broker_pid(self) -> int:
        """Return the process id of the broker's Java."""
        assert self._broker is not None, "no figure has asked for the broker"
        return java_below(self._broker.pid)

    async def settings(self, **overrides: Any) -> Settings:
        """Return settings with a data folder, a log, a store and a group that nobody has used.

        Args:
            **overrides: Other settings, such as the `topic` of a log that is there.
        """
        name = uuid.uuid4().hex[:12]
        values: dict[str, Any] = {
            "data_dir": self.folder / name,
            "bootstrap_servers": await self.bootstrap_servers(),
            "topic": f"job-events-{name}",
            "dead_topic": f"job-events-dead-{name}",
            "group": f"projector-{name}",
            "port": 0,
            "log_level": "WARNING",
            # The figures are of the service, not of what it grants to one user.
            "max_request_rate": 1e9,
            "max_request_burst": 10**9,
        }
        settings = load(**{**values, **overrides})
        settings.data_dir.mkdir(parents=True)
        await ensure_topics(settings.bootstrap_servers, settings)
        return settings

    async def start(self, process: Process, within: float = START_WITHIN) -> str:
        """Start a process of a figure; return what it says when it is ready, in so many seconds."""
        self._running.append(process)
        return await process.start(within)

    async def start_told(self, name: str, order: msgspec.Struct, settings: Settings) -> Process:
        """Start the module `benchmarks.NAME` on what it is told; return it when it is ready.

        Args:
            name: Of the module, of the file that tells it, and of its log.
            order: What it is told, in MessagePack.
            settings: For its environment; the files are in their data folder.
        """
        path = settings.data_dir / name
        path.write_bytes(msgspec.msgpack.encode(order))
        argv = [sys.executable, "-m", f"benchmarks.{name}", str(path)]
        process = Process(argv, child_environment(settings), path.with_suffix(".log"))
        await self.start(process)
        return process

    async def end(self, *processes: Process) -> None:
        """End processes of a figure as a power cut would."""
        for process in processes:
            await process.kill()
            self._running.remove(process)

    async def clear(self) -> None:
        """End all processes but the broker."""
        while self._running:
            process = self._running.pop()
            with contextlib.suppress(AssertionError):  # it was never started
                await process.kill()


class Tokens:
    """Issues tokens for the service on some settings."""

    def __init__(self, settings: Settings) -> None:
        self._secret = local_secret(settings.data_dir)

    def of(self, user: str, *permissions: str) -> str:
        """Return a token for a user."""
        return make_token(self._secret, user, permissions=permissions)


async def run_to_end(arguments: Sequence[str], settings: Settings) -> bytes:
    """Run Python with these arguments; return what it prints.

    Args:
        arguments: As `["-m", "benchmarks.sending", ...]`.
        settings: For its environment.

    Raises:
        RuntimeError: It failed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(settings),
        start_new_session=True,
    )
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{arguments[1]} ended with status {process.returncode}")
    return printed
