"""The log on its cluster: whether it is durable, and whether projectors read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from jobtrail.core.events import MAX_EVENT_BYTES
from jobtrail.local.checks.cluster import AHEAD, Cluster, Topic
from jobtrail.local.checks.finding import Finding, ok, problem, warning
from jobtrail.log.dead_topic import open_letters
from jobtrail.log.kafka import DEAD_LETTER_BYTES
from jobtrail.settings import Settings

#: Bytes of a record batch in addition to the largest event.
_OVERHEAD: Final = 1024


def topics(settings: Settings, cluster: Cluster) -> Iterator[Finding]:
    """Check that both topics exist, have leaders, and are configured to keep everything."""
    for name, least in (
        (settings.topic, MAX_EVENT_BYTES + _OVERHEAD),
        (settings.dead_topic, DEAD_LETTER_BYTES),
    ):
        topic = cluster.topics.get(name)
        if topic is None:
            yield problem(
                "topics",
                f"there is no topic {name}",
                "Make it: python -m services.broker.topics --bootstrap-servers ...; "
                "`jobtrail up` does it for its own broker.",
            )
            continue
        found = [*_keeping(name, topic), *_size(name, topic, least), *_replicas(name, topic)]
        yield from found
        if not found:
            yield ok("topics", f"{name} keeps everything, {len(topic.partitions)} partitions")
    log = cluster.topics.get(settings.topic)
    if log is not None and len(log.partitions) != settings.partitions:
        yield warning(
            "partitions",
            f"{settings.topic} has {len(log.partitions)} partitions, the settings say "
            f"{settings.partitions}",
            f"Set JOBTRAIL_PARTITIONS={len(log.partitions)}, if that is how it was made. Never add "
            "partitions to a topic that holds events: jobs would change theirs.",
        )


def _keeping(name: str, topic: Topic) -> Iterator[Finding]:
    policy = topic.configs.get("cleanup.policy", "")
    if policy != "delete":
        yield problem(
            "compaction",
            f"{name} has cleanup.policy={policy}: of each job only the last event is kept",
            _alter(name, "cleanup.policy=delete"),
        )
    for setting in ("retention.ms", "retention.bytes"):
        value = topic.configs.get(setting, "-1")
        if value != "-1":
            yield problem(
                "retention",
                f"{name} has {setting}={value}: older events are deleted, and a store that is "
                "folded again lacks them",
                _alter(name, f"{setting}=-1") + " Or keep an archive: docs/archive.md.",
            )


def _alter(name: str, setting: str) -> str:
    command = f"kafka-configs.sh --alter --entity-type topics --entity-name {name}"
    return f"Set it by any Kafka tool: {command} --add-config {setting}."


def _size(name: str, topic: Topic, least: int) -> Iterator[Finding]:
    largest = int(topic.configs.get("max.message.bytes", least))
    if largest < least:
        yield problem(
            "message-size",
            f"{name} takes records of {largest:,} bytes at most, less than {least:,}",
            _alter(name, f"max.message.bytes={least}"),
        )


def _replicas(name: str, topic: Topic) -> Iterator[Finding]:
    leaderless = sorted(n for n, (leader, _, _) in topic.partitions.items() if leader < 0)
    if leaderless:
        yield problem(
            "replicas",
            f"{name} has no leader for partitions {_listed(leaderless)}",
            "Start the brokers that have them.",
        )
    lagging = sorted(n for n, (_, all_, insync) in topic.partitions.items() if insync < all_)
    if lagging:
        yield warning(
            "replicas",
            f"{name} has replicas that are not in sync: partitions {_listed(lagging)}",
            "Check the brokers that lag or are down.",
        )
    replicas = min((all_ for _, all_, _ in topic.partitions.values()), default=1)
    insync = int(topic.configs.get("min.insync.replicas", 1))
    if insync > replicas:
        yield problem(
            "replicas",
            f"{name} has min.insync.replicas={insync} and {replicas} replicas: nothing can be "
            "written",
            _alter(name, f"min.insync.replicas={max(1, replicas - 1)}"),
        )
    elif insync == replicas > 1:
        yield warning(
            "replicas",
            f"{name} has min.insync.replicas={insync} of {replicas}: writes stop with one broker",
            _alter(name, f"min.insync.replicas={replicas - 1}"),
        )
    elif insync < replicas - 1:
        yield warning(
            "replicas",
            f"{name} has min.insync.replicas={insync} of {replicas}: what was acknowledged can be "
            "lost with so few brokers",
            _alter(name, f"min.insync.replicas={replicas - 1}"),
        )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def clock(settings: Settings, cluster: Cluster) -> Iterator[Finding]:
    """Check that no record's timestamp is in the future."""
    log = cluster.topics.get(settings.topic)
    if log is None:
        return
    if log.ahead:
        places = ", ".join(f"{number}:{offset}" for number, offset in sorted(log.ahead.items()))
        yield warning(
            "clock",
            f"records are more than {AHEAD:.0f} s in the future, from partition:offset {places}",
            "Set the clock of this machine or of the producers, by NTP say; lag is wrong until "
            "then.",
        )
    else:
        yield ok("clock", "no record of the log is in the future")


async def dead_letters(settings: Settings, cluster: Cluster) -> AsyncIterator[Finding]:
    """Count the records of the open dead letters."""
    if settings.dead_topic not in cluster.topics:
        return
    count, _newest = await open_letters(settings)
    if count:
        yield warning(
            "dead-letters",
            f"dead letters for {count:,} records are open in {settings.dead_topic}",
            "`jobtrail dead list` shows them and why.",
        )
    else:
        yield ok("dead-letters", "none")


def group(settings: Settings, cluster: Cluster) -> Iterator[Finding]:
    """Check that each partition has a projector."""
    log = cluster.topics.get(settings.topic)
    if log is None:
        return
    mend = "Start `jobtrail up`, or the projectors; after a start it takes some seconds."
    served = {number for member in cluster.members for number in member.partitions}
    missing = sorted(log.partitions.keys() - served)
    who = ", ".join(
        f"{member.name} ({len(member.partitions)} partitions)" for member in cluster.members
    )
    if not cluster.members:
        yield problem(
            "group", f"the group {settings.group} has no member: no projector folds the log", mend
        )
    elif missing:
        yield problem(
            "group",
            f"no projector has partitions {_listed(missing)}; the group is {cluster.group_state}: "
            f"{who}",
            mend,
        )
    else:
        yield ok("group", f"each partition has a projector: {who}")
    idle = [member.name for member in cluster.members if not member.partitions]
    if idle and cluster.group_state == "Stable" and len(cluster.members) <= len(log.partitions):
        yield warning(
            "group",
            f"members without a partition: {', '.join(idle)}",
            "One that has ended leaves the group within half a minute.",
        )
