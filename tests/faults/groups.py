"""The projectors' group as Kafka's coordinator has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.group import LeaveGroupRequest

from jobtrail.settings import Settings
from tests.faults.flows import DEADLINE
from tests.waiting import look_again


@asynccontextmanager
async def _coordinator(settings: Settings) -> AsyncIterator[tuple[AIOKafkaClient, int]]:
    client = AIOKafkaClient(bootstrap_servers=settings.bootstrap_servers)
    try:
        await client.bootstrap()
        yield client, await client.coordinator_lookup(CoordinationType.GROUP, settings.group)
    finally:
        await client.close()


async def _describe(client: AIOKafkaClient, node: int, group: str) -> tuple[str, dict[str, str]]:
    """Return a group's state, and its members' ids by their stable names."""
    answer: Any = await client.send(node, DescribeGroupsRequest([group]))
    ((_, _, state, _, _, members, *_),) = answer.groups
    # Kafka makes the id of a member with a stable name from that name and 36 random characters.
    return state, {member[0][:-37]: member[0] for member in members}


async def settled(settings: Settings, *names: str) -> None:
    """Wait until the group is stable and has exactly these members."""
    async with asyncio.timeout(DEADLINE), _coordinator(settings) as (client, node):
        found = None
        while found != ("Stable", set(names)):
            await look_again()
            state, members = await _describe(client, node, settings.group)
            found = (state, set(members))


async def members(settings: Settings) -> dict[str, str]:
    """Return the ids of the group's members, those that are only about to be, by their names."""
    async with asyncio.timeout(DEADLINE), _coordinator(settings) as (client, node):
        _, found = await _describe(client, node, settings.group)
    return found


async def joined(settings: Settings, names: Iterable[str], before: Mapping[str, str]) -> None:
    """Wait until each of these has joined the group, or joined it again, since its `members`."""
    async with asyncio.timeout(DEADLINE), _coordinator(settings) as (client, node):
        found = before
        while any(found.get(name) == before.get(name) for name in names):
            await look_again()
            _, found = await _describe(client, node, settings.group)


async def give_up(settings: Settings, name: str) -> None:
    """Let the coordinator give a member up, as it does by itself when its session expires."""
    async with asyncio.timeout(DEADLINE), _coordinator(settings) as (client, node):
        _, members = await _describe(client, node, settings.group)
        answer: Any = await client.send(node, LeaveGroupRequest(settings.group, members[name]))
        assert answer.error_code == 0
