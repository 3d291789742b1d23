"""Consumers and producers that never have a topic made by asking about it.

A cluster may make each topic that somebody asks about (`auto.create.topics.enable`, which is the
default), with one replica, its own number of partitions, and records that are deleted after a week:
a log that loses jobs. aiokafka allows that in every request for metadata; ours never do. Clients of
others in the same process, which may count on it, stay what they are.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError
from aiokafka.protocol.metadata import MetadataRequest

from jobtrail.core.errors import LogUnavailable

#: aiokafka's own, of which a process says the same thing seldom: without a broker this is often.
logger = logging.getLogger("aiokafka.client")

#: Seconds that a topic is waited for where the cluster answers and has it not: one that was made a
#: moment ago is not known to every broker yet.
TOPIC_WITHIN: Final = 5.0
#: Seconds that it is waited for at most, whatever the cluster does.
_ANSWER_WITHIN: Final = 30.0
#: Seconds between two looks.
_PAUSE: Final = 0.05
#: What keeps the first connection while the cluster has told of no broker yet.
_BOOTSTRAP: Final = "bootstrap"


class _Asking(AIOKafkaClient):  # type: ignore[misc]
    """What consumers and producers ask through."""

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        """Ask any broker, as aiokafka does, but have no topic made."""
        request = MetadataRequest(list(topics) if topics else None, allow_auto_topic_creation=False)
        nodes: list[Any] = [broker.nodeId for broker in self.cluster.brokers()]
        first = next((key for key in self._conns if key[0] == _BOOTSTRAP), None)
        if first is not None:
            nodes.append(_BOOTSTRAP)
        random.shuffle(nodes)
        for node in nodes:
            connection = await self._get_conn(node)
            if connection is None:
                continue
            try:
                answer = await connection.send(request)
            except (KafkaError, TimeoutError) as error:
                logger.warning("No metadata from node %s: %r", node, error)
                continue
            if not answer.brokers:
                return False
            cluster_metadata.update_metadata(answer)
            if first is not None and self.cluster.brokers():
                self._conns.pop(first).close()
            return True
        logger.error("No metadata from any of %s", nodes)
        cluster_metadata.failed_update(None)
        return False


def keep_topics(client: AIOKafkaClient) -> None:
    """Let a client of aiokafka never have a topic made.

    Args:
        client: Inside of a consumer or producer. These make it themselves, of this class alone.
    """
    client.__class__ = _Asking


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]
    """aiokafka's consumer, which has no topic made."""

    def __init__(self, *topics: str, **options: Any) -> None:
        super().__init__(*topics, **options)
        keep_topics(self._client)


class Producer(AIOKafkaProducer):  # type: ignore[misc]
    """aiokafka's producer, which has no topic made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        keep_topics(self.client)


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
