"""The least rights of each role, as docs/cluster.md has them: enough, and none too many.

A broker with an authorizer gives users exactly what the page's table says.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from jobtrail.access.tokens import local_secret, make_token
from jobtrail.core.errors import BrokerError, JobtrailError
from jobtrail.internals.aiokafka_admin_internals import Admin
from jobtrail.local.checks.cluster import look
from jobtrail.log.clients import Producer
from jobtrail.log.dead_topic import open_letters
from jobtrail.log.kafka import Client
from jobtrail.log.questions import Log
from jobtrail.log.topic_checks import describe
from jobtrail.log.topics import committed
from jobtrail.produce.job_producer import JobProducer
from jobtrail.settings import Settings, as_environment
from services.broker.topics import ensure_topics
from tests.processes import Process, api, clean_environment, projector
from tests.secured_brokers import PASSWORD, Acl, SecuredBroker

PAGE: Final = Path(__file__).parents[2] / "docs" / "cluster.md"
HEAD: Final = "| role | operation | resource | for |\n"
DEADLINE: Final = 60
#: Seconds in which an event is taken or given up.
WITHIN: Final = 3.0


def table() -> dict[str, list[Acl]]:
    """Return the page's rights by role."""
    rows = PAGE.read_text(encoding="utf-8").split(HEAD, 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    found: dict[str, list[Acl]] = {}
    for row in rows:
        role, operation, resource = (cell.strip() for cell in row.strip("|").split("|")[:3])
        kind, name = resource.split(" ")
        found.setdefault(role, []).append(Acl(operation, kind, name))
    return found


Probe = Callable[[Settings], Awaitable[None]]
RIGHTS: Final = table()
LOG: Final = Settings().topic
DEAD: Final = Settings().dead_topic
GROUP: Final = Settings().group


def as_role(broker: SecuredBroker, role: str, folder: Path) -> Settings:
    return Settings(
        data_dir=folder,
        bootstrap_servers=broker.address("CLEAR"),
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username=role,
        sasl_password=PASSWORD,
        partitions=2,
        port=0,
    )


def without(role: str, right: Acl) -> str:
    """Return the name of a user who has all rights of a role but one."""
    return f"{role}-{RIGHTS[role].index(right)}"


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecuredBroker]:
    """Run a broker with a user for each role, and one more for each right that they lack.

    The admin has made the topics.
    """
    users = dict(RIGHTS)
    for role, rights in RIGHTS.items():
        for right in rights:
            users[without(role, right)] = [other for other in rights if other != right]
    broker = SecuredBroker(tmp_path_factory.mktemp("acls"), users, ())
    async with broker.running():
        await asyncio.gather(*(broker.allow(user, rights) for user, rights in users.items()))
        await make(broker, tmp_path_factory.mktemp("admin"))
        yield broker


async def make(broker: SecuredBroker, folder: Path) -> None:
    """Make the topics as the admin, and not without the rights that this takes."""
    async with broker.admin() as admin:
        await admin.create_topics([NewTopic(DEAD, 1, 1)])
    for right in (Acl("Create", "Topic", LOG), Acl("AlterConfigs", "Topic", DEAD)):
        lacking = as_role(broker, without("admin", right), folder)
        with pytest.raises(BrokerError):
            await ensure_topics(lacking.bootstrap_servers, lacking)
    settings = as_role(broker, "admin", folder)
    await ensure_topics(settings.bootstrap_servers, settings)


