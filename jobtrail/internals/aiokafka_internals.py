"""The internals of aiokafka that jobtrail uses, each with its reason; nothing else imports them.

aiokafka takes a fetched batch apart record by record and has no hook before that, tells nobody that
a connection is another one, and has no request for some of what Kafka can be asked.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import client as client_module
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import create_conn
from aiokafka.consumer import fetcher
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import (
    Array,
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    String,
    TaggedFields,
)
from aiokafka.record.default_records import (
    DefaultRecord,
    DefaultRecordBatch,
    DefaultRecordBatchBuilder,
)
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import decode_varint_py

from jobtrail.internals.internal import Internal

#: aiokafka's own, of which a process says the same thing seldom: without a broker this is often.
_logger = logging.getLogger("aiokafka.client")
#: What keeps the first connection while the cluster has told of no broker yet.
_BOOTSTRAP: Final = "bootstrap"

__all__ = [
    "AIOKafkaClient",
    "Array",
    "CompactArray",
    "CompactBytes",
    "CompactString",
    "ConnectionGroup",
    "Consumer",
    "ConsumerProtocolMemberAssignment",
    "CoordinationType",
    "DefaultRecord",
    "DefaultRecordBatch",
    "DefaultRecordBatchBuilder",
    "Int8",
    "Int16",
    "Int32",
    "LegacyRecordBatch",
    "MetadataRequest",
    "PartitionRecords",
    "Producer",
    "Request",
    "RequestStruct",
    "Response",
    "Schema",
    "String",
    "TaggedFields",
    "close_parts",
    "count_breaks",
    "create_conn",
    "decode_varint_py",
    "parse_batches_with",
    "read_as",
    "refresh_metadata",
    "yield_records_with",
]

#: The distribution whose internals these are.
LIBRARY: Final = "aiokafka"

_FETCHER: Final = "aiokafka.consumer.fetcher"
_RECORDS: Final = f"{_FETCHER}:PartitionRecords"
_BATCH: Final = "aiokafka.record.default_records:DefaultRecordBatch"
_BUILDER: Final = "aiokafka.record.default_records:DefaultRecordBatchBuilder"
_CLIENT: Final = "aiokafka.client:AIOKafkaClient"
_TYPES: Final = "aiokafka.protocol.types"
_CONSUMER: Final = "aiokafka:AIOKafkaConsumer"

_GROUPS: Final = "fetched batches are handed on in groups, not taken apart record by record"
_ABORTED: Final = "batches of aborted transactions are left out, as aiokafka does"
_WAY_IN: Final = "a consumer that Faust makes is set up as the others are"
_ABANDON: Final = "a client whose `stop` hangs is ended all the same"
_BREAKS: Final = "a log can only be another one after a new connection or new metadata: both count"
_PARSING: Final = "batches are parsed piece by piece, within bounds"
_SIZE: Final = "whether a topic takes a record is known before it is sent"
_LEAVE: Final = "aiokafka can't remove a static member from its group (KIP-345)"
_SCRAM: Final = "aiokafka can't alter SCRAM credentials (KIP-554)"
_TOPICS: Final = "a cluster may make a topic because somebody asks about it"
_REQUESTS: Final = "requests that aiokafka does not have are written in its own types"
_ADMIN: Final = "what `describe_configs` takes can be imported from nowhere else"

INTERNALS: Final = (
    # How batches are read.
    Internal(f"{_FETCHER}:MemoryRecords", "a batch of any version is read, whatever precedes it"),
    Internal(
        _RECORDS,
        _GROUPS,
        (
            "tp",
            "records",
            "aborted_transactions",
            "fetch_offset",
            "key_deserializer",
            "value_deserializer",
            "check_crcs",
            "isolation_level",
        ),
    ),
    Internal(f"{_RECORDS}._unpack_records", _GROUPS, ("self",)),
    Internal(f"{_RECORDS}._records", _GROUPS),
    Internal(f"{_RECORDS}._tp", "an error says in which partition it is"),
    Internal(f"{_RECORDS}._value_deserializer", "tells who wishes for groups"),
    Internal(f"{_RECORDS}._check_crcs", "a batch with a wrong checksum becomes a hole, no crash"),
    Internal(f"{_RECORDS}.next_fetch_offset", "the next fetch begins after the last batch"),
    Internal(f"{_RECORDS}._isolation_level", _ABORTED),
    Internal(f"{_RECORDS}._aborted_producers", _ABORTED),
    Internal(f"{_RECORDS}._consume_aborted_up_to", _ABORTED, ("self", "batch_offset")),
    Internal(f"{_RECORDS}._contains_abort_marker", _ABORTED, ("self", "next_batch")),
    Internal(f"{_FETCHER}:READ_COMMITTED", _ABORTED),
    Internal(_BATCH, _PARSING),
    *(
        Internal(f"{_BATCH}.{name}", _PARSING)
        for name in (
            "attributes",
            "base_offset",
            "first_timestamp",
            "is_control_batch",
            "is_transactional",
            "max_timestamp",
            "next_offset",
            "producer_id",
            "timestamp_type",
            "validate_crc",
        )
    ),
    Internal("aiokafka.record.default_records:DefaultRecord", "what aiokafka can't parse is made"),
    Internal("aiokafka.record.legacy_records:LegacyRecordBatch", "logs of before Kafka 0.11"),
    Internal("aiokafka.record.util:decode_varint_py", _PARSING, ("buffer", "pos")),
    # How a batch is written to be measured.
    Internal(_BUILDER, _SIZE),
    Internal(f"{_BUILDER}.estimate_size_in_bytes", _SIZE),
    Internal(f"{_BUILDER}.append", _SIZE),
    Internal(f"{_BUILDER}.build", _SIZE),
    # How a consumer is set up, asked and ended.
    Internal(f"{_CONSUMER}._value_deserializer", _WAY_IN),
    Internal(f"{_CONSUMER}._isolation_level", _WAY_IN),
    Internal(f"{_CONSUMER}._auto_offset_reset", _WAY_IN),
    Internal(f"{_CONSUMER}._client", "how many partitions there are is asked when it matters"),
    Internal(f"{_CONSUMER}._fetcher", _ABANDON),
    Internal(f"{_FETCHER}:Fetcher.close", _ABANDON, ("self",)),
    Internal("aiokafka:AIOKafkaProducer._sender", _ABANDON),
    Internal("aiokafka.producer.sender:Sender.close", _ABANDON, ("self",)),
    Internal("aiokafka:AIOKafkaProducer.client", _ABANDON),
    # Connections.
    Internal("aiokafka.client:create_conn", _BREAKS),
    Internal(f"{_CLIENT}.force_metadata_update", _BREAKS, ("self",)),
    Internal("aiokafka.conn:create_conn", _SCRAM),
    Internal(f"{_CLIENT}.bootstrap", _LEAVE, ("self",)),
    Internal(
        f"{_CLIENT}.coordinator_lookup", _LEAVE, ("self", "coordinator_type", "coordinator_key")
    ),
    Internal(f"{_CLIENT}.send", _LEAVE, ("self", "node_id", "request", "group")),
    Internal(f"{_CLIENT}.close", _LEAVE, ("self",)),
    Internal("aiokafka.client:ConnectionGroup.COORDINATION", _LEAVE),
    Internal("aiokafka.client:CoordinationType.GROUP", _LEAVE),
    # Asking about topics.
    Internal(f"{_CLIENT}._metadata_update", _TOPICS, ("self", "cluster_metadata", "topics")),
    Internal(f"{_CLIENT}._conns", _TOPICS),
    Internal(f"{_CLIENT}._get_conn", _TOPICS),
    Internal("aiokafka.protocol.metadata:MetadataRequest", _TOPICS),
    # Requests.
    Internal("aiokafka.protocol.api:Request", _REQUESTS),
    Internal("aiokafka.protocol.api:Request.build", _REQUESTS, ("self", "request_struct_class")),
    Internal("aiokafka.protocol.api:RequestStruct", _REQUESTS),
    Internal("aiokafka.protocol.api:Response", _REQUESTS),
    *(
        Internal(f"{_TYPES}:{name}", _REQUESTS)
        for name in (
            "Array",
            "CompactArray",
            "CompactBytes",
            "CompactString",
            "Int8",
            "Int16",
            "Int32",
            "Schema",
            "String",
            "TaggedFields",
        )
    ),
    Internal(
        "aiokafka.coordinator.protocol:ConsumerProtocolMemberAssignment.partitions",
        "aiokafka leaves a member's assignment in bytes",
        ("self",),
    ),
    Internal("aiokafka.admin.config_resource:ConfigResource", _ADMIN),
    Internal("aiokafka.admin.config_resource:ConfigResourceType", _ADMIN),
)


class PartitionRecords(fetcher.PartitionRecords):
    """What one fetch brought of one partition, as a base for what yields it in another form.

    A class of ours takes its place by `yield_records_with`.
    """

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        return self.unpack()

    def unpack(self) -> Iterator[Any]:
        """Return what the consumer is given; as aiokafka does unless it is overridden."""
        return iter(super()._unpack_records())

    @property
    def partition(self) -> Any:
        """Of which partition, an `aiokafka.TopicPartition`."""
        return self._tp

    @property
    def fetched(self) -> Any:
        """The batches, as `parse_batches_with` has them made."""
        return self._records

    @property
    def deserializer(self) -> Any:
        """The consumer's `value_deserializer`."""
        return self._value_deserializer

    @property
    def checks_sums(self) -> bool:
        """Whether the checksum of each batch has to be checked."""
        return bool(self._check_crcs)

    def is_aborted(self, batch: Any) -> bool:
        """Tell whether a batch belongs to a transaction that was aborted, as aiokafka does.

        The broker says with each fetch which producers' transactions in it were aborted, and from
        where on; a marker ends each. So every batch has to be asked about, in order.
        """
        if self._isolation_level != fetcher.READ_COMMITTED:
            return False
        self._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and self._contains_abort_marker(batch):
            self._aborted_producers.discard(batch.producer_id)
        return bool(batch.is_transactional and batch.producer_id in self._aborted_producers)


