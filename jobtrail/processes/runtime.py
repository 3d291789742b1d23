"""What all processes of the service share: logging, and ending with their parent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from jobtrail.processes.alive import keep_saying_alive
from jobtrail.settings import ENV_PREFIX, Settings, as_environment
from jobtrail.terminal.text import VisibleFormatter, guard_terminal

#: Packages that log too much.
_VERBOSE: Final = ("aiokafka", "faust", "mode", "asyncio")
#: Seconds in which each of them may log the same message once.
_ONCE_IN: Final = 10.0
#: How many messages are remembered; some packages format a message before they log it.
_REMEMBERED: Final = 1_000


class LogRateLimiter(logging.Filter):
    """Limits how often a package may log the same message, and counts the dropped ones.

    Without a broker aiokafka alone writes some forty lines a second.

    Args:
        packages: Whose messages; those of others all pass.
        once_in: Seconds in which a message passes once.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self,
        packages: tuple[str, ...] = _VERBOSE,
        once_in: float = _ONCE_IN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._packages = packages
        self._once_in = once_in
        self._clock = clock
        #: Per logger and message, before its arguments: when it last passed, and how often it was
        #: dropped since.
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be written; may add to its message."""
        if record.name.partition(".")[0] not in self._packages:
            return True
        key = (record.name, str(record.msg))
        now = self._clock()
        at, held_back = self._seen.pop(key, (-self._once_in, 0))
        if now - at < self._once_in:
            self._seen[key] = (at, held_back + 1)
            return False
        self._seen[key] = (now, 0)
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        if held_back:
            record.msg = f"{record.msg} ({held_back} more like this in {now - at:.0f} s)"
        return True


def set_up_logging(settings: Settings) -> None:
    """Log to standard error, one line a record, at the level of the settings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    # At the handler: a logger's own filter does not see what its children log.
    handler.addFilter(LogRateLimiter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    guard_terminal()
    for chatty in _VERBOSE:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


def end_with_parent(stop: asyncio.Event) -> None:
    """Set `stop` when standard input ends: the parent that had its other end has ended.

    It works wherever pipes do, also when the parent was killed with SIGKILL. Until then this
    process sends heartbeats to the parent.
    """
    keep_saying_alive()
    stop_without_input(stop)


def stop_without_input(stop: asyncio.Event) -> None:
    """Set `stop` when standard input ends, without heartbeats on standard output."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        # Not through sys.stdin: a thread that waits with its lock breaks the interpreter's
        # shutdown.
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=read, name="parent", daemon=True).start()


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which this service's processes are started as modules.

    In a checkout they are beside the package, in an installed wheel inside of it, so that nothing
    as generic as `services` becomes a top-level import name in the user's environment.
    """
    package = Path(__file__).resolve().parents[1]
    bundled = package / "_processes"
    roots = [str(bundled if bundled.is_dir() else package.parent), str(package.parent)]
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*dict.fromkeys(roots), *([inherited] if inherited else [])])
    # Without the last, `python -m` imports from the folder where the user happens to be, first of
    # all: a project of theirs with a package of the same name, or what others put into /tmp.
    return {
        **os.environ, **as_environment(settings), "PYTHONPATH": path, "PYTHONSAFEPATH": "1",
    }  # fmt: skip


#: Variables that the broker's process may need: to find Java and to be found by it, to download
#: Kafka through a proxy, and those of the system.
_NEEDED_BY_BROKER: Final = frozenset(
    {
        "ALL_PROXY", "CURL_CA_BUNDLE", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "JAVA_HOME", "LANG",
        "LD_LIBRARY_PATH", "NO_PROXY", "PATH", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR",
        "SSL_CERT_FILE", "SYSTEMROOT", "TMPDIR", "TZ", "VIRTUAL_ENV", "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
    }
)  # fmt: skip
#: How the names of others begin that it may need.
_NEEDED_PREFIXES: Final = ("JGO_", "LC_", "PYTHON")
#: The settings that it reads: what its topics are called and how they are made.
_SETTINGS_OF_BROKER: Final = ("topic", "dead_topic", "partitions")


def broker_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of the local Kafka, without the secrets in ours."""
    inherited = child_environment(settings)
    wanted = {f"{ENV_PREFIX}{name.upper()}" for name in _SETTINGS_OF_BROKER}
    return {
        name: value
        for name, value in inherited.items()
        if name in wanted or name.upper() in _NEEDED_BY_BROKER or name.startswith(_NEEDED_PREFIXES)
    }


def run_in_foreground(module: str, arguments: Sequence[str], settings: Settings) -> int:
    """Run one of this service's modules as a process, and wait for its end.

    It has our standard output and error; SIGINT and SIGTERM are passed on to it, and it ends when
    we do, also when we are killed (`--with-parent` is added).

    Args:
        module: What `python -m` runs.
        arguments: Its arguments.
        settings: Its settings.

    Returns:
        Its exit status; 128 plus the signal's number where a signal ended it.
    """
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", module, *arguments, "--with-parent"],
        stdin=subprocess.PIPE,
        env=child_environment(settings),
        # We pass a Ctrl-C on the terminal on, once.
        start_new_session=True,
    )
    before = {
        number: signal.signal(number, lambda number, _frame: process.send_signal(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
