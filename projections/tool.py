"""What the tools that `jobtrail` runs as processes of their own have in common."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import uvloop
from aiokafka.errors import KafkaError

from jobtrail.cli.common import progress
from jobtrail.core.errors import JobtrailError, SettingError, UsageError
from jobtrail.files.private import keep_private
from jobtrail.processes.runtime import set_up_logging, stop_without_input
from jobtrail.settings import Settings, load
from jobtrail.terminal.text import complain


class Bar:
    """Shows progress with the time left, on a terminal; nothing in a pipe.

    Args:
        what: The name of the work.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._stack = contextlib.ExitStack()
        self._done: Callable[[int, int], None] | None = None

    def __enter__(self) -> Self:
        """Begin; the bar appears at the first `show`."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it is."""
        self._stack.close()

    def show(self, done: int, total: int) -> None:
        """Show how many steps are done of how many; the total may change."""
        if self._done is None:
            self._done = self._stack.enter_context(progress(self._what, total))
        self._done(done, total)


def main_of(run: Callable[[Settings], Awaitable[int]], *, with_parent: bool) -> int:
    """Run a tool until it ends or a signal comes, and return its exit status.

    Args:
        run: The tool; it is cancelled by SIGINT and SIGTERM.
        with_parent: Cancel it when standard input ends, too.
    """
    try:
        settings = load()
        keep_private()
        set_up_logging(settings.model_copy(update={"log_level": "WARNING"}))
        # Folded jobs are millions of objects, and hardly any of them is cyclic garbage.
        gc.set_threshold(1_000_000, 20, 50)
        uvloop.install()
        return asyncio.run(_until_signal(run, settings, with_parent=with_parent))
    except JobtrailError as error:
        complain(error, "error: ")
        return 2 if isinstance(error, UsageError | SettingError) else 1
    except (KafkaError, TimeoutError) as error:
        complain(f"The log does not answer. Found: {error!r}.", "error: ")
        return 1


async def _until_signal(
    run: Callable[[Settings], Awaitable[int]], settings: Settings, *, with_parent: bool
) -> int:
    stop = asyncio.Event()
    signals: list[int] = []

    def tell(number: int) -> None:
        signals.append(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, tell, number)
    if with_parent:
        stop_without_input(stop)
    running = asyncio.ensure_future(run(settings))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        stopping.cancel()
        return await running
    running.cancel()
    await asyncio.wait({running})
    return 128 + signals[0] if signals else 1
