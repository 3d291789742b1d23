"""How jobtrail's own aiokafka clients reach a cluster: the settings' security, in aiokafka's words."""

from __future__ import annotations

from typing import Any

from aiokafka.helpers import create_ssl_context

from jobtrail.settings import Settings


def kafka_security(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments for security that every aiokafka client takes.

    Args:
        settings: Protocol, mechanism, credentials and CA file.
    """
    arguments: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.security_protocol.endswith("SSL"):
        cafile = str(settings.ssl_cafile) if settings.ssl_cafile else None
        arguments["ssl_context"] = create_ssl_context(cafile=cafile)
    if settings.security_protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = settings.sasl_mechanism
        arguments["sasl_plain_username"] = settings.sasl_username
        arguments["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return arguments
