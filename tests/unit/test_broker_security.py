"""How the Kafka clients are told to speak to a cluster, and the configuration of its topics."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from jobtrail.core.errors import SettingError
from jobtrail.log.kafka import kafka_security
from jobtrail.settings import Settings
from services.broker.config import server_properties
from services.broker.topics import dead_topic_configs, topic_configs
from tests.certificates import Authority


def authority(path: Path) -> Path:
    """Write the certificate of a CA of its own; return its file."""
    return Authority(path.parent, path.name).file


def test_a_plain_connection_needs_nothing() -> None:
    assert kafka_security(Settings(sasl_username="unused")) == {}


def test_tls_checks_names_and_trusts_the_named_authority(tmp_path: Path) -> None:
    cafile = authority(tmp_path / "ca.pem")
    found = kafka_security(Settings(security_protocol="SSL", ssl_cafile=cafile))
    assert found["security_protocol"] == "SSL"
    context = found["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    (trusted,) = context.get_ca_certs()
    assert trusted["subject"] == ((("commonName", "test authority"),),)


def test_tls_without_an_authority_trusts_the_systems() -> None:
    found = kafka_security(Settings(security_protocol="SSL"))
    assert found["ssl_context"].verify_mode is ssl.CERT_REQUIRED


def test_sasl_passes_user_and_password_on(tmp_path: Path) -> None:
    settings = Settings(
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-256",
        sasl_username="me",
        sasl_password="not to be shown",
        ssl_cafile=authority(tmp_path / "ca.pem"),
    )
    found = kafka_security(settings)
    assert isinstance(found.pop("ssl_context"), ssl.SSLContext)
    assert found == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "me",
        "sasl_plain_password": "not to be shown",
    }
    plain = settings.model_copy(update={"security_protocol": "SASL_PLAINTEXT"})
    assert "ssl_context" not in kafka_security(plain)


def test_certificates_that_cant_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    for name in ("no.pem", "missing.pem"):
        cafile = tmp_path / name
        with pytest.raises(SettingError, match="can't be used") as refused:
            kafka_security(Settings(security_protocol="SSL", ssl_cafile=cafile))
        assert refused.value.where == f"setting ssl_cafile {cafile}"


@pytest.mark.parametrize(("replicas", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "4")])
def test_topics_keep_all_and_acknowledge_when_all_but_one_replica_has_it(
    replicas: int, in_sync: str
) -> None:
    kept = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "min.insync.replicas": in_sync,
    }
    settings = Settings(replication=replicas)
    assert topic_configs(settings) == kept
    assert dead_topic_configs(settings) == {**kept, "max.message.bytes": str(2 << 20)}
    # The largest record of the log, and what its letter says beside.
    assert f"\nmessage.max.bytes={(1 << 20) + 12}\n" in server_properties(1, 2)
