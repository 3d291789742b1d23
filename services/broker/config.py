"""The configuration of Kafka, its logging and its Java.

Java runs with the data directory as its working directory, and every path here is relative to it.
So the directory can be moved, and no character in its name can break Kafka's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jobtrail.local.kafka_login import MECHANISM, PROTOCOL
from services.broker.java import Java

HOST = "127.0.0.1"

#: Folder of the log in the data directory.
LOG_FOLDER = "kafka"
#: Folder of the broker's own log files.
LOGS_FOLDER = "logs"
PROPERTIES = "server.properties"
LOG4J = "log4j2.properties"
#: The class that serves, and the one that formats.
SERVER = "kafka.Kafka"
STORAGE_TOOL = "kafka.tools.StorageTool"

_NOTE = "# Written by jobtrail at every start of the broker: a change made here is lost.\n"

_FIXED = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    # Nothing is deleted: everything else is rebuilt from the log.
    "log.retention.ms": "-1",
    "log.retention.bytes": "-1",
    # After a kill Kafka reads the last segment of each partition again: small ones keep
    # that start short.
    "log.segment.bytes": str(64 << 20),
    # 1 MiB and a record batch's overhead.
    "message.max.bytes": str((1 << 20) + 12),
    # One node is all the replicas there are.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    # A broker that comes back after a kill is refused until its former session has run out.
    # Controller and broker are one process here, so a short one costs nothing.
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "300",
    # Else the controller writes to the disk twice a second.
    "metadata.max.idle.interval.ms": "0",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    "background.threads": "2",
    "log.cleaner.threads": "1",
    # The default takes 128 MiB of heap at the start, for topics that hold a few hundred keys.
    "log.cleaner.dedupe.buffer.size": str(2 << 20),
}


#: The user as which Kafka connects to its own listeners.
BROKER_USER = "broker"


class OneStart(NamedTuple):
    """The passwords of `BROKER_USER` for one start of Kafka."""

    #: At the listener of the clients.
    clients: str
    #: At the listener of the controller. Another one, since the first is sent before it is certain
    #: that our Kafka listens.
    controller: str


def server_properties(
    port: int,
    controller_port: int,
    log_folder: str = LOG_FOLDER,
    *,
    passwords: OneStart | None = None,
) -> str:
    """Return Kafka's configuration.

    Args:
        port: Where clients connect.
        controller_port: Where the broker finds its own controller.
        log_folder: The folder of the log, relative to the data directory.
        passwords: Of Kafka itself; None lets in everybody who can connect.
    """
    protocol = "PLAINTEXT" if passwords is None else PROTOCOL
    chosen = {
        "listeners": f"{protocol}://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"{protocol}://{HOST}:{port}",
        "inter.broker.listener.name": protocol,
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "log.dirs": log_folder,
        **({} if passwords is None else _guarded(passwords)),
    }
    return _NOTE + "".join(f"{key}={value}\n" for key, value in {**_FIXED, **chosen}.items())


def _guarded(passwords: OneStart) -> dict[str, str]:
    """Return the configuration by which both listeners authenticate clients.

    Clients authenticate with SCRAM; Kafka has a hash of their password in its metadata. Connections
    that must work before those are read, of the broker itself and of the request that sets the
    clients' password, use another password, which ends with this process.
    """
    clients, controller = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'username="{BROKER_USER}" password="{password}" user_{BROKER_USER}="{password}";'
        for password in passwords
    )
    listener = f"listener.name.{PROTOCOL.lower()}"
    return {
        "listener.security.protocol.map": f"{PROTOCOL}:{PROTOCOL},CONTROLLER:{PROTOCOL}",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        f"{listener}.sasl.enabled.mechanisms": f"{MECHANISM},PLAIN",
        f"{listener}.plain.sasl.jaas.config": clients,
        f"{listener}.{MECHANISM.lower()}.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": controller,
    }


def log4j_properties() -> str:
    """Return the logging configuration: 4 files of 8 MiB at most, and nothing anywhere else."""
    return f"""{_NOTE}status = error
appender.file.type = RollingFile
appender.file.name = FILE
appender.file.fileName = {LOGS_FOLDER}/broker.log
appender.file.filePattern = {LOGS_FOLDER}/broker.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %p %c{{1}} %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 8MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = FILE
# Some 2,000 lines a start that only repeat settings.
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = WARN
"""


def java_command(java: Java, jars: Sequence[Path], arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a class of Kafka's.

    The serial collector and the first compiler alone start soonest, take the least memory and,
    on two cores, serve as many events a second as the rest (docs/broker.md has the figures).

    Args:
        java: The Java to run it with.
        jars: Kafka's jars.
        arguments: The class and what it is called with.
    """
    command = [
        str(java.path),
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xms64m",
        "-Xmx512m",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-CreateCoredumpOnCrash",
        f"-XX:ErrorFile={LOGS_FOLDER}/java-crash.log",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={LOG4J}",
    ]
    if java.major >= 24:
        # Newer Javas warn of what Kafka and its compressors do; there is nothing to do about it.
        command += [
            "--enable-native-access=ALL-UNNAMED",
            "--sun-misc-unsafe-memory-access=allow",
        ]
    return [*command, "-cp", ":".join(str(jar) for jar in jars), *arguments]
