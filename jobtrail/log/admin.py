"""The administrator's client, which never has a topic made by asking about it."""

from __future__ import annotations

from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.metadata import MetadataRequest

from jobtrail.log.clients import keep_topics


class Admin(AIOKafkaAdminClient):  # type: ignore[misc]
    """aiokafka's client, which makes those topics alone that it is told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        keep_topics(self._client)

    async def _get_cluster_metadata(self, topics: list[str] | None = None) -> Any:
        """Ask as aiokafka does, but have no topic made."""
        return await self._send_request(MetadataRequest(topics, allow_auto_topic_creation=False))
