"""Kafka Streams: `python -m benchmarks.peers.kafka_streams KIND --events N`.

Runs its Java, says `ready` and what that took from its first event to the commit of its last, and
then waits to be ended. `durable` keeps stores in RocksDB and a changelog of each in Kafka, as by
default; `memory` keeps them in memory alone: its ceiling, and no service.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.peers.kafka_streams import build, command
from benchmarks.usage import read, taken
from jobtrail.settings import Settings, load


def _measure(java: subprocess.Popen[str], events: int) -> dict[str, float]:
    assert java.stdout is not None
    for line in java.stdout:
        word, *rest = line.split()
        if word == "began":
            began, before = time.perf_counter(), read(java.pid)
        elif word == "done":
            used = taken(before, read(java.pid), time.perf_counter() - began)
            seconds, second_half = map(float, rest)
            return {"seconds": seconds, "late_per_second": events / 2 / second_half, **used}
    raise RuntimeError(f"Java ended with status {java.wait()}")


def _run(settings: Settings, kind: str, events: int, dump: Path | None) -> None:
    build()
    arguments = [
        settings.bootstrap_servers,
        settings.topic,
        settings.group,
        str(settings.data_dir / "kafka-streams"),
        str(events),
        *([str(dump)] if dump is not None else []),
    ]
    # It ends when its standard input does, which is this process's end at the latest.
    with subprocess.Popen(
        command(kind, events, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as java:
        found = _measure(java, events)
        print("ready", msgspec.json.encode(found).decode(), flush=True)
        sys.stdin.read()


def main() -> None:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("durable", "memory"))
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--dump", type=Path, help="write what the stores hold into this file")
    parsed = parser.parse_args()
    _run(load(), parsed.kind, parsed.events, parsed.dump)


if __name__ == "__main__":
    main()
