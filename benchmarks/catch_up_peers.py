"""What `catch_up` is compared with: processes that bring a topic to its end, and say what it took.

Each is `python -m MODULE [ARGUMENTS] --events N`, finds the log in the settings of its environment
and prints `ready` and a JSON object: `seconds` from its first event to its last, what
`benchmarks.usage.taken` returns, and where it knows `late_per_second`, the events a second of the
second half.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from benchmarks.peers import kafka_streams
from benchmarks.stage import Stage
from jobtrail.processes.runtime import child_environment
from tests.postgres import find_programs
from tests.processes import START_WITHIN, Process

#: Events a second that every peer does, so that the long runs are not given up.
_SLOWEST: Final = 500


@dataclass(frozen=True)
class Peer:
    """One of them.

    Attributes:
        name: What it is called.
        module: What is run, in `benchmarks.peers`.
        arguments: What it is called with.
        share: It gets one of so many events: fewer where it takes long for each.
        missing: Says what keeps it from being run; None: nothing does.
        build: Does what has to be done once before.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    share: int = 1
    missing: Callable[[], str | None] = lambda: None
    build: Callable[[], None] = lambda: None

    @property
    def who(self) -> str:
        """What it is called in the results."""
        return f"{self.name} (1/{self.share} of the events)" if self.share > 1 else self.name

    def events_of(self, events: int) -> int:
        """Return how many of a load's events it gets."""
        return min(events, max(1_000, events // self.share))


def _on_kafka_streams(name: str, kind: str) -> Peer:
    return Peer(
        name,
        "kafka_streams",
        (kind,),
        missing=kafka_streams.missing,
        build=kafka_streams.build,
    )


def _postgres_missing() -> str | None:
    return None if find_programs() is not None else "no PostgreSQL is installed"


#: All of them. The JIT compiler needs many events before it has done its work.
PEERS: Final = (
    _on_kafka_streams("Kafka Streams, RocksDB and changelogs", "durable"),
    _on_kafka_streams("Kafka Streams, in memory only", "memory"),
    Peer("PostgreSQL, a table with batched upserts", "postgres_table", missing=_postgres_missing),
    Peer("stock Faust, does nothing", "faust_noop", share=20),
    Peer("stock Faust, jobs in a table", "faust_table", share=40),
)


def make_ready(peers: Sequence[Peer] = PEERS) -> dict[str, str]:
    """Build what has to be built.

    Args:
        peers: Of whom.

    Returns:
        Why peers have to be left out, by what they are called in the results.
    """
    left_out = {}
    for peer in peers:
        missing = peer.missing()
        if missing is None:
            peer.build()
        else:
            left_out[peer.who] = missing
    return left_out


async def run(stage: Stage, topic: str, peer: Peer, events: int) -> dict[str, Any]:
    """Run a peer on its share of a topic's events; return what is found."""
    settings = await stage.settings(topic=topic)
    mine = peer.events_of(events)
    module = f"benchmarks.peers.{peer.module}"
    argv = [sys.executable, "-m", module, *peer.arguments, "--events", str(mine)]
    process = Process(argv, child_environment(settings), settings.data_dir / "peer.log")
    found = msgspec.json.decode(await stage.start(process, START_WITHIN + mine / _SLOWEST))
    await stage.end(process)
    seconds = found.pop("seconds")
    late = {name: found.pop(name) for name in ("late_per_second",) if name in found}
    return {
        "who": peer.who,
        "events_per_second": (mine - 1) / seconds,
        "applied": mine - 1,
        "seconds": seconds,
        **late,
        "processes": {peer.module: found},
    }
