"""Which process a number meant: numbers are given again, and a file may outlive whom it names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psutil

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
#: Where `/proc/PID/stat` has the start of the process, counted behind its name in brackets.
_STARTED: Final = 19


def birth_of(pid: int) -> str | None:
    """Return what tells a living process from all others that had or will have its number.

    On Linux it is the boot and the clock tick since then: psutil's time of creation moves when
    the machine's clock is set.

    Returns:
        None where no such process lives; one that is dead and not reaped does not.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        try:
            ticks = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2]
            return f"{_BOOT.read_text('ascii').strip()} {ticks.split()[_STARTED]}"
        except OSError:
            return f"{process.create_time():.2f}"
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None


def listens(pid: int, port: int) -> bool:
    """Tell whether a process of this user's listens on a TCP port.

    Where it does, no process of another user does: the kernel lets none of them have the port too.

    Args:
        pid: Which process.
        port: The port, at any address of this machine.
    """
    try:
        return any(
            found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port
            for found in psutil.Process(pid).net_connections("tcp")
        )
    except (psutil.Error, OSError, OverflowError, ValueError):
        return False
