"""The same projections on Kafka Streams; its sources are Java's, and Maven builds them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
_BUILT: Final = FOLDER / "target"
_JAR: Final = _BUILT / "kafka-streams-peer-1.jar"
#: MiB of heap: the record cache and what is being worked on; with 1,024 it is half as fast on
#: 2,000,000 events. In memory, the jobs come on top.
_HEAP: Final = 3072
_EVENTS_PER_HEAP: Final = 1_000


def missing() -> str | None:
    """Say what keeps this peer from being run; None: nothing does."""
    for program in ("java", "javac", "mvn"):
        if shutil.which(program) is None:
            return f"there is no {program} here"
    return None


def build() -> None:
    """Build it, unless that was done since its sources changed.

    Raises:
        RuntimeError: Maven failed.
    """
    sources = [FOLDER / "pom.xml", *FOLDER.glob("src/**/*.java")]
    if _JAR.exists() and _JAR.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    argv = ["mvn", "-q", "-B", "-f", str(FOLDER), "clean", "package"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Maven can't build {FOLDER}:\n{(done.stdout + done.stderr)[-2000:]}")


def command(kind: str, events: int, *arguments: str) -> list[str]:
    """Return the command that runs it.

    Args:
        kind: `durable` or `memory`.
        events: How many it shall process.
        arguments: What `Main` takes behind the kind.
    """
    heap = _HEAP + (events // _EVENTS_PER_HEAP if kind == "memory" else 0)
    return [
        "java",
        # On two cores it takes less off the work than the default, G1.
        "-XX:+UseParallelGC",
        f"-Xmx{heap}m",
        "-XX:+ExitOnOutOfMemoryError",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        "-cp",
        f"{_JAR}:{_BUILT / 'lib'}/*",
        "peer.Main",
        kind,
        *arguments,
    ]
