"""The settings of Kafka: where it is, how to get in, what the topics are called, what is read.

They are a part of `jobtrail.settings.Settings`, and which of them go together is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from jobtrail.oidc_settings import is_safe
from jobtrail.setting_fields import Secret, setting

_NO_SECRET: Final = Secret("")


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """What a process needs to know of Kafka; `faults_of` says which values do not go together."""

    bootstrap_servers: str = setting(
        default="",
        description="Kafka to use, `host:port[,host:port]`. Empty: the local broker that "
        "`jobtrail up` runs.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = setting(
        default="PLAINTEXT", description="How to speak to Kafka, in Kafka's own words."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = setting(
        default="SCRAM-SHA-512",
        description="SASL mechanism, where the protocol has SASL. `PLAIN` sends the password as it "
        "is: only with TLS.",
    )
    sasl_username: str = setting(default="", description="SASL user, of `PLAIN` and SCRAM.")
    sasl_password: Secret = setting(
        default=Secret(""), description="SASL password, of `PLAIN` and SCRAM."
    )
    sasl_oauth_token_url: str = setting(
        default="",
        description="Token endpoint for `OAUTHBEARER` (RFC 6749, client credentials), `https://...`.",
    )
    sasl_oauth_client_id: str = setting(default="", description="Client id there.")
    sasl_oauth_client_secret: Secret = setting(
        default=Secret(""), description="Client secret there."
    )
    sasl_oauth_scope: str = setting(
        default="", description="Scope that is asked for, several with spaces between. Empty: none."
    )
    sasl_oauth_cafile: Path | None = setting(
        default=None,
        description="CA certificates in PEM for TLS to the token endpoint. Unset: the system's.",
    )
    sasl_oauth_timeout: float = setting(
        bounds=(0.1, 300),
        default=10.0,
        description="Seconds that the token endpoint has to answer. Shorter than clients wait for "
        "a connection, so that the reason can be said.",
    )
    ssl_cafile: Path | None = setting(
        default=None, description="CA certificates in PEM for TLS to Kafka. Unset: the system's."
    )
    ssl_certfile: Path | None = setting(
        default=None,
        description="Certificate in PEM, with those up to the CA, that proves to Kafka who we are. "
        "Unset: none.",
    )
    ssl_keyfile: Path | None = setting(
        default=None,
        description="Private key of that certificate in PEM. Unset: in the certificate's file.",
    )
    ssl_key_password: Secret = setting(
        default=Secret(""), description="Password of that key. Empty: it has none."
    )
    ssl_check_hostname: bool = setting(
        default=True,
        description="Whether Kafka's certificate has to name the host that was connected to. "
        "Without it, anybody with a certificate of the same CA can pass for Kafka.",
    )
    topic: str = setting(bounds=(1, None), default="job-events", description="The log.")
    dead_topic: str = setting(
        bounds=(1, None),
        default="job-events-dead",
        description="Where records go that are no valid event.",
    )
    group: str = setting(
        bounds=(1, None),
        default="jobtrail-projector",
        description="Consumer group of the projectors. It shares out the partitions; the "
        "position is the store's own.",
    )
    partitions: int = setting(
        bounds=(1, 1024),
        default=8,
        description="Partitions of the log when it is created. Fixed for ever: one job is one "
        "partition.",
    )
    replication: int = setting(
        bounds=(1, 9),
        default=1,
        description="Replicas of a created topic. 1 on one machine, 3 on a cluster.",
    )
    max_batch_bytes: int = setting(
        bounds=(1 << 20, 1 << 30),
        default=32 << 20,
        description="Bytes that a batch of the log is unpacked to at most; a larger one goes to "
        "the dead letters unread. A process needs that much memory for a moment: 13 KB can be 300 "
        "MB. The same for all processes; `jobtrail rebuild` after a change.",
    )
    max_batch_records: int = setting(
        bounds=(1_000, 10_000_000),
        default=50_000,
        description="Records of a batch at most; one with more goes to the dead letters unread. 1 "
        "MiB can be hundreds of thousands, and 10 µs for each of them delay the others. As above.",
    )


def faults_of(values: Mapping[str, Any]) -> list[str]:
    """Return what does not go together, a sentence each that names the variable.

    Args:
        values: By the names of settings; one that is missing has its default.
    """
    faults = _faults_of_sasl(values)
    if values.get("ssl_certfile") is None:
        password = values.get("ssl_key_password", _NO_SECRET)
        faults += [
            f"JOBTRAIL_SSL_{name} means nothing without JOBTRAIL_SSL_CERTFILE"
            for name, is_set in (
                ("KEYFILE", values.get("ssl_keyfile") is not None),
                ("KEY_PASSWORD", bool(password.get_secret_value())),
            )
            if is_set
        ]
    url = values.get("sasl_oauth_token_url", "")
    if url and not is_safe(url):
        faults.append(
            "JOBTRAIL_SASL_OAUTH_TOKEN_URL: expected https://..., or http:// on this machine, "
            "since the client secret is sent there"
        )
    return faults


def _faults_of_sasl(values: Mapping[str, Any]) -> list[str]:
    """Return what is missing of what the mechanism needs."""
    protocol = values.get("security_protocol", KafkaSettings.security_protocol)
    mechanism = values.get("sasl_mechanism", KafkaSettings.sasl_mechanism)
    if not protocol.startswith("SASL"):
        return []
    needed: tuple[str, ...]
    if mechanism != "OAUTHBEARER":
        needed = ("username", "password")
    else:
        needed = ("oauth_token_url", "oauth_client_id", "oauth_client_secret")
    return [
        f"JOBTRAIL_SASL_{name.upper()} is needed with JOBTRAIL_SECURITY_PROTOCOL={protocol} and "
        f"JOBTRAIL_SASL_MECHANISM={mechanism}"
        for name in needed
        if values.get(f"sasl_{name}", "") in ("", _NO_SECRET)
    ]
