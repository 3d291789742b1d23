"""Consumers and producers that never have a topic made by asking about it.

A cluster may make each topic that somebody asks about (`auto.create.topics.enable`, which is the
default), with one replica, its own number of partitions, and records that are deleted after a week:
a log that loses jobs. aiokafka allows that in every request for metadata; ours never do. Clients of
others in the same process, which may count on it, stay what they are.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiokafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from jobtrail.core.errors import LogUnavailable
from jobtrail.internals.aiokafka_internals import AIOKafkaClient, Consumer, Producer

__all__ = ["Consumer", "Producer", "how_to_make_topics", "missing_topic", "partitions_of"]

#: Seconds that a topic is waited for where the cluster answers and has it not: one that was made a
#: moment ago is not known to every broker yet.
TOPIC_WITHIN: Final = 5.0
#: Seconds that it is waited for at most, whatever the cluster does.
_ANSWER_WITHIN: Final = 30.0
#: Seconds between two looks.
_PAUSE: Final = 0.05


async def partitions_of(
    client: AIOKafkaClient, topic: str, within: float = TOPIC_WITHIN
) -> set[int]:
    """Return the partitions of a topic, and wait for it as long as it may be about to be known.

    Args:
        client: Of a consumer or producer that has started.
        topic: Which.
        within: Seconds that it is waited for where the cluster answers.

    Raises:
        TimeoutError: The cluster does not answer.
        UnknownTopicOrPartitionError: The cluster has no such topic.
        TopicAuthorizationFailedError: It does not say whether it has.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + within
    cluster = client.cluster
    client.add_topic(topic)
    async with asyncio.timeout(_ANSWER_WITHIN):
        while not (found := cluster.partitions_for_topic(topic)):
            if topic in cluster.unauthorized_topics:
                raise TopicAuthorizationFailedError(topic)
            late = clock() >= give_up
            answered = await client.force_metadata_update()
            if answered and late and not cluster.partitions_for_topic(topic):
                raise UnknownTopicOrPartitionError(f"there is no topic {topic}")
            await asyncio.sleep(_PAUSE)
    return set(found)


def missing_topic(topic: str, servers: str) -> LogUnavailable:
    """Return the error for a topic that the cluster has not.

    Args:
        topic: Which.
        servers: The cluster, `host:port[,host:port]`.
    """
    return LogUnavailable(
        f"There is no topic {topic}.",
        where=servers,
        hint=f"{how_to_make_topics(servers)}, and nothing else does on a cluster of your own.",
    )


def how_to_make_topics(servers: str) -> str:
    """Return half a sentence with the command that makes both topics.

    Args:
        servers: The cluster, `host:port[,host:port]`.
    """
    return f"`python -m services.broker.topics --bootstrap-servers {servers}` makes both topics"