def parse_batches_with(kind: type[Any]) -> None:
    """Let every consumer of this process make its batches of a fetch's bytes by a class."""
    fetcher.MemoryRecords = kind


def yield_records_with(kind: type[PartitionRecords]) -> None:
    """Let every consumer of this process yield what a fetch brought by a class."""
    fetcher.PartitionRecords = kind


def count_breaks(owner: object, note: Callable[[], None]) -> None:
    """Note each new connection and each demand for new metadata of this process's clients.

    Args:
        owner: Who asks; a second time does nothing.
        note: Called each time.
    """
    connect = client_module.create_conn
    if getattr(connect, "counts", None) is owner:
        return
    refresh = AIOKafkaClient.force_metadata_update

    async def connect_counted(*arguments: Any, **keywords: Any) -> Any:
        connection = await connect(*arguments, **keywords)
        note()
        return connection

    def refresh_counted(client: Any) -> Any:
        note()
        return refresh(client)

    connect_counted.counts = owner  # type: ignore[attr-defined]
    client_module.create_conn = connect_counted
    AIOKafkaClient.force_metadata_update = refresh_counted


def read_as(consumer: Any, *, deserializer: Any, isolation: str, reset: str) -> None:
    """Set up a consumer that somebody else has made, before it is started.

    Args:
        consumer: Which.
        deserializer: Its `value_deserializer`.
        isolation: Its `isolation_level`.
        reset: Its `auto_offset_reset`.
    """
    consumer._value_deserializer = deserializer
    consumer._isolation_level = isolation
    consumer._auto_offset_reset = reset


