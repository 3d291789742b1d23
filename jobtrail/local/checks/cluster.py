"""The state of the cluster, read once for all checks that need it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from jobtrail.internals.aiokafka_admin_internals import Admin
from jobtrail.internals.aiokafka_internals import ConsumerProtocolMemberAssignment, client_of
from jobtrail.log.clients import partitions_of
from jobtrail.log.consumers import group_reader
from jobtrail.log.kafka import Client, stop_client
from jobtrail.log.topic_checks import Described, describe
from jobtrail.settings import Settings

#: Seconds that reading it may take.
_WITHIN: Final = 30.0
#: Seconds between two tries.
_PAUSE: Final = 0.2
#: Seconds by which a record's timestamp may be in the future: clocks differ a little.
AHEAD: Final = 60.0


class Topic(NamedTuple):
    """A topic, and where its partitions begin and end."""

    described: Described
    begins: Mapping[int, int]
    ends: Mapping[int, int]
    #: Per partition the first offset whose timestamp is in the future.
    ahead: Mapping[int, int]

    @property
    def partitions(self) -> Mapping[int, tuple[int, int, int]]:
        """Per partition its leader (-1: none), replicas and those of them that are in sync."""
        return self.described.partitions


class Member(NamedTuple):
    """A member of the projectors' group."""

    name: str
    host: str
    partitions: frozenset[int]


class Cluster(NamedTuple):
    """The state of the cluster for the checks."""

    #: The log and the dead-letter topic, where they exist, by name.
    topics: Mapping[str, Topic]
    #: The group's state, as Kafka names it.
    group_state: str
    members: tuple[Member, ...]


class NoCluster(Exception):
    """The cluster does not answer; the text has the error."""


async def look(settings: Settings) -> Cluster:
    """Read the state of the cluster.

    Raises:
        NoCluster: It does not answer in time, or refuses.
    """
    kafka = Client(settings)
    admin = Admin(client_id="jobtrail-doctor", **kafka)
    consumer = group_reader(kafka)
    try:
        async with asyncio.timeout(_WITHIN):
            await admin.start()
            await consumer.start()
            described = await describe(admin, (settings.topic, settings.dead_topic))
            topics = {
                name: await _topic(consumer, name, topic) for name, topic in described.items()
            }
            while True:
                try:
                    state, members = await _group(admin, settings)
                    return Cluster(topics, state, members)
                except KafkaError as error:
                    # The first query about any group creates a new cluster's internal topic for
                    # groups.
                    if not error.retriable:
                        raise
                    await asyncio.sleep(_PAUSE)
    except (KafkaError, OSError, TimeoutError) as error:
        raise NoCluster(repr(error)) from None
    finally:
        await stop_client(consumer)
        await admin.close()


async def ends(settings: Settings) -> dict[int, int]:
    """Return the log's current end per partition.

    Raises:
        NoCluster: The cluster does not answer in time.
    """
    kafka = Client(settings)
    consumer = group_reader(kafka)
    try:
        async with asyncio.timeout(_WITHIN):
            await consumer.start()
            found = [
                TopicPartition(settings.topic, p)
                for p in await partitions_of(client_of(consumer), settings.topic)
            ]
            return {tp.partition: end for tp, end in (await consumer.end_offsets(found)).items()}
    except (KafkaError, OSError, TimeoutError) as error:
        raise NoCluster(repr(error)) from None
    finally:
        await stop_client(consumer)


async def _topic(consumer: Any, name: str, described: Described) -> Topic:
    led = [
        TopicPartition(name, number)
        for number, (leader, _, _) in described.partitions.items()
        if leader >= 0
    ]
    consumer.assign(led)
    future = int((time.time() + AHEAD) * 1000)
    begins = await consumer.beginning_offsets(led)
    last = await consumer.end_offsets(led)
    later = await consumer.offsets_for_times(dict.fromkeys(led, future))
    return Topic(
        described,
        {tp.partition: offset for tp, offset in begins.items()},
        {tp.partition: offset for tp, offset in last.items()},
        {tp.partition: found.offset for tp, found in later.items() if found is not None},
    )


async def _group(admin: Any, settings: Settings) -> tuple[str, tuple[Member, ...]]:
    (answer,) = await admin.describe_consumer_groups([settings.group])
    (described,) = answer.to_object()["groups"]
    members = []
    for member in described["members"]:
        content = member["member_assignment"]
        mine: frozenset[int] = frozenset()
        if content:
            assignment = ConsumerProtocolMemberAssignment.decode(content)
            mine = frozenset(
                tp.partition for tp in assignment.partitions() if tp.topic == settings.topic
            )
        name = member.get("group_instance_id") or member["client_id"]
        members.append(Member(name, member["client_host"], mine))
    return described["state"], tuple(members)
