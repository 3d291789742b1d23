"""The Faust app of a projector, built in a function from the settings."""

from __future__ import annotations

import os

# Before Faust is imported: its Cython fast paths are not used (hazards in their bookkeeping).
os.environ.setdefault("NO_CYTHON", "1")

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import faust
import faust.auth
from yarl import URL

from jobtrail.core.errors import FencedError
from jobtrail.log.kafka import kafka_security, limits_of
from jobtrail.settings import Settings
from projections.internals.faust_internals import is_current
from projections.projector.projector import Projector
from projections.projector.transport import Fetched, RecordBatchTransport

logger = logging.getLogger(__name__)

#: Bytes fetched of one partition at a time: about 6,000 events of 330 bytes.
FETCH_BYTES: Final = 2 * 1024 * 1024
#: Milliseconds after which the topic's partitions are asked for again.
METADATA_MS: Final = 5_000
#: Fetches that wait for the agent: each is up to FETCH_BYTES of each partition.
PREFETCHED: Final = 1


def build_app(settings: Settings, projector: Projector, worker_name: str) -> faust.App:
    """Build the app whose one agent hands each record batch to the projector.

    Args:
        settings: Which Kafka, topic and group.
        projector: Folds and writes; also returns where each partition starts.
        worker_name: Stable name of this worker in its group.

    Returns:
        The app; `await app.start()` runs it.
    """
    # Faust insists on a folder of its own for tables, which are not used.
    folder = settings.data_dir / "faust" / worker_name
    folder.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        settings.group,
        broker=[URL(f"kafka://{server}") for server in settings.bootstrap_servers.split(",")],
        broker_credentials=credentials(settings),
        store="memory://",
        datadir=str(folder),
        processing_guarantee="at_least_once",
        # Without standbys Faust leaves the assignment to Kafka's round-robin: every other
        # partition, so that two workers have a shard each. Faust's own assignor mistakes a worker
        # whose host was renamed for another one, and stops consuming.
        table_standby_replicas=0,
        topic_partitions=settings.partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_group_instance_id=worker_name,
        # A topic that was made again is found within this time; aiokafka looks every five minutes.
        consumer_metadata_max_age_ms=METADATA_MS,
        consumer_max_fetch_size=FETCH_BYTES,
        stream_buffer_maxsize=PREFETCHED,
        stream_wait_empty=False,
        broker_session_timeout=30,
        # A projector is informed of a rebalance by the answer to its heartbeat: until then it folds
        # partitions that it is about to lose.
        broker_heartbeat_interval=1,
        broker_request_timeout=60,
        broker_rebalance_timeout=60,
        # One fetch is one batch, for any number of records.
        broker_max_poll_records=None,
        producer_threaded=False,
        web_enabled=False,
        autodiscover=False,
    )
    app.transport = RecordBatchTransport(app.conf.broker_consumer, app, app.loop)
    app.log_topic = settings.topic
    app.assignments = projector
    app.limits = limits_of(settings)
    _add_agent(app, settings.topic, projector)
    return app


def _add_agent(app: faust.App, name: str, projector: Projector) -> None:
    topic = app.topic(
        name, key_type=bytes, value_type=None, key_serializer="raw", value_serializer="raw"
    )

    async def project(stream: Any) -> None:
        async for event in stream.events():
            is_assigned = partial(is_current, app, event.message.generation_id)
            try:
                if not await apply_fetched(projector, event.value, is_assigned):
                    await app.consumer.fetch_again()
            except Exception:
                # Faust would acknowledge the batch and go on. Nothing was applied: the next
                # start begins at the store's checkpoint.
                logger.critical("action=projector_failed the process ends", exc_info=True)
                logging.shutdown()
                os._exit(1)

    agent = app.agent(topic, concurrency=1, name="jobtrail.project")(project)
    assert agent.concurrency == 1, "Faust commits past events in flight at concurrency > 1"


async def apply_fetched(
    projector: Projector, fetched: Fetched, is_assigned: Callable[[], bool]
) -> bool:
    """Apply the records of one fetch.

    Args:
        projector: Applies them.
        fetched: Records of some partitions.
        is_assigned: Tells whether no rebalance has begun since the fetch. Otherwise the rest is
            skipped: each rebalance ends with a seek to the checkpoints.

    Returns:
        Whether nothing has to be fetched again. Where another projector has written one partition,
        the records of the others are applied all the same: the next fetch begins after them.
    """
    fenced = False
    for partition, group, more in fetched.each():
        if not is_assigned():
            break
        try:
            await projector.apply(partition, group, more=more)
        except FencedError:
            fenced = True
    return not fenced


def credentials(settings: Settings) -> Any:
    """Return in Faust's form what every other client is told.

    Args:
        settings: Which Kafka, and how to get in.

    Raises:
        SettingError: As `kafka_security`.
    """
    found = kafka_security(settings)
    context = found.get("ssl_context")
    if "sasl_oauth_token_provider" in found:
        return faust.auth.OAuthCredentials(
            oauth_cb=found["sasl_oauth_token_provider"], ssl_context=context
        )
    if "sasl_mechanism" in found:
        return faust.SASLCredentials(
            username=found["sasl_plain_username"],
            password=found["sasl_plain_password"],
            mechanism=found["sasl_mechanism"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None
