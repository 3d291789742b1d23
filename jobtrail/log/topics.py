"""Topics as an administrator sees them: how many partitions and replicas, and how configured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    for_code,
)

from jobtrail.log.admin import Admin
from jobtrail.log.packing import LARGEST

#: Seconds between two looks at what the cluster is about to have.
_PAUSE: Final = 0.05
#: What describes a configuration that was set for a topic itself, KIP-226.
_SET_FOR_THE_TOPIC: Final = 1
#: A copy keeps its records' own times.
_NOT_COPIED: Final = {"message.timestamp.type"}


class Topic(NamedTuple):
    """What a topic is."""

    partitions: int
    replicas: int
    #: What was set for it alone.
    configs: dict[str, str]
    #: Bytes of the largest batch that it takes, whoever has set that.
    largest: int


async def describe_topic(client_options: Mapping[str, Any], name: str) -> Topic | None:
    """Return what a topic is; None where there is none.

    Args:
        client_options: Keyword arguments for aiokafka: servers and security.
        name: Which topic.

    Raises:
        KafkaError: The cluster does not answer, or does not let us see it.
    """
    async with _admin(client_options) as client:
        if name not in await client.list_topics():
            return None
        (found,) = await client.describe_topics([name])
        (answer,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    ((code, _text, _kind, _name, entries),) = answer.resources
    if code:
        raise for_code(code)(name)
    configs = {entry[0]: entry[1] for entry in entries if entry[3] == _SET_FOR_THE_TOPIC}
    partitions = found["partitions"]
    (largest,) = (int(entry[1]) for entry in entries if entry[0] == LARGEST)
    return Topic(len(partitions), len(partitions[0]["replicas"]), configs, largest)


async def make_topic(
    client_options: Mapping[str, Any], name: str, partitions: int, like: Topic
) -> None:
    """Make a topic, and wait until its partitions have leaders.

    Args:
        client_options: Keyword arguments for aiokafka: servers and security.
        name: Of the topic.
        partitions: How many.
        like: Whose replicas and configuration it gets.

    Raises:
        KafkaError: The cluster does not answer, or refuses.
    """
    configs = {key: value for key, value in like.configs.items() if key not in _NOT_COPIED}
    async with _admin(client_options) as client:
        wanted = NewTopic(name, partitions, like.replicas, topic_configs=configs)
        answer = (await client.create_topics([wanted])).to_object()
        for _name, code, *text in (tuple(entry.values()) for entry in answer["topic_errors"]):
            if code:
                raise for_code(code)(*text)
        while True:
            (found,) = await client.describe_topics([name])
            if found["partitions"] and all(p["leader"] >= 0 for p in found["partitions"]):
                return
            await asyncio.sleep(_PAUSE)


async def committed(client_options: Mapping[str, Any], group: str) -> dict[TopicPartition, int]:
    """Return the offsets that a consumer group has committed.

    Args:
        client_options: Keyword arguments for aiokafka: servers and security.
        group: Its name.

    Raises:
        KafkaError: The cluster does not answer, or does not let us see them.
    """
    async with _admin(client_options) as client:
        while True:
            try:
                found = await client.list_consumer_group_offsets(group)
                break
            except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError):
                # The first group of a cluster waits until Kafka has made its topic of groups.
                await asyncio.sleep(_PAUSE)
    return {tp: at.offset for tp, at in found.items() if at.offset >= 0}


@asynccontextmanager
async def _admin(client_options: Mapping[str, Any]) -> AsyncIterator[Any]:
    client = Admin(**client_options)
    try:
        await client.start()
        yield client
    finally:
        await client.close()
