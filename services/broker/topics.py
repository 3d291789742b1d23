"""Makes the two topics of jobtrail on any cluster: `python -m services.broker.topics`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    KafkaConnectionError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)

from jobtrail.core.errors import BrokerError, JobtrailError, LogUnavailable, SettingError
from jobtrail.internals.aiokafka_admin_internals import Admin
from jobtrail.log.kafka import DEAD_LETTER_BYTES, kafka_security
from jobtrail.terminal.text import complain, out

if TYPE_CHECKING:
    from jobtrail.settings import Settings

#: Seconds that a cluster has to answer and to elect leaders.
TIMEOUT = 60.0
#: Seconds that a cluster has to take a connection: a broker that restarts accepts one
#: within seconds.
CONNECT_WITHIN = 15.0
#: Seconds between two checks.
PAUSE = 0.02
#: Seconds between two attempts to connect.
CONNECT_PAUSE = 0.25
#: The largest record batch that a topic takes.
_LARGEST = "max.message.bytes"
#: What describes a configuration that was set for a topic itself, KIP-226.
_SET_FOR_THE_TOPIC = 1


def topic_configs(settings: Settings) -> dict[str, str]:
    """Return what both topics are configured with: nothing in them ever expires.

    With three replicas or more, an event is acknowledged when all but one of them have it.
    """
    return {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "min.insync.replicas": str(max(1, settings.replication - 1)),
    }


def dead_topic_configs(settings: Settings) -> dict[str, str]:
    """Return the configuration of the dead-letter topic.

    A letter is a record that the log took, however large, and says beside it what is wrong.
    """
    return {**topic_configs(settings), _LARGEST: str(DEAD_LETTER_BYTES)}


@asynccontextmanager
async def _admin(bootstrap_servers: str, settings: Settings) -> AsyncIterator[Any]:
    """Give an admin client; whatever the cluster fails to answer in time is `LogUnavailable`."""
    client = _new_client(bootstrap_servers, settings)
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(TIMEOUT):
            give_up = clock() + CONNECT_WITHIN
            while True:
                try:
                    await client.start()
                    break
                except KafkaConnectionError:
                    await client.close()
                    if clock() + CONNECT_PAUSE > give_up:
                        raise
                await asyncio.sleep(CONNECT_PAUSE)
                client = _new_client(bootstrap_servers, settings)
            yield client
    except (KafkaError, TimeoutError) as error:
        raise LogUnavailable(
            "Kafka does not answer.",
            expected=f"a connection within {CONNECT_WITHIN:.0f} s, and an answer within "
            f"{TIMEOUT:.0f} s",
            found=str(error) or type(error).__name__,
            where=bootstrap_servers,
        ) from error
    finally:
        await client.close()


def _new_client(bootstrap_servers: str, settings: Settings) -> Any:
    return Admin(
        bootstrap_servers=bootstrap_servers,
        client_id="jobtrail-topics",
        **kafka_security(settings),
    )


async def cluster_id(bootstrap_servers: str, settings: Settings) -> str:
    """Return the id of the cluster that answers there.

    Raises:
        LogUnavailable: None does.
    """
    async with _admin(bootstrap_servers, settings) as client:
        return str((await client.describe_cluster())["cluster_id"])


async def ensure_topics(bootstrap_servers: str, settings: Settings) -> None:
    """Create the log and its dead-letter topic if they are not there, and wait for their leaders.

    An existing topic is left as it is, with its own number of partitions. Only a dead-letter topic
    that would refuse a large letter is configured to accept it, since the partition of such a
    record waits until its dead letter is written.

    Args:
        bootstrap_servers: `host:port[,host:port]` of any cluster.
        settings: Names, partitions, replication, and how to speak to the cluster.

    Raises:
        LogUnavailable: The cluster does not answer in time.
        SettingError: The cluster can't have that many replicas or partitions.
        BrokerError: The cluster refuses for another reason, such as missing rights.
    """
    wanted = {
        settings.topic: (settings.partitions, topic_configs(settings)),
        settings.dead_topic: (1, dead_topic_configs(settings)),
    }
    async with _admin(bootstrap_servers, settings) as client:
        there = set(await client.list_topics())
        missing = [
            NewTopic(name, count, settings.replication, topic_configs=configs)
            for name, (count, configs) in wanted.items()
            if name not in there
        ]
        while missing:
            missing = await _create(client, missing)
        while True:
            if all(map(_is_led, await client.describe_topics(list(wanted)))):
                break
            await asyncio.sleep(PAUSE)
        if settings.dead_topic in there:
            await _make_room(client, settings.dead_topic)


async def _create(client: Any, topics: list[Any]) -> list[Any]:
    """Try to create topics; return those to try again."""
    answer = (await client.create_topics(topics)).to_object()
    again = []
    for name, code, *text in (tuple(entry.values()) for entry in answer["topic_errors"]):
        refusal = for_code(code)
        if code == 0 or refusal is TopicAlreadyExistsError:
            continue
        if refusal.retriable:
            again += [topic for topic in topics if topic.name == name]
            continue
        found = " ".join(str(part) for part in (refusal.__name__, *text) if part)
        if refusal in (InvalidReplicationFactorError, InvalidPartitionsError):
            raise SettingError(
                f"The cluster can't have the topic {name} as the settings want it.",
                found=found,
                where="settings replication and partitions",
                hint="Take no more replicas than the cluster has brokers.",
            )
        raise BrokerError(f"The cluster refuses to create the topic {name}.", found=found)
    if again:
        await asyncio.sleep(PAUSE)
    return again


async def _make_room(client: Any, topic: str) -> None:
    """Let a topic that an earlier release made take the largest dead letter."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    (answer,) = await client.describe_configs([resource])
    ((code, text, _, _, entries),) = answer.resources
    _check_change(topic, code, text)
    found = {entry[0]: entry for entry in entries}
    if int(found[_LARGEST][1]) >= DEAD_LETTER_BYTES:
        return
    # What is not named in this request goes back to its default.
    kept = {entry[0]: entry[1] for entry in entries if entry[3] == _SET_FOR_THE_TOPIC}
    kept[_LARGEST] = str(DEAD_LETTER_BYTES)
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=kept)
    (answer,) = await client.alter_configs([resource])
    ((code, text, *_),) = answer.resources
    _check_change(topic, code, text)


def _check_change(topic: str, code: int, text: str | None) -> None:
    if code != 0:
        raise BrokerError(
            f"The cluster does not let us configure the topic {topic}.",
            expected=f"{_LARGEST} of {DEAD_LETTER_BYTES} at least, or the right to set it",
            found=" ".join(part for part in (for_code(code).__name__, text) if part),
            hint=f"Set {_LARGEST}={DEAD_LETTER_BYTES} for it, and grant DescribeConfigs.",
        )


def _is_led(topic: dict[str, Any]) -> bool:
    partitions = topic["partitions"]
    return bool(partitions) and all(
        partition["error_code"] == 0 and partition["leader"] >= 0 for partition in partitions
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    from jobtrail.settings import load

    parser = argparse.ArgumentParser(
        prog="python -m services.broker.topics",
        description="Create jobtrail's topics on a cluster; the rest comes from JOBTRAIL_*.",
    )
    parser.add_argument("--bootstrap-servers", required=True, metavar="HOST:PORT[,HOST:PORT]")
    options = parser.parse_args(arguments)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        settings = load()
        asyncio.run(ensure_topics(options.bootstrap_servers, settings))
    except JobtrailError as error:
        complain(error)
        return 1
    out(f"{settings.topic} {settings.dead_topic}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