async def refresh_metadata(consumer: Any) -> bool:
    """Have a consumer ask for the topic's metadata now; return whether there was an answer."""
    return bool(await client_of(consumer).force_metadata_update())


async def close_parts(client: Any) -> None:
    """End the tasks and connections of a consumer or producer that does not stop.

    They would go on trying for ever: aiokafka has no other way.
    """
    for name in ("_sender", "_fetcher"):
        part = getattr(client, name, None)
        if part is not None:
            await part.close()
    await (client.client if hasattr(client, "client") else client._client).close()


class _Asking(AIOKafkaClient):
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
                _logger.warning("No metadata from node %s: %r", node, error)
                continue
            if not answer.brokers:
                return False
            cluster_metadata.update_metadata(answer)
            if first is not None and self.cluster.brokers():
                self._conns.pop(first).close()
            return True
        _logger.error("No metadata from any of %s", nodes)
        cluster_metadata.failed_update(None)
        return False


def keep_topics(client: AIOKafkaClient) -> None:
    """Have a client of aiokafka never cause a topic to be made.

    Args:
        client: Inside of a consumer or producer. These make it themselves, of this class alone.
    """
    client.__class__ = _Asking


class Consumer(AIOKafkaConsumer):
    """aiokafka's consumer, which has no topic made."""

    def __init__(self, *topics: str, **options: Any) -> None:
        super().__init__(*topics, **options)
        keep_topics(self._client)


class Producer(AIOKafkaProducer):
    """aiokafka's producer, which has no topic made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        keep_topics(self.client)


def client_of(consumer: Any) -> AIOKafkaClient:
    """Return what a consumer asks through."""
    return consumer._client
