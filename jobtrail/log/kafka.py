"""The options of every Kafka client of jobtrail, made from the settings in one place."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import TopicAuthorizationFailedError, for_code
from aiokafka.helpers import create_ssl_context

from jobtrail.core.errors import SettingError
from jobtrail.internals.aiokafka_internals import close_parts
from jobtrail.log.limits import Limits
from jobtrail.settings import Settings

if TYPE_CHECKING:
    from jobtrail.log.oauth_tokens import ClientCredentials

logger = logging.getLogger(__name__)

#: The largest dead letter: a record of the log's largest size, 1 MiB by Kafka's default, and as
#: much again for its headers and ours.
DEAD_LETTER_BYTES: Final = 2 * 1024 * 1024
#: Seconds within which the cluster has to answer for a topic's configuration.
_ADMIN_WITHIN: Final = 15.0


class Client(dict[str, Any]):
    """How a client of jobtrail reaches the cluster: keyword arguments for aiokafka.

    Args:
        settings: The cluster, and the limits of an unpacked batch.

    Raises:
        SettingError: As `kafka_security`.
    """

    __slots__ = ("limits",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(bootstrap_servers=settings.bootstrap_servers, **kafka_security(settings))
        self.limits = limits_of(settings)


def limits_of(settings: Settings) -> Limits:
    """Return how large an unpacked batch may be."""
    return Limits(settings.max_batch_bytes, settings.max_batch_records)


def kafka_security(settings: Settings) -> dict[str, Any]:
    """Return aiokafka's keyword arguments for security; empty for a plain connection.

    Raises:
        SettingError: A certificate, a key or its password can't be used.
    """
    protocol = settings.security_protocol
    if protocol == "PLAINTEXT":
        return {}
    arguments: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(settings)
    if protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER":
            arguments["sasl_oauth_token_provider"] = _token_provider(settings)
        else:
            arguments |= {
                "sasl_plain_username": settings.sasl_username,
                "sasl_plain_password": settings.sasl_password.get_secret_value(),
            }
    return arguments


def _token_provider(settings: Settings) -> ClientCredentials:
    # Loads what parses URLs and keeps tokens, which hardly anybody needs.
    from jobtrail.log.oauth_tokens import ClientCredentials, TokenSource

    source = TokenSource(
        settings.sasl_oauth_token_url,
        settings.sasl_oauth_client_id,
        settings.sasl_oauth_client_secret.get_secret_value(),
        settings.sasl_oauth_scope,
        settings.sasl_oauth_cafile,
        settings.sasl_oauth_timeout,
    )
    safe = source.url.startswith("https:")
    return ClientCredentials(
        source, _trusting("sasl_oauth_cafile", source.cafile) if safe else None
    )


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    context = _trusting("ssl_cafile", settings.ssl_cafile)
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_certfile is not None:
        _prove_with(context, settings)
    return context


def _trusting(setting: str, cafile: Path | None) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = create_ssl_context(cafile=cafile)
    except OSError as error:  # ssl.SSLError is one
        raise SettingError(
            "The CA certificates can't be used.",
            expected="certificates in PEM",
            found=error.strerror or type(error).__name__,
            where=f"setting {setting} {cafile}",
        ) from error
    return context


def _prove_with(context: ssl.SSLContext, settings: Settings) -> None:
    """Have a context show our certificate.

    Raises:
        SettingError: It, its key or the key's password can't be used.
    """
    certfile = settings.ssl_certfile
    keyfile = settings.ssl_keyfile or certfile
    password = settings.ssl_key_password.get_secret_value()
    for setting, file in (("ssl_certfile", certfile), ("ssl_keyfile", keyfile)):
        assert file is not None
        try:
            file.read_bytes()
        except OSError as error:
            raise SettingError(
                "A file of the client certificate can't be read.",
                found=error.strerror or type(error).__name__,
                where=f"setting {setting} {file}",
            ) from error
    try:
        # By a function, which OpenSSL asks also where the password is empty: else it would ask on
        # the terminal.
        context.load_cert_chain(certfile, keyfile, password=lambda: password)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise SettingError(
            "The client certificate can't be used.",
            expected="a certificate and its own private key in PEM, and the key's password in "
            "JOBTRAIL_SSL_KEY_PASSWORD where it has one",
            found=getattr(error, "reason", None) or type(error).__name__,
            where=f"settings ssl_certfile {certfile} and ssl_keyfile {keyfile}",
        ) from error


async def is_compacted(client_options: Mapping[str, Any], topic: str) -> bool:
    """Tell whether a topic is compacted: then offsets without a record are no loss.

    Args:
        client_options: Keyword arguments for aiokafka: servers and security.
        topic: Which topic.

    Returns:
        False also where the cluster does not let us see how the topic is configured.

    Raises:
        KafkaError: The cluster does not answer, or has no such topic.
        TimeoutError: It does not answer in time.
    """
    # Slow to import, and seldom needed.
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    from jobtrail.internals.aiokafka_admin_internals import Admin

    client = Admin(**client_options)
    try:
        async with asyncio.timeout(_ADMIN_WITHIN):
            await client.start()
            resource = ConfigResource(ConfigResourceType.TOPIC, topic)
            (answer,) = await client.describe_configs([resource])
    finally:
        await client.close()
    ((code, _text, _kind, _name, entries),) = answer.resources
    if code:
        error = for_code(code)
        if error is TopicAuthorizationFailedError:
            return False
        raise error(topic)
    policies = {entry[0]: entry[1] or "" for entry in entries}.get("cleanup.policy", "")
    return "compact" in policies.split(",")


async def stop_client(client: Any, within: float = 5.0) -> None:
    """Stop a consumer or producer of aiokafka, and never fail nor wait long.

    Without a broker aiokafka's `stop` has been seen to hang (aiokafka #1101), to swallow a
    cancellation and to raise one of its own; so it runs in a task of its own.

    Args:
        client: What to stop.
        within: Seconds after which it is abandoned.
    """
    stopping = asyncio.create_task(client.stop())
    done, _ = await asyncio.wait([stopping], timeout=within)
    if not done:
        logger.warning("action=kafka_stop_given_up within=%.0fs", within)
        stopping.cancel()
        abandoning = asyncio.create_task(close_parts(client))
        # That too may wait for the broker.
        done, _ = await asyncio.wait([abandoning], timeout=within)
        if not done:
            abandoning.cancel()
        elif not abandoning.cancelled() and abandoning.exception() is not None:
            logger.warning("action=kafka_abandon_failed %r", abandoning.exception())
    elif not stopping.cancelled() and stopping.exception() is not None:
        logger.warning("action=kafka_stop_failed %r", stopping.exception())
