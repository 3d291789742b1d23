"""Makes the lock of Kafka's jars again: `python -m services.broker.lock VERSION`.

Kafka's Maven coordinates name the jars that it needs, except for the binding of its logging calls
to log4j, which Kafka leaves to its operator. That is added in the version of the log4j that Kafka
names. It is resolved apart from Kafka, since its own dependency management would change the
versions of Kafka's jars.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from jobtrail.core.errors import BrokerError, JobtrailError
from jobtrail.terminal.text import complain, out
from services.broker.jars import KAFKA, LOCK_FILE, Jar, Lock, parse_lock, sha256_of, write_lock

LOG4J = ("org.apache.logging.log4j", "log4j-core")
BINDING = ("org.apache.logging.log4j", "log4j-slf4j-impl")


def with_binding(
    resolved: Sequence[tuple[str, str, str]], version: str
) -> list[tuple[str, str, str]]:
    """Return what Kafka needs plus the logging binding, once each.

    Args:
        resolved: (group, artifact, version) as Maven resolves them for Kafka.
        version: The version of Kafka that was asked for.

    Raises:
        BrokerError: Kafka's own jars are of several versions, or there is no log4j.
    """
    mixed = sorted({v for group, _, v in resolved if group == KAFKA[0] and v != version})
    if mixed:
        raise BrokerError(
            "The resolved jars of Kafka are of several versions.",
            expected=version,
            found=", ".join(mixed),
        )
    log4j = [v for group, artifact, v in resolved if (group, artifact) == LOG4J]
    if not log4j:
        raise BrokerError(
            "Kafka no longer names log4j.",
            expected=":".join(LOG4J),
            hint="Find out which logging it ships now and change services/broker/lock.py.",
        )
    return sorted({*resolved, (*BINDING, log4j[0])})


def make_lock(version: str) -> Lock:
    """Resolve, download and hash the jars of one version of Kafka.

    Raises:
        BrokerError: Something of it can't be had.
    """
    from services.broker.maven import Maven

    with tempfile.TemporaryDirectory(prefix="jobtrail-") as folder:
        maven = Maven(Path(folder), Event())
        jars = []
        for coordinates in with_binding(maven.resolve(f"{':'.join(KAFKA)}:{version}"), version):
            digest = sha256_of(maven.download(":".join(coordinates)))
            jars.append(Jar(*coordinates, digest or ""))
        return Lock(tuple(jars))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m services.broker.lock",
        description="Make the lock of Kafka's jars for one version of Kafka.",
    )
    parser.add_argument("version", help="Kafka's version, such as 4.4.0")
    parser.add_argument("--output", type=Path, default=LOCK_FILE, help="the lock file to write")
    options = parser.parse_args(arguments)
    try:
        lock = make_lock(options.version)
        write_lock(lock, options.output)
        parse_lock(options.output.read_text(encoding="utf-8"), options.output.name)
    except JobtrailError as error:
        complain(error)
        return 1
    out(f"{len(lock.jars)} jars of Kafka {lock.kafka_version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
