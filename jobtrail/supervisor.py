"""The processes of a local service: started in order, watched, started anew, stopped in order.

A child says `ready ...` on its standard output once it works, and ends when its standard input
does: so none outlives this process, not even when it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from jobtrail.errors import JobtrailError

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: A child that lived this long was healthy: its next fall is not the same one again.
_HEALTHY_AFTER: Final = 60.0
_MAX_LOG_BYTES: Final = 16 * 1024 * 1024


class ChildFailed(JobtrailError):
    """A process of the service ended before it was ready."""


class Child:
    """One process, started anew whenever it ends by itself.

    Args:
        name: For messages and the log's file name.
        module: What `python -m` runs.
        arguments: Its arguments; `--with-parent` is added.
        environment: Its whole environment.
        log: Where its standard error goes; None: to ours.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
    ) -> None:
        self.name = name
        #: May be changed between two starts, as for a port that was free to choose.
        self.arguments = list(arguments)
        self._module = module
        #: May be changed likewise.
        self.environment = dict(environment)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._ready: asyncio.Future[str] | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start it and wait until it is ready.

        Returns:
            What it said behind `ready`.

        Raises:
            ChildFailed: It ended before that; its last words are in the message.
        """
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_running(), name=self.name)
        return await self._ready

    async def _keep_running(self) -> None:
        pause = _FIRST_PAUSE
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            status = await self._run_once()
            if self._stopping:
                return
            assert self._ready is not None
            if not self._ready.done():
                self._ready.set_exception(self._failed(status))
                return
            pause = _FIRST_PAUSE if clock() - began > _HEALTHY_AFTER else pause
            print(  # noqa: T201
                f"{self.name} ended with status {status}; starting it anew in {pause:.1f} s",
                file=sys.stderr,
                flush=True,
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _run_once(self) -> int:
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(self._open_log()) if self._log else None
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                *self.arguments,
                "--with-parent",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=self.environment,
                # A Ctrl-C on the terminal is ours to pass on, in order.
                start_new_session=True,
            )
            assert self._process.stdout is not None
            async for line in self._process.stdout:
                word, _, rest = line.decode(errors="replace").strip().partition(" ")
                if word == "ready" and self._ready is not None and not self._ready.done():
                    self._ready.set_result(rest)
            return await self._process.wait()

    def _open_log(self) -> BinaryIO:
        assert self._log is not None
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._log.exists() and self._log.stat().st_size > _MAX_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        return self._log.open("ab")

    def _failed(self, status: int) -> ChildFailed:
        found = None
        if self._log is not None:
            lines = self._log.read_text(errors="replace").splitlines()
            found = lines[-1] if lines else None
        return ChildFailed(
            f"The {self.name} did not start (exit status {status}).",
            found=found,
            where=str(self._log) if self._log else None,
        )

    async def stop(self, within: float) -> None:
        """Ask it to stop, and end it if it does not in time.

        Args:
            within: Seconds.
        """
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(within):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._ready is not None and self._ready.done() and not self._ready.cancelled():
            self._ready.exception()
