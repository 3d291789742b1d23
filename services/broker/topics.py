"""Makes the two topics of jobtrail on any cluster: `python -m services.broker.topics`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)

from jobtrail.errors import BrokerError, JobtrailError, LogUnavailable, SettingError
from jobtrail.kafka import kafka_security

if TYPE_CHECKING:
    from jobtrail.settings import Settings

#: Seconds that a cluster has to answer and to elect leaders.
TIMEOUT = 60.0
#: Seconds between two looks.
PAUSE = 0.02


def topic_configs(settings: Settings) -> dict[str, str]:
    """Return the configuration of both topics: nothing in them ever expires.

    With three replicas or more, an event is acknowledged when all but one of them have it.
    """
    return {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "min.insync.replicas": str(max(1, settings.replication - 1)),
    }


@asynccontextmanager
async def _admin(bootstrap_servers: str, settings: Settings) -> AsyncIterator[Any]:
    """Give an admin client; whatever the cluster fails to answer in time is `LogUnavailable`."""
    client = AIOKafkaAdminClient(
        bootstrap_servers=bootstrap_servers,
        client_id="jobtrail-topics",
        **kafka_security(settings),
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            await client.start()
            yield client
    except (KafkaError, TimeoutError) as error:
        raise LogUnavailable(
            "Kafka does not answer.",
            expected=f"an answer within {TIMEOUT:.0f} s",
            found=str(error) or type(error).__name__,
            where=bootstrap_servers,
        ) from error
    finally:
        await client.close()


async def cluster_id(bootstrap_servers: str, settings: Settings) -> str:
    """Return the id of the cluster that answers there.

    Raises:
        LogUnavailable: None does.
    """
    async with _admin(bootstrap_servers, settings) as client:
        return str((await client.describe_cluster())["cluster_id"])


async def ensure_topics(bootstrap_servers: str, settings: Settings) -> None:
    """Create the log and its dead-letter topic if they are not there, and wait for their leaders.

    A topic that is there is left as it is: its own number of partitions is the truth.

    Args:
        bootstrap_servers: `host:port[,host:port]` of any cluster.
        settings: Names, partitions, replication, and how to speak to the cluster.

    Raises:
        LogUnavailable: The cluster does not answer in time.
        SettingError: The cluster can't have that many replicas or partitions.
        BrokerError: The cluster refuses for another reason, such as missing rights.
    """
    wanted = {settings.topic: settings.partitions, settings.dead_topic: 1}
    async with _admin(bootstrap_servers, settings) as client:
        there = set(await client.list_topics())
        missing = [
            NewTopic(name, count, settings.replication, topic_configs=topic_configs(settings))
            for name, count in wanted.items()
            if name not in there
        ]
        while missing:
            missing = await _create(client, missing)
        while True:
            if all(map(_is_led, await client.describe_topics(list(wanted)))):
                return
            await asyncio.sleep(PAUSE)


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
                mend="Take no more replicas than the cluster has brokers.",
            )
        raise BrokerError(f"The cluster refuses to create the topic {name}.", found=found)
    if again:
        await asyncio.sleep(PAUSE)
    return again


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
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{settings.topic} {settings.dead_topic}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
