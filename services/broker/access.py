"""Sets the clients' password in a Kafka that has just started.

Kafka stores what verifies a password (RFC 5802: salt, rounds and the salted hash) in its metadata.
Its own tool could store it when it formats them, but takes it as an argument, which every user of
the machine can read; and a log of an earlier version is formatted already. So it is set by a
request of the one user that the configuration names for this start.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

from aiokafka.errors import SaslAuthenticationFailed, for_code

from jobtrail.core.errors import BrokerError
from jobtrail.internals.aiokafka_internals import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Request,
    RequestStruct,
    Response,
    Schema,
    TaggedFields,
    create_conn,
)
from jobtrail.local.kafka_login import MECHANISM, PROTOCOL, Login
from services.broker.config import BROKER_USER

#: The minimum that Kafka accepts. More would not help: the password has 256 random bits.
_ROUNDS: Final = 4096
_SALT_BYTES: Final = 32
#: SCRAM-SHA-512, as KIP-554 numbers the mechanisms.
_SCRAM_SHA_512: Final = 2


class _AlterResponse(Response):  # type: ignore[misc]
    """KIP-554."""

    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterStruct(RequestStruct):  # type: ignore[misc]
    """KIP-554."""

    API_KEY = 51
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _AlterResponse
    SCHEMA = Schema(
        (
            "deletions",
            CompactArray(
                ("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields)
            ),
        ),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterScramCredentials(Request[_AlterStruct]):  # type: ignore[misc]
    """Sets the SCRAM credentials of a user."""

    API_KEY = 51

    def __init__(self, login: Login) -> None:
        salt = secrets.token_bytes(_SALT_BYTES)
        salted = hashlib.pbkdf2_hmac("sha512", login.password.encode(), salt, _ROUNDS)
        self._upsertion: tuple[object, ...] = (
            login.username,
            _SCRAM_SHA_512,
            _ROUNDS,
            salt,
            salted,
            {},
        )

    def build(self, request_struct_class: type[_AlterStruct]) -> _AlterStruct:
        """Return the request in the form that is sent."""
        return request_struct_class([], [self._upsertion], {})


@contextlib.asynccontextmanager
async def _connected(address: str, mechanism: str, login: Login) -> AsyncIterator[Any]:
    host, _, port = address.rpartition(":")
    connection = await create_conn(
        host,
        int(port),
        client_id="jobtrail-broker",
        security_protocol=PROTOCOL,
        sasl_mechanism=mechanism,
        sasl_plain_username=login.username,
        sasl_plain_password=login.password,
    )
    try:
        yield connection
    finally:
        connection.close()


async def lets_in(address: str, login: Login) -> bool:
    """Tell whether Kafka accepts a client's password.

    Args:
        address: Where it listens, `host:port`.
        login: Who the client is.

    Raises:
        KafkaError: It does not answer.
        OSError: Likewise.
    """
    try:
        async with _connected(address, MECHANISM, login):
            return True
    except SaslAuthenticationFailed:
        return False


async def put_password(address: str, login: Login, password: str) -> None:
    """Set a client's password in Kafka.

    Args:
        address: Where it listens, `host:port`.
        login: Who the client is.
        password: Of `BROKER_USER`, from Kafka's configuration.

    Raises:
        BrokerError: It refuses.
        KafkaError: It does not answer.
        OSError: Likewise.
    """
    async with _connected(address, "PLAIN", Login(BROKER_USER, password)) as connection:
        answer = await connection.send(_AlterScramCredentials(login))
    for user, code, text, _tags in answer.results:
        if code:
            raise BrokerError(
                f"Kafka does not take the password of its user {user}.",
                found=f"{for_code(code).__name__} {text or ''}".strip(),
            )
