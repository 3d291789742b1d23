"""The processes of a local service: started in order, watched, started again, stopped in order.

A child prints `ready ...` on its standard output once it works, `alive` as long as its event loop
runs, and ends when its standard input does: so none outlives this process, even when it is killed.
Its standard error goes through a pipe into a rotating log.

Nothing that can happen to a child ends the loop that starts it again: not a process that can't be
started, nor a log that can't be written. A child without heartbeats is ended and started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from jobtrail.core.errors import JobtrailError
from jobtrail.processes.child_log import TRY_AGAIN_AFTER, RotatingLog, TerminalLog, say
from jobtrail.processes.pids import birth_of
from jobtrail.processes.process_states import End, ProcessState, State, now

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: A child that ran this long was healthy: its next end starts the pauses from the shortest.
_HEALTHY_AFTER: Final = 60.0
#: Seconds for a child's first line: loading its code takes seconds, more where many start at once.
_FIRST_LINE_WITHIN: Final = 120.0
#: How often in `hung_after` a child is checked.
_CHECKS: Final = 10
#: Bytes of standard output or error that are taken at a time.
_CHUNK: Final = 64 * 1024
#: Seconds after a child's end within which its output has to arrive; another process may have the
#: other end of its pipes.
_LAST_WORDS_WITHIN: Final = 2.0


class ChildFailed(JobtrailError):
    """A process of the service could not be started, or ended before it was ready."""


class Child:
    """One process, started again whenever it ends by itself.

    Args:
        name: For messages and the log's file name.
        module: What `python -m` runs.
        arguments: Its arguments; `--with-parent` is added.
        environment: Its complete environment.
        log: Where its standard error goes; None: to ours.
        hung_after: Seconds of silence after which it is ended.
        changed: Called when `state` has changed.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
        hung_after: float,
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        #: May be changed between two starts, as for a port that was free to choose.
        self.arguments = list(arguments)
        #: Its state, for other commands.
        self.state = ProcessState(name)
        self._module = module
        #: May be changed likewise.
        self.environment = dict(environment)
        self._log: RotatingLog | TerminalLog = (
            TerminalLog() if log is None else RotatingLog(log, time.monotonic)
        )
        self._hung_after = hung_after
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._ready: asyncio.Future[str] | None = None
        self._stopping = False
        self._hung = False
        #: Lines received from the running process.
        self._heard = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start it and wait until it is ready.

        Returns:
            What it printed after `ready`.

        Raises:
            ChildFailed: It could not be started or ended before that; why is in the message.
        """
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_running(), name=self.name)
        return await self._ready

    @property
    def log_path(self) -> Path | None:
        """Where its log is; None: on our standard error."""
        return self._log.path

    async def _keep_running(self) -> None:
        assert self._ready is not None
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                reason = await self._run_once()
            except Exception as error:
                # No descriptor, memory or disk space: each may be temporary. For any other error,
                # too, a child that is no longer supervised would be worse.
                reason = f"it can't be run: {error!r}"
                await self._end_now()
            if self._stopping:
                return
            end = End(now(), reason, self._log.last_line)
            self._set(self.state.ended(end))
            if not self._ready.done():
                self._ready.set_exception(self._failed(end))
                return
            pause = _FIRST_PAUSE if time.monotonic() - began > _HEALTHY_AFTER else pause
            say(f"{self.name} ended ({reason}); starting it again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            self._set(self.state, restarts=self.state.restarts + 1)

    async def _run_once(self) -> str:
        """Run it to its end; return a text about how it ended."""
        self._heard, self._hung = 0, False
        self._log.begin()
        self._set(self.state, "starting", started_at=now())
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            *self.arguments,
            "--with-parent",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if self._log.piped else None,
            env=self.environment,
            # We pass a Ctrl-C on the terminal on, in order.
            start_new_session=True,
        )
        self._process = process
        self._set(self.state, pid=process.pid, birth=birth_of(process.pid))
        listening = [asyncio.create_task(self._listen(process.stdout))]
        if process.stderr is not None:
            listening.append(asyncio.create_task(self._copy(process.stderr)))
        watching = asyncio.create_task(self._end_if_hung(process))
        try:
            status = await process.wait()
            await asyncio.wait(listening, timeout=_LAST_WORDS_WITHIN)
        finally:
            for task in (watching, *listening):
                task.cancel()
            await asyncio.gather(watching, *listening, return_exceptions=True)
        if self._hung:
            return f"it was silent for {self._hung_after:.0f} s and was ended"
        return _in_words(status)

    async def _listen(self, output: asyncio.StreamReader | None) -> None:
        """Process the lines of its standard output."""
        assert output is not None
        line = b""
        while chunk := await output.read(_CHUNK):
            self._heard += 1
            *complete, line = (line + chunk).split(b"\n")
            # Output without an end of line is none of our messages.
            line = line[-_CHUNK:]
            for text in complete:
                word, _, rest = text.decode(errors="replace").strip().partition(" ")
                if word == "ready":
                    self._set(self.state, "ready")
                    if self._ready is not None and not self._ready.done():
                        self._ready.set_result(rest)

    async def _copy(self, errors: asyncio.StreamReader) -> None:
        """Copy its standard error into its log."""
        while True:
            chunk = b""
            # A failed log is retried also while the child writes nothing.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TRY_AGAIN_AFTER if self._log.fault else None):
                    chunk = await errors.read(_CHUNK)
                    if not chunk:
                        return
            self._log.write(chunk)
            if self._log.fault != self.state.log_fault:
                if self._log.fault:
                    say(f"The log of {self.name} is lost for now: {self._log.fault}")
                self._set(self.state, log_fault=self._log.fault)

    async def _end_if_hung(self, process: asyncio.subprocess.Process) -> None:
        """End the process when its heartbeats stop.

        Silence is counted in our own checks, not by the clock: while a laptop sleeps there are
        none.
        """
        pause = self._hung_after / _CHECKS
        silent, heard = 0.0, 0
        while True:
            await asyncio.sleep(pause)
            silent = silent + pause if self._heard == heard else 0.0
            heard = self._heard
            bound = self._hung_after if heard else max(self._hung_after, _FIRST_LINE_WITHIN)
            # A process that is being stopped has its own timeout, and may be silent until then.
            if silent >= bound and not self._stopping:
                self._hung = True
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                return

    def _set(self, state: ProcessState, to: State | None = None, **fields: Any) -> None:
        if to is not None and to != state.state:
            fields |= {"state": to, "since": now()}
        self.state = msgspec.structs.replace(state, **fields)
        self._changed()

    def _failed(self, end: End) -> ChildFailed:
        where = self._log.path
        return ChildFailed(
            f"The {self.name} did not start ({end.reason}).",
            found=end.said or None,
            where=str(where) if where else None,
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
                await self._end_now()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        # It may have been started in between.
        await self._end_now()
        self._log.close()
        if self._ready is not None and self._ready.done() and not self._ready.cancelled():
            self._ready.exception()

    async def _end_now(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _in_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
