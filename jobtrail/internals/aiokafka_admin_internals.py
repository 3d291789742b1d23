"""The administrator's client, which never has a topic made by asking about it.

It lies beside the other internals of aiokafka since it is slow to import, and seldom needed.
"""

from __future__ import annotations

from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient

from jobtrail.internals.aiokafka_internals import MetadataRequest, keep_topics
from jobtrail.internals.internal import Internal

#: The distribution whose internals these are.
LIBRARY: Final = "aiokafka"

_ADMIN: Final = "aiokafka.admin:AIOKafkaAdminClient"
_TOPICS: Final = "a cluster may make a topic because somebody asks about it"

INTERNALS: Final = (
    Internal(f"{_ADMIN}._client", _TOPICS),
    Internal(f"{_ADMIN}._get_cluster_metadata", _TOPICS, ("self", "topics")),
    Internal(f"{_ADMIN}._send_request", _TOPICS, ("self", "request", "node_id")),
)


class Admin(AIOKafkaAdminClient):
    """aiokafka's client, which makes those topics alone that it is told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        keep_topics(self._client)

    async def _get_cluster_metadata(self, topics: list[str] | None = None) -> Any:
        """Ask as aiokafka does, but have no topic made."""
        return await self._send_request(MetadataRequest(topics, allow_auto_topic_creation=False))
