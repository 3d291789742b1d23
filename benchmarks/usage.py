"""What processes take while something is measured: CPU, memory, and waiting for a core."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import NamedTuple

import psutil


class Usage(NamedTuple):
    """What one process has taken so far."""

    #: User and system time, seconds.
    cpu: float
    #: Seconds that its threads were ready to run and had no core; None where that is not known.
    waited: float | None
    #: The most memory that was resident, MiB.
    peak_mib: float

    def and_of(self, other: Usage) -> Usage:
        """Return what two processes have taken together."""
        waited = None
        if self.waited is not None and other.waited is not None:
            waited = self.waited + other.waited
        return Usage(self.cpu + other.cpu, waited, self.peak_mib + other.peak_mib)


def read(pid: int) -> Usage:
    """Read what a process has taken."""
    times = psutil.Process(pid).cpu_times()
    return Usage(times.user + times.system, _waited(pid), _peak(pid))


def read_all(pids: Sequence[int]) -> Usage:
    """Read what some processes have taken together."""
    return reduce(Usage.and_of, map(read, pids))


def read_tree(pid: int) -> Usage:
    """Read what a process and all below it have taken, those that have ended there included.

    The memory is what is resident now, with the most that one of them shares counted once: what
    tells it exactly walks through all pages, and would be part of what is measured.
    """
    cpu, waited, own, shared = 0.0, 0.0, 0, 0
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, OSError):  # one that ended meanwhile
            times, memory = one.cpu_times(), one.memory_info()
            # Of those below it that have ended, on Linux.
            ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            cpu += times.user + times.system + ended
            waited += _waited(one.pid) or 0.0
            common = getattr(memory, "shared", 0)
            own, shared = own + memory.rss - common, max(shared, common)
    return Usage(cpu, waited, (own + shared) / 2**20)


def resident_kib(pid: int) -> float:
    """Return how much memory of a process is resident now."""
    return float(psutil.Process(pid).memory_info().rss / 1024)


class Resident(NamedTuple):
    """How much memory of a process is resident, MiB; None: not known, as all but Linux has it."""

    #: What no file holds.
    anonymous: float | None
    #: What files hold that it has mapped, the store's among them.
    mapped: float | None


def resident(pid: int) -> Resident:
    """Read how much memory of a process is resident now."""
    found = _status(pid)
    if "RssAnon" not in found:
        return Resident(None, None)
    # A file on a tmpfs is shared memory to the kernel.
    return Resident(found["RssAnon"] / 1024, (found["RssFile"] + found["RssShmem"]) / 1024)


def _waited(pid: int) -> float | None:
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.exists():
        return None
    total = 0
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            total += int((task / "schedstat").read_text().split()[1])
    return total / 1e9


def _peak(pid: int) -> float:
    found = _status(pid)
    if "VmHWM" in found:
        return found["VmHWM"] / 1024
    return float(psutil.Process(pid).memory_info().rss / 2**20)


def _status(pid: int) -> dict[str, int]:
    """Return what Linux tells of a process in kB, proc(5); empty elsewhere."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return {}
    lines = (line.split() for line in status.read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) for line in lines if line[-1] == "kB"}


class Meter:
    """Meters processes from its making to `stop`.

    Args:
        whom: The processes by what they are called in the results, or what reads several as one.
    """

    def __init__(self, whom: Mapping[str, int | Callable[[], Usage]]) -> None:
        self._readers = {
            name: partial(read, one) if isinstance(one, int) else one for name, one in whom.items()
        }
        self._began = time.perf_counter()
        self._before = {name: reader() for name, reader in self._readers.items()}

    def stop(self) -> dict[str, dict[str, float]]:
        """Return what each process took since, beside its peak memory since its start."""
        seconds = time.perf_counter() - self._began
        return {
            name: taken(self._before[name], reader(), seconds)
            for name, reader in self._readers.items()
        }


def taken(before: Usage, after: Usage, seconds: float) -> dict[str, float]:
    """Return what a process took between two readings, this many seconds apart."""
    cpu = after.cpu - before.cpu
    found = {"cpu_seconds": cpu, "cpu_share": cpu / seconds, "peak_mib": after.peak_mib}
    if before.waited is not None and after.waited is not None:
        found["waited_share"] = max(0.0, after.waited - before.waited) / seconds
    return found


def java_below(pid: int) -> int:
    """Return the process id of the Java that a broker process runs."""
    for child in psutil.Process(pid).children(recursive=True):
        if "java" in child.name():
            return int(child.pid)
    raise LookupError("the broker runs no Java")