async def test_each_role_works_with_its_rights(
    broker: SecuredBroker, running: list[Process], tmp_path: Path
) -> None:
    roles = {role: as_role(broker, role, tmp_path) for role in RIGHTS}
    folding, answering = projector(roles["projector"]), api(roles["api"])
    running += [folding, answering]
    _, url = await asyncio.gather(folding.start(), answering.start())
    rights = ("jobs:write", "jobs:read:all")
    bearer = {"Authorization": f"Bearer {make_token(local_secret(tmp_path), 'me', (), rights)}"}
    async with (
        asyncio.timeout(DEADLINE),
        JobProducer("//test", settings=roles["producer"]) as producer,
        aiohttp.ClientSession(url, headers=bearer) as session,
    ):
        await producer.created("job", owner="me", job_type="t")
        event = {
            "specversion": "1.0",
            "id": "1",
            "source": "//test",
            "type": "job.active",
            "subject": "job",
        }
        kind = {"Content-Type": "application/cloudevents+json"}
        async with session.post("/events", json=event, headers=kind) as answer:
            assert answer.status in (200, 202), await answer.text()
        # No event: the projector writes a letter.
        async with Producer(**Client(roles["producer"])) as raw:
            await raw.send_and_wait(LOG, b"no event", b"job")
        position = await producer.completed("job")
        while (await session.get("/readyz")).status != 200:
            pass
        async with session.get("/jobs/job", headers={"Jobtrail-Position": position}) as answer:
            assert (await answer.json())["state"] == "completed"
        while (await open_letters(roles["admin"]))[0] != 1:
            pass
        found = await look(roles["admin"])
        assert [len(member.partitions) for member in found.members] == [2]
        assert await replayed(roles["analyst"]) == 3
    said = "".join(file.read_text() for file in tmp_path.rglob("*.log"))
    assert "AuthorizationFailed" not in said
    assert "check=topics" not in said
    assert "check=topic-configs" not in said


async def replayed(settings: Settings) -> int:
    """Return how many events `jobtrail replay` reads."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jobtrail", "replay", "--json"),
        env={**clean_environment(), **as_environment(settings)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await child.communicate()
    assert child.returncode == 0
    return len(output.splitlines())


# --- each right is needed


async def produces(settings: Settings) -> None:
    async with JobProducer("//test", settings=settings, within=WITHIN) as producer:
        await producer.created("other", owner="me", job_type="t")


async def writes_letters(settings: Settings) -> None:
    async with Producer(**Client(settings)) as producer:
        await producer.send_and_wait(DEAD, b"")


async def reads(settings: Settings) -> None:
    async with Log(LOG, Client(settings)) as log:
        assert any((await log.first_records()).values())


async def reads_letters(settings: Settings) -> None:
    await open_letters(settings, within=WITHIN)


async def shares_out(settings: Settings) -> None:
    await committed(Client(settings), GROUP)


def sees(topic: str, *, configs: bool) -> Probe:
    async def probe(settings: Settings) -> None:
        admin = Admin(**Client(settings))
        try:
            await admin.start()
            found = (await describe(admin, (topic,))).get(topic)
        finally:
            await admin.close()
        if found is None or (configs and found.configs is None):
            raise TopicAuthorizationFailedError(topic)

    return probe


PROBES: Final[dict[tuple[str, str], Probe]] = {
    ("Write", LOG): produces,
    ("Read", LOG): reads,
    ("DescribeConfigs", LOG): sees(LOG, configs=True),
    ("Write", DEAD): writes_letters,
    ("Read", DEAD): reads_letters,
    ("Describe", DEAD): sees(DEAD, configs=False),
    ("DescribeConfigs", DEAD): sees(DEAD, configs=True),
    ("Read", GROUP): shares_out,
    ("Describe", GROUP): shares_out,
}
#: Shown where the topics are made, or by nothing that is cheap.
NOT_PROBED: Final = {("Create", LOG), ("Create", DEAD), ("AlterConfigs", DEAD)}


async def test_each_right_is_needed(broker: SecuredBroker, tmp_path: Path) -> None:
    await produces(as_role(broker, "producer", tmp_path))
    asked = [(role, right) for role, rights in RIGHTS.items() for right in rights]
    probed = [one for one in asked if (one[1].operation, one[1].name) not in NOT_PROBED]

    async def tried(user: str, right: Acl) -> bool:
        try:
            await PROBES[right.operation, right.name](as_role(broker, user, tmp_path))
        except (KafkaError, JobtrailError):
            return False
        return True

    async with asyncio.timeout(DEADLINE):
        whole = await asyncio.gather(*(tried(role, right) for role, right in probed))
        lacking = await asyncio.gather(*(tried(without(*one), one[1]) for one in probed))
    assert [one for one, works in zip(probed, whole, strict=True) if not works] == []
    assert [one for one, works in zip(probed, lacking, strict=True) if works] == []
