"""Administration of topics: partitions, replicas and configuration."""

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

from jobtrail.internals.aiokafka_admin_internals import Admin
from jobtrail.log.packing import LARGEST

#: Seconds between two checks whether the cluster has the topic.
_PAUSE: Final = 0.05
#: The source of a configuration that was set for the topic itself, KIP-226.
_SET_FOR_THE_TOPIC: Final = 1
#: A copy keeps its records' own times.
_NOT_COPIED: Final = {"message.timestamp.type"}


class Topic(NamedTuple):
    """A topic's partitions, replicas and configuration."""

    partitions: int
    replicas: int
    #: The configuration set for this topic.
    configs: dict[str, str]
    #: Bytes of the largest batch that it accepts, by its own or the broker's configuration.
    largest: int


async def describe_topic(client_options: Mapping[str, Any], name: str) -> Topic | None:
    """Describe a topic; None where it does not exist.

    Args:
        client_options: Keyword arguments for aiokafka: servers and security.
        name: Which topic.

    Raises:
        KafkaError: The cluster does not answer, or does not let us read it.
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
        like: The topic whose replicas and configuration it gets.

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
        KafkaError: The cluster does not answer, or does not let us read them.
    """
    async with _admin(client_options) as client:
        while True:
            try:
                found = await client.list_consumer_group_offsets(group)
                break
            except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError):
                # A cluster's first group waits until Kafka has created its internal topic for
                # groups.
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
