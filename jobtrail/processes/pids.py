"""Which process an id belongs to: ids are reused, and a file may outlive the process it names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psutil

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
#: Where `/proc/PID/stat` has the start of the process, counted after its name in brackets.
_STARTED: Final = 19


def birth_of(pid: int) -> str | None:
    """Return what distinguishes a running process from earlier and later ones with its id.

    On Linux it is the boot and the clock tick since then: psutil's creation time changes when the
    machine's clock is set.

    Returns:
        None where no such process runs; a zombie does not.
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
    """Tell whether a process of this user listens on a TCP port.

    If so, no process of another user does: the kernel does not let them share the port.

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
