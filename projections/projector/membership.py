"""Leaving the consumer group properly.

A projector is a static member with a name of its own (`group.instance.id`): after a kill and a
restart it gets its partitions back at once, without a rebalance. In return, such a member leaves
only when its session times out, unless it is removed by name, which aiokafka can't do: a projector
that stops would keep its partitions until the session's end.

Source: KIP-345, "Introduce static membership protocol to reduce consumer rebalances".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka.errors import KafkaError, for_code

from jobtrail.internals.aiokafka_internals import (
    AIOKafkaClient,
    Array,
    ConnectionGroup,
    CoordinationType,
    Int16,
    Int32,
    Request,
    RequestStruct,
    Response,
    Schema,
    String,
)

logger = logging.getLogger(__name__)

#: Seconds that leaving may take; otherwise the member is removed at the session's end.
_WITHIN: Final = 3.0
_PAUSE: Final = 0.1


class _LeaveGroupResponse(Response):
    """Of https://kafka.apache.org/protocol#The_Messages_LeaveGroup, version 3."""

    API_KEY = 13
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "members",
            Array(
                ("member_id", String("utf-8")),
                ("group_instance_id", String("utf-8")),
                ("error_code", Int16),
            ),
        ),
    )


class _LeaveGroupStruct(RequestStruct):
    """The first version that names members by their instances."""

    API_KEY = 13
    API_VERSION = 3
    RESPONSE_TYPE = _LeaveGroupResponse
    SCHEMA = Schema(
        ("group", String("utf-8")),
        (
            "members",
            Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8"))),
        ),
    )


class _LeaveGroup(Request[_LeaveGroupStruct]):
    """Removes members by the names of their instances."""

    API_KEY = 13

    def __init__(self, group: str, instances: Iterable[str]) -> None:
        self._group = group
        self._instances = list(instances)

    def build(self, request_struct_class: type[_LeaveGroupStruct]) -> _LeaveGroupStruct:
        return request_struct_class(self._group, [("", name) for name in self._instances])


async def _removed(connection: Any, group: str, names: list[str]) -> bool:
    """Try to remove members; return whether the group's coordinator has answered."""
    try:
        node = await connection.coordinator_lookup(CoordinationType.GROUP, group)
        request = _LeaveGroup(group, names)
        answer = await connection.send(node, request, group=ConnectionGroup.COORDINATION)
    except KafkaError as error:
        # As while it moves, or on a cluster that has just begun.
        if error.retriable:
            return False
        raise
    return not for_code(answer.error_code).retriable


async def remove_members(client: Mapping[str, Any], group: str, instances: Iterable[str]) -> None:
    """Remove members from a consumer group by name; those that are not in it are passed over.

    A failure is only logged: such members leave at their session's end.

    Args:
        client: Keyword arguments for aiokafka: servers and security.
        group: Which.
        instances: Names of members that no longer live.
    """
    names = list(instances)
    if not names:
        return
    connection = AIOKafkaClient(**client)
    try:
        async with asyncio.timeout(_WITHIN):
            await connection.bootstrap()
            while not await _removed(connection, group, names):  # noqa: ASYNC110
                await asyncio.sleep(_PAUSE)
    # The last one is how aiokafka says that a broker takes no version of the request made here.
    except (KafkaError, TimeoutError, NotImplementedError) as error:
        logger.warning("action=members_not_removed group=%s members=%s %r", group, names, error)
    finally:
        await connection.close()
