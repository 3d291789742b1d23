"""How every Kafka client of jobtrail speaks to the cluster, made from the settings in one place."""

from __future__ import annotations

import ssl
from typing import Any

from aiokafka.helpers import create_ssl_context

from jobtrail.errors import SettingError
from jobtrail.settings import Settings


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
