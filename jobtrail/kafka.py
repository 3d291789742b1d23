"""How every Kafka client of jobtrail speaks to the cluster, made from the settings in one place."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, Final

from aiokafka.helpers import create_ssl_context

from jobtrail.errors import SettingError
from jobtrail.settings import Settings

logger = logging.getLogger(__name__)

#: The largest dead letter: a record of the log's largest size, 1 MiB as Kafka has it unless it is
#: told otherwise, and as much again for its headers and ours.
DEAD_LETTER_BYTES: Final = 2 * 1024 * 1024


def kafka_security(settings: Settings) -> dict[str, Any]:
    """Return aiokafka's keyword arguments for security; empty for a plain connection.

    Raises:
        SettingError: The CA file can't be used, or SASL has no user.
    """
    protocol = settings.security_protocol
    if protocol == "PLAINTEXT":
        return {}
    arguments: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(settings)
    if protocol.startswith("SASL"):
        if not settings.sasl_username:
            raise SettingError(
                "SASL needs a user.",
                expected="JOBTRAIL_SASL_USERNAME and JOBTRAIL_SASL_PASSWORD",
                found="no user",
                where=f"setting security_protocol {protocol}",
            )
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return arguments


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = create_ssl_context(cafile=settings.ssl_cafile)
    except OSError as error:  # ssl.SSLError is one
        raise SettingError(
            "The CA certificates for Kafka can't be used.",
            expected="certificates in PEM",
            found=error.strerror or type(error).__name__,
            where=f"setting ssl_cafile {settings.ssl_cafile}",
        ) from error
    return context


async def stop_client(client: Any, within: float = 5.0) -> None:
    """Stop a consumer or producer of aiokafka, and never fail nor wait long.

    Without a broker aiokafka's `stop` has been seen to hang (aiokafka #1101), to swallow a
    cancellation and to let out one of its own; so it runs in a task of its own.

    Args:
        client: What to stop.
        within: Seconds after which it is left alone.
    """
    stopping = asyncio.create_task(client.stop())
    done, _ = await asyncio.wait([stopping], timeout=within)
    if not done:
        logger.warning("action=kafka_stop_given_up within=%.0fs", within)
        stopping.cancel()
        await _abandon(client)
    elif not stopping.cancelled() and stopping.exception() is not None:
        logger.warning("action=kafka_stop_failed %r", stopping.exception())


async def _abandon(client: Any) -> None:
    """End the tasks of a producer that would go on trying for ever: aiokafka has no other way."""
    sender = getattr(client, "_sender", None)
    if sender is not None:
        await sender.close()
        await client.client.close()
