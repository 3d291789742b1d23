"""Where a figure was measured, and with which versions: nothing that names a machine or a user."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import apsw
import psutil

from jobtrail.version import __version__
from services.broker.jars import read_lock
from services.broker.java import find_java

_LIBRARIES = (
    "aiohttp",
    "aiokafka",
    "faust-streaming",
    "msgspec",
    "orjson",
    "prometheus-client",
    "pydantic",
    "uvloop",
)


def describe() -> dict[str, Any]:
    """Return the machine and the versions of everything that the figures depend on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "java": _java(),
        "kafka": read_lock().kafka_version,
        "sqlite": apsw.sqlite_lib_version(),
        "jobtrail": __version__,
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        # What others did on the machine when the figure was begun.
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    """Return the processor's model."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", listing.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _java() -> str:
    """Return what the broker's Java says of its version."""
    java = find_java(os.environ)
    said = subprocess.run([java.path, "-version"], capture_output=True, text=True, check=True)
    found = re.search(r'version "([^"]+)"', said.stderr + said.stdout)
    return found[1] if found else str(java.major)
