"""The states of the processes of `jobtrail up`, in a small file for other commands.

Each change of a process is written to `processes.json` in the data folder: which state it is in,
how often it was started again and why. `status` and `doctor` read it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, Literal

import msgspec

from jobtrail.processes.pids import birth_of

FILE: Final = "processes.json"
#: Seconds for which an end counts as recent.
RECENT: Final = 600.0
#: This many recent ends mean a permanent fault.
TOO_OFTEN: Final = 3
#: Seconds after which a ready process counts as recovered from its last fault.
STEADY_AFTER: Final = 60.0
#: Ends that are kept per process.
_KEPT: Final = 10

State = Literal["starting", "ready", "waiting", "stopped"]


class End(msgspec.Struct, frozen=True):
    """How a process ended without being stopped."""

    #: Seconds since the epoch.
    at: float
    #: Exit status, signal, or why it could not be started, as text.
    reason: str
    #: The last line of its log; empty without one.
    said: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; its last words: {self.said}" if self.said else self.reason


class ProcessState(msgspec.Struct, frozen=True, rename="camel"):
    """One process of the service."""

    name: str
    #: `waiting`: it ended, or could not be started, and is started again after a pause.
    state: State = "stopped"
    #: When it entered this state, seconds since the epoch.
    since: float = 0.0
    #: None while it does not run.
    pid: int | None = None
    #: Distinguishes the process from another one with its id (`jobtrail.processes.pids`).
    birth: str | None = None
    #: When it was last started, seconds since the epoch.
    started_at: float | None = None
    restarts: int = 0
    #: The last ends, the newest last.
    ends: tuple[End, ...] = ()
    #: What is wrong with its log file; empty where nothing is.
    log_fault: str = ""

    def ended(self, end: End) -> ProcessState:
        """Return the state after an end, before the process is started again."""
        return msgspec.structs.replace(
            self, state="waiting", since=end.at, pid=None, birth=None,
            ends=(*self.ends, end)[-_KEPT:],
        )  # fmt: skip

    def trouble(self, now: float) -> str | None:
        """Return what is wrong with it; None where nothing is.

        Args:
            now: Seconds since the epoch.
        """
        last = self.ends[-1] if self.ends else None
        why = "" if last is None else f": {last}"
        recent = [end for end in self.ends if now - end.at < RECENT]
        steady = self.state == "ready" and now - self.since >= STEADY_AFTER
        if len(recent) >= TOO_OFTEN and not steady:
            minutes = RECENT / 60
            return (
                f"{self.name} is restarting again and again, "
                f"{len(recent)} times in the last {minutes:.0f} minutes{why}"
            )
        if self.state == "ready":
            return None
        if self.state == "waiting":
            return f"{self.name} is not running and is started again soon{why}"
        if self.state == "starting":
            return f"{self.name} is starting since {max(now - self.since, 0):.0f} s{why}"
        return f"{self.name} is stopped"


class Processes(msgspec.Struct, frozen=True):
    """All processes of one `jobtrail up`."""

    pid: int
    birth: str
    processes: tuple[ProcessState, ...] = ()

    @property
    def current(self) -> bool:
        """Whether the `up` that wrote this is still running."""
        return birth_of(self.pid) == self.birth


def read_processes(data_dir: Path) -> Processes | None:
    """Return the states that the last `up` on a data folder wrote; None where unreadable."""
    try:
        return msgspec.json.decode((data_dir / FILE).read_bytes(), type=Processes)
    except (OSError, msgspec.MsgspecError):
        return None


def now() -> float:
    """Return the current time in seconds since the epoch."""
    return time.time()
