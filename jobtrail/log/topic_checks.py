"""Whether both topics keep what they are given: looked at by the doctor and as processes start.

The log is what all else is made from again, so what deletes from it, or refuses an event, is a
problem; what only makes a loss likelier, once brokers fail, is a warning.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from jobtrail.core.events import MAX_EVENT_BYTES
from jobtrail.internals.aiokafka_admin_internals import Admin
from jobtrail.log.clients import how_to_make_topics
from jobtrail.log.kafka import DEAD_LETTER_BYTES, Client
from jobtrail.settings import Settings

logger = logging.getLogger(__name__)

#: Bytes that a record batch has beside the largest event.
_OVERHEAD: Final = 1024
#: Replicas from which on one broker may be away while another one fails.
_REPLICAS: Final = 3
#: Seconds that a look at a start may take.
_WITHIN: Final = 15.0


class Described(NamedTuple):
    """A topic as the cluster describes it."""

    #: None where we may not see it.
    configs: Mapping[str, str] | None
    #: Per partition its leader (-1: none), replicas and those of them that are in sync.
    partitions: Mapping[int, tuple[int, int, int]]
    #: How many brokers the cluster has.
    brokers: int


class TopicFinding(NamedTuple):
    """One thing that is wrong with a topic."""

    #: Its stable name.
    check: str
    #: Else it is a warning.
    is_problem: bool
    found: str
    #: What to do about it.
    mend: str


async def describe(admin: Any, names: tuple[str, ...]) -> dict[str, Described]:
    """Return those of some topics that there are, by name.

    Args:
        admin: A client that has started.
        names: Of the topics.

    Raises:
        KafkaError: The cluster does not answer, or refuses.
    """
    there = set(await admin.list_topics())
    brokers = len((await admin.describe_cluster())["brokers"])
    found = {}
    for name in names:
        if name not in there:
            continue
        (topic,) = await admin.describe_topics([name])
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        ((code, _text, _kind, _name, entries),) = answer.resources
        found[name] = Described(
            None if code else {entry[0]: entry[1] or "" for entry in entries},
            {
                part["partition"]: (part["leader"], len(part["replicas"]), len(part["isr"]))
                for part in topic["partitions"]
            },
            brokers,
        )
    return found


async def report(settings: Settings) -> None:
    """Log what is wrong with the topics; never fail, and never take long.

    Args:
        settings: Which Kafka, and which topics.
    """
    admin = Admin(client_id="jobtrail-checks", **Client(settings))
    try:
        async with asyncio.timeout(_WITHIN):
            await admin.start()
            topics = await describe(admin, (settings.topic, settings.dead_topic))
    except (KafkaError, OSError, TimeoutError) as error:
        logger.warning("action=topics_not_checked %r", error)
        return
    finally:
        await admin.close()
    for one in findings(settings, topics):
        level = logging.ERROR if one.is_problem else logging.WARNING
        logger.log(level, "action=topic_check check=%s %s. %s", one.check, one.found, one.mend)


def findings(settings: Settings, topics: Mapping[str, Described]) -> Iterator[TopicFinding]:
    """Say what is wrong with both topics.

    Args:
        settings: Their names, and how many partitions the log is to have.
        topics: Those that there are, by name.
    """
    for name in (settings.topic, settings.dead_topic):
        yield from findings_of(settings, name, topics.get(name))
    log = topics.get(settings.topic)
    if log is not None and len(log.partitions) != settings.partitions:
        yield TopicFinding(
            "partitions",
            False,
            f"{settings.topic} has {len(log.partitions)} partitions, the settings say "
            f"{settings.partitions}",
            f"Set JOBTRAIL_PARTITIONS={len(log.partitions)}, if that is how it was made. Never add "
            "partitions to a topic that holds events: jobs would change theirs.",
        )


def findings_of(settings: Settings, name: str, topic: Described | None) -> Iterator[TopicFinding]:
    """Say what is wrong with one topic.

    Args:
        settings: Say which of the two it is.
        name: Its name.
        topic: None where there is none.
    """
    if topic is None:
        yield TopicFinding(
            "topics",
            True,
            f"there is no topic {name}",
            f"{how_to_make_topics(settings.bootstrap_servers)}; `jobtrail up` does it for its own "
            "broker. Where it is there, grant Describe on it.",
        )
        return
    is_log = name == settings.topic
    yield from _leaders(name, topic)
    if topic.configs is None:
        yield TopicFinding(
            "topic-configs",
            False,
            f"how {name} is configured can't be seen",
            f"Grant DescribeConfigs on the topic {name}: docs/cluster.md.",
        )
        return
    yield from _keeping(name, topic.configs, is_log=is_log)
    least = MAX_EVENT_BYTES + _OVERHEAD if is_log else DEAD_LETTER_BYTES
    largest = int(topic.configs.get("max.message.bytes", least))
    if largest < least:
        yield TopicFinding(
            "message-size",
            True,
            f"{name} takes records of {largest:,} bytes at most, less than {least:,}",
            _alter(name, f"max.message.bytes={least}"),
        )
    yield from _replicas(name, topic, int(topic.configs.get("min.insync.replicas", 1)))


def _keeping(name: str, configs: Mapping[str, str], *, is_log: bool) -> Iterator[TopicFinding]:
    policy = configs.get("cleanup.policy", "delete")
    if policy != "delete":
        lost = "of each job only the last event is kept" if is_log else "letters are thrown away"
        yield TopicFinding(
            "compaction",
            is_log,
            f"{name} has cleanup.policy={policy}: {lost}",
            _alter(name, "cleanup.policy=delete"),
        )
    for setting in ("retention.ms", "retention.bytes"):
        value = configs.get(setting, "-1")
        if value == "-1":
            continue
        lost = (
            "older events are deleted, and a store that is folded again lacks them"
            if is_log
            else "older letters are deleted, and can't be written back"
        )
        archive = " Or keep an archive: docs/archive.md." if is_log else ""
        yield TopicFinding(
            "retention",
            is_log,
            f"{name} has {setting}={value}: {lost}",
            _alter(name, f"{setting}=-1") + archive,
        )


def _alter(name: str, setting: str) -> str:
    command = f"kafka-configs.sh --alter --entity-type topics --entity-name {name}"
    return f"Set it by any Kafka tool: {command} --add-config {setting}."


def _leaders(name: str, topic: Described) -> Iterator[TopicFinding]:
    leaderless = sorted(n for n, (leader, _, _) in topic.partitions.items() if leader < 0)
    if leaderless:
        yield TopicFinding(
            "replicas",
            True,
            f"{name} has no leader for partitions {listed(leaderless)}",
            "Start the brokers that hold them.",
        )
    behind = sorted(n for n, (_, all_, insync) in topic.partitions.items() if insync < all_)
    if behind:
        yield TopicFinding(
            "replicas",
            False,
            f"{name} has replicas that are not in sync: partitions {listed(behind)}",
            "See to the brokers that are behind or down.",
        )


def _replicas(name: str, topic: Described, insync: int) -> Iterator[TopicFinding]:
    replicas = min((all_ for _, all_, _ in topic.partitions.values()), default=1)
    wanted = min(_REPLICAS, topic.brokers)
    if replicas < wanted:
        yield TopicFinding(
            "replicas",
            False,
            f"{name} has {replicas} replicas on a cluster of {topic.brokers} brokers: with "
            f"{replicas} brokers that are lost, so is what it held",
            f"Give each partition {wanted}, by kafka-reassign-partitions.sh.",
        )
    advice = _alter(name, f"min.insync.replicas={max(1, replicas - 1)}")
    if insync > replicas:
        yield TopicFinding(
            "replicas",
            True,
            f"{name} has min.insync.replicas={insync} and {replicas} replicas: nothing can be "
            "written",
            advice,
        )
    elif insync == replicas > 1:
        yield TopicFinding(
            "replicas",
            False,
            f"{name} has min.insync.replicas={insync} of {replicas}: writes stop with one broker",
            advice,
        )
    elif insync < replicas - 1:
        yield TopicFinding(
            "replicas",
            False,
            f"{name} has min.insync.replicas={insync} of {replicas}: what was acknowledged can be "
            "lost with so few brokers",
            advice,
        )


def listed(numbers: list[int]) -> str:
    """Return numbers as a sentence has them."""
    return ", ".join(map(str, numbers))
