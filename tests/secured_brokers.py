"""A Kafka as others run it: TLS, every way to prove who one is, rights, and topics made by asking.

It is one broker with a listener for each way, so that a file of tests needs one start. Those who
come by the first one, without a proof, may do everything: that is for the tests themselves.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple

import platformdirs
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import CreateAclsRequest

from jobtrail.internals.aiokafka_admin_internals import Admin
from jobtrail.processes.pids import listens
from services.broker import process
from services.broker.config import (
    HOST,
    LOG4J,
    LOG_FOLDER,
    PROPERTIES,
    SERVER,
    STORAGE_TOOL,
    java_command,
    log4j_properties,
)
from services.broker.datadir import DataDir, choose_port
from services.broker.jars import ensure_jars, read_lock
from services.broker.java import find_java, java_environment
from services.broker.maven import from_maven
from tests.certificates import Authority, Issued

START_WITHIN: Final = 90.0
PASSWORD: Final = "not to be shown"
#: Users of whom the broker knows the password, by mechanism.
SCRAM_256: Final = "scram-256"
SCRAM_512: Final = "scram-512"
#: Who the client certificate names, as Kafka calls them.
CERTIFIED: Final = "certified"
_LISTENERS: Final = ("OPEN", "CONTROLLER", "PASSWORDS", "TOKENS", "CERTIFICATES", "CLEAR")
_PROTOCOLS: Final = {
    "OPEN": "PLAINTEXT",
    "CONTROLLER": "PLAINTEXT",
    "PASSWORDS": "SASL_SSL",
    "TOKENS": "SASL_PLAINTEXT",
    "CERTIFICATES": "SSL",
    "CLEAR": "SASL_PLAINTEXT",
}
_LOGIN: Final = "org.apache.kafka.common.security"

# KIP-11 and KIP-290, as Kafka numbers them.
_RESOURCES: Final = {"Topic": 2, "Group": 3, "Cluster": 4, "TransactionalId": 5}
_OPERATIONS: Final = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Delete": 6,
    "Alter": 7,
    "Describe": 8,
    "ClusterAction": 9,
    "DescribeConfigs": 10,
    "AlterConfigs": 11,
    "IdempotentWrite": 12,
}
_LITERAL: Final = 3
_ALLOW: Final = 3


class Acl(NamedTuple):
    """What somebody may do to something."""

    operation: str
    resource: str
    name: str


def _numbered(user: str, acl: Acl) -> tuple[int, str, int, str, str, int, int]:
    """Return an ACL as a request has it."""
    resource, operation = _RESOURCES[acl.resource], _OPERATIONS[acl.operation]
    return resource, acl.name, _LITERAL, f"User:{user}", "*", operation, _ALLOW


class SecuredBroker:
    """A broker that a test has started.

    Args:
        folder: Where its files are.
        users: Those with a password whom it knows, beside the two of SCRAM.
        mighty: Those who may do everything.
    """

    def __init__(self, folder: Path, users: Iterable[str], mighty: Iterable[str]) -> None:
        self._home = DataDir(folder / "broker")
        self.authority = Authority(folder)
        self._own = self.authority.issue("kafka", addresses=(HOST,))
        #: The certificate of a client; its key has `PASSWORD`.
        self.client: Issued = self.authority.issue(CERTIFIED, password=PASSWORD)
        self._users = tuple(users)
        self._mighty = tuple(mighty)
        self._ports: dict[str, int] = {}
        for name in _LISTENERS:
            self._ports[name] = choose_port(taken=set(self._ports.values()))

    def address(self, listener: str) -> str:
        """Return where one of `_LISTENERS` is."""
        return f"{HOST}:{self._ports[listener]}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Format its log, start it, wait until it answers, and stop it in the end."""
        home, java, lock = self._home, find_java(os.environ), read_lock()
        cache = Path(platformdirs.user_cache_dir("jobtrail", appauthor=False)).absolute()
        jars = await asyncio.to_thread(ensure_jars, lock, cache, from_maven, Event())
        environ = java_environment(os.environ)
        home.make()
        home.write(LOG4J, log4j_properties())
        home.write(PROPERTIES, self._properties())
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        scram = [
            f"--add-scram={mechanism}=[name={user},password={PASSWORD}]"
            for mechanism, user in (("SCRAM-SHA-256", SCRAM_256), ("SCRAM-SHA-512", SCRAM_512))
        ]
        formatting = (STORAGE_TOOL, "format", f"--cluster-id={cluster}", "--config", PROPERTIES)
        command = java_command(java, jars, [*formatting, *scram])
        await process.run_to_end(command, home, environ, "Formatting")
        child = await process.spawn(
            java_command(java, jars, [SERVER, str(home.properties)]), home, environ
        )
        try:
            await self._answers(child)
            yield
        finally:
            await process.stop(child)

    async def _answers(self, child: asyncio.subprocess.Process) -> None:
        ended = asyncio.create_task(child.wait())
        async with asyncio.timeout(START_WITHIN):
            while not ended.done():
                if listens(child.pid, self._ports["OPEN"]):
                    with contextlib.suppress(KafkaError):
                        await self.topics()
                        ended.cancel()
                        return
                await asyncio.wait([ended], timeout=0.1)
        raise process.ended("Kafka ended", ended.result(), self._home)

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Any]:
        """Give a client that may do everything."""
        admin = Admin(bootstrap_servers=self.address("OPEN"))
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()

    async def topics(self) -> set[str]:
        """Return the topics that there are, without Kafka's own."""
        async with self.admin() as admin:
            return {name for name in await admin.list_topics() if not name.startswith("__")}

    async def allow(self, user: str, acls: Iterable[Acl]) -> None:
        """Let a user do something."""
        async with self.admin() as admin:
            for acl in acls:
                request = CreateAclsRequest(*_numbered(user, acl))
                answer = await admin._send_to_controller(request)
                ((code, text),) = answer.creation_responses
                assert code == 0, text

    def _properties(self) -> str:
        at = {name: f"{name}://{self.address(name)}" for name in _LISTENERS}
        served = [at[name] for name in _LISTENERS if name != "CONTROLLER"]
        protocols = ",".join(f"{name}:{protocol}" for name, protocol in _PROTOCOLS.items())
        mighty = ";".join(f"User:{name}" for name in ("ANONYMOUS", *self._mighty))
        known = " ".join(f'user_{user}="{PASSWORD}"' for user in (*self._users, *self._mighty))
        plain = f"{_LOGIN}.plain.PlainLoginModule required {known};"
        scram = f"{_LOGIN}.scram.ScramLoginModule required;"
        tokens = f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule required "
        keys = self._home.root / "kafka.pem"
        keys.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys.write_bytes(self._own.key.read_bytes() + self._own.certificate.read_bytes())
        found = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@{self.address('CONTROLLER')}",
            "inter.broker.listener.name": "OPEN",
            "listeners": ",".join(at.values()),
            "advertised.listeners": ",".join(served),
            "listener.security.protocol.map": protocols,
            "log.dirs": LOG_FOLDER,
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "true",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": mighty,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": "kafka.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.file),
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
            "listener.name.certificates.ssl.client.auth": "required",
            "listener.name.passwords.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.passwords.plain.sasl.jaas.config": plain,
            "listener.name.passwords.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.passwords.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.clear.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.clear.plain.sasl.jaas.config": plain,
            "listener.name.tokens.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.tokens.oauthbearer.sasl.jaas.config": (
                f'{tokens}unsecuredLoginStringClaim_sub="broker";'
            ),
        }  # fmt: skip
        return "".join(f"{key}={value}\n" for key, value in found.items())
