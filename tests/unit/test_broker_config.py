"""What Kafka, its log and its Java are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.broker.config import (
    OneStart,
    java_command,
    log4j_properties,
    server_properties,
)
from services.broker.java import Java, java_environment


def read(text: str) -> dict[str, str]:
    """Read a properties file; a key that is there twice is a mistake."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [line.split("=", 1) for line in lines]
    found = {key.strip(): value.strip() for key, value in pairs}
    assert len(found) == len(lines)
    return found


def test_kafka_listens_on_the_loopback_only() -> None:
    found = read(server_properties(20_001, 20_002))
    assert found["listeners"] == "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002"
    assert found["advertised.listeners"] == "PLAINTEXT://127.0.0.1:20001"
    assert found["controller.quorum.voters"] == "1@127.0.0.1:20002"
    assert found["process.roles"] == "broker,controller"


def test_both_listeners_ask_for_a_password_of_their_own() -> None:
    found = read(server_properties(1, 2, passwords=OneStart("for-clients", "for-controller")))
    assert found["listeners"] == "SASL_PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2"
    protocols = dict(p.split(":") for p in found["listener.security.protocol.map"].split(","))
    assert protocols == {"SASL_PLAINTEXT": "SASL_PLAINTEXT", "CONTROLLER": "SASL_PLAINTEXT"}
    jaas = {key: value for key, value in found.items() if key.endswith("plain.sasl.jaas.config")}
    assert sorted("for-clients" in value for value in jaas.values()) == [False, True]
    assert sorted("for-controller" in value for value in jaas.values()) == [False, True]
    assert found["inter.broker.listener.name"] == "SASL_PLAINTEXT"


def test_java_gets_nothing_that_it_does_not_need() -> None:
    ours = {"PATH": "/bin", "LC_ALL": "C", "JOBTRAIL_OIDC_SECRET": "x", "AWS_SECRET": "y"}
    assert java_environment(ours) == {"PATH": "/bin", "LC_ALL": "C"}


def test_nothing_expires_and_no_topic_makes_itself() -> None:
    found = read(server_properties(1, 2))
    assert found["log.retention.ms"] == found["log.retention.bytes"] == "-1"
    assert found["auto.create.topics.enable"] == "false"
    assert found["group.initial.rebalance.delay.ms"] == "0"
    assert int(found["message.max.bytes"]) >= 1 << 20


def test_one_node_is_enough_for_every_topic_of_kafkas_own() -> None:
    found = read(server_properties(1, 2))
    replicas = {key: value for key, value in found.items() if key.endswith("replication.factor")}
    assert set(replicas.values()) == {"1"}
    assert {"offsets.topic.replication.factor", "transaction.state.log.replication.factor"} <= set(
        replicas
    )
    assert found["transaction.state.log.min.isr"] == "1"


def test_no_path_in_the_configuration_is_absolute() -> None:
    assert read(server_properties(1, 2))["log.dirs"] == "kafka"
    assert read(server_properties(1, 2, "kafka.new"))["log.dirs"] == "kafka.new"
    assert read(log4j_properties())["appender.file.fileName"] == "logs/broker.log"


def test_the_broker_logs_to_bounded_files_and_nowhere_else() -> None:
    found = read(log4j_properties())
    appenders = {key.split(".")[1] for key in found if key.startswith("appender.")}
    assert appenders == {"file"}
    assert found["appender.file.type"] == "RollingFile"
    assert found["appender.file.policies.size.size"] == "8MB"
    assert found["appender.file.strategy.max"] == "3"


@pytest.mark.parametrize(("major", "quiet"), [(17, False), (21, False), (24, True), (25, True)])
def test_a_newer_java_is_told_not_to_warn(major: int, quiet: bool) -> None:
    jars = [Path("/c/a.jar"), Path("/c/b.jar")]
    command = java_command(Java(Path("/j/java"), major), jars, ["Main", "argument"])
    assert command[0] == "/j/java"
    assert command[-4:] == ["-cp", "/c/a.jar:/c/b.jar", "Main", "argument"]
    assert ("--sun-misc-unsafe-memory-access=allow" in command) == quiet
