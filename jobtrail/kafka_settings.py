"""The settings of Kafka: where it is, how to get in, what the topics are called, what is read.

They are a part of `jobtrail.settings.Settings`, and which of them go together is checked here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

#: A text that is not empty.
Name = Annotated[str, Field(min_length=1)]


class KafkaSettings(BaseSettings):
    """What a process needs to know of Kafka.

    Raises:
        pydantic.ValidationError: What the protocol or the mechanism needs is missing.
    """

    bootstrap_servers: str = Field(
        default="",
        description="Kafka to use, `host:port[,host:port]`. Empty: the local broker that "
        "`jobtrail up` runs.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How to speak to Kafka, in Kafka's own words."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="SCRAM-SHA-512",
        description="SASL mechanism, where the protocol has SASL. `PLAIN` sends the password as it "
        "is: only with TLS.",
    )
    sasl_username: str = Field(default="", description="SASL user, of `PLAIN` and SCRAM.")
    sasl_password: SecretStr = Field(
        default=SecretStr(""), description="SASL password, of `PLAIN` and SCRAM."
    )
    sasl_oauth_token_url: str = Field(
        default="",
        description="Token endpoint for `OAUTHBEARER` (RFC 6749, client credentials), `https://...`.",
    )
    sasl_oauth_client_id: str = Field(default="", description="Client id there.")
    sasl_oauth_client_secret: SecretStr = Field(
        default=SecretStr(""), description="Client secret there."
    )
    sasl_oauth_scope: str = Field(
        default="", description="Scope that is asked for, several with spaces between. Empty: none."
    )
    sasl_oauth_cafile: Path | None = Field(
        default=None,
        description="CA certificates in PEM for TLS to the token endpoint. Unset: the system's.",
    )
    sasl_oauth_timeout: Annotated[float, Field(ge=0.1, le=300)] = Field(
        default=10.0,
        description="Seconds that the token endpoint has to answer. Shorter than clients wait for "
        "a connection, so that the reason can be said.",
    )
    ssl_cafile: Path | None = Field(
        default=None, description="CA certificates in PEM for TLS to Kafka. Unset: the system's."
    )
    ssl_certfile: Path | None = Field(
        default=None,
        description="Certificate in PEM, with those up to the CA, that proves to Kafka who we are. "
        "Unset: none.",
    )
    ssl_keyfile: Path | None = Field(
        default=None,
        description="Private key of that certificate in PEM. Unset: in the certificate's file.",
    )
    ssl_key_password: SecretStr = Field(
        default=SecretStr(""), description="Password of that key. Empty: it has none."
    )
    ssl_check_hostname: bool = Field(
        default=True,
        description="Whether Kafka's certificate has to name the host that was connected to. "
        "Without it, whoever has a certificate of the same CA can pass for Kafka.",
    )
    topic: Name = Field(default="job-events", description="The log.")
    dead_topic: Name = Field(
        default="job-events-dead", description="Where records go that are no valid event."
    )
    group: Name = Field(
        default="jobtrail-projector",
        description="Consumer group of the projectors. It shares out the partitions; the "
        "position is the store's own.",
    )
    partitions: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=8,
        description="Partitions of the log when it is created. Fixed for ever: one job is one "
        "partition.",
    )
    replication: Annotated[int, Field(ge=1, le=9)] = Field(
        default=1, description="Replicas of a created topic. 1 on one machine, 3 on a cluster."
    )
    max_batch_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 30)] = Field(
        default=32 << 20,
        description="Bytes that a batch of the log is unpacked to at most; one with more is buried "
        "as it is. A process holds that much for a moment: 13 KB can be 300 MB. The same for all "
        "processes; `jobtrail rebuild` after a change.",
    )
    max_batch_records: Annotated[int, Field(ge=1_000, le=10_000_000)] = Field(
        default=50_000,
        description="Records of a batch at most; one with more is buried as it is. 1 MiB can be "
        "hundreds of thousands, and 10 µs each to bury them hold up the others. As above.",
    )

    @model_validator(mode="after")
    def _way_in_is_whole(self) -> Self:
        faults = self._faults_of_sasl() if self.security_protocol.startswith("SASL") else []
        if self.ssl_certfile is None:
            faults += [
                f"JOBTRAIL_SSL_{name} means nothing without JOBTRAIL_SSL_CERTFILE"
                for name, is_set in (
                    ("KEYFILE", self.ssl_keyfile is not None),
                    ("KEY_PASSWORD", bool(self.ssl_key_password.get_secret_value())),
                )
                if is_set
            ]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _faults_of_sasl(self) -> list[str]:
        """Return what is missing of what the mechanism needs, each named as its variable."""
        if self.sasl_mechanism != "OAUTHBEARER":
            needed = {
                "USERNAME": self.sasl_username,
                "PASSWORD": self.sasl_password.get_secret_value(),
            }
        else:
            needed = {
                "OAUTH_TOKEN_URL": self.sasl_oauth_token_url,
                "OAUTH_CLIENT_ID": self.sasl_oauth_client_id,
                "OAUTH_CLIENT_SECRET": self.sasl_oauth_client_secret.get_secret_value(),
            }
        return [
            f"JOBTRAIL_SASL_{name} is needed with JOBTRAIL_SECURITY_PROTOCOL="
            f"{self.security_protocol} and JOBTRAIL_SASL_MECHANISM={self.sasl_mechanism}"
            for name, value in needed.items()
            if not value
        ]
