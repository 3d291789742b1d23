"""Kafka as others run it: every way in to produce, fold, answer and wait; and no topic by chance.

One broker for all of it, which makes each topic that somebody asks about, unless they say no.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from jobtrail.access.tokens import local_secret, make_token
from jobtrail.core.errors import LogUnavailable
from jobtrail.local.checks import examine
from jobtrail.log.dead_topic import open_letters
from jobtrail.log.kafka import Client
from jobtrail.log.log_range import LogRange
from jobtrail.log.questions import Log
from jobtrail.produce.job_producer import JobProducer
from jobtrail.settings import Settings, as_environment
from services.broker.topics import ensure_topics
from tests.processes import Process, api, clean_environment, projector
from tests.secured_brokers import CERTIFIED, PASSWORD, SCRAM_256, SCRAM_512, SecuredBroker
from tests.token_server import CLIENT, SECRET, TokenServer, token_server

DEADLINE = 60
USER = "plain"
SUBJECT = "by-token"


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecuredBroker]:
    mighty = (USER, SUBJECT, SCRAM_256, SCRAM_512, CERTIFIED)
    broker = SecuredBroker(tmp_path_factory.mktemp("secured"), (), mighty)
    async with broker.running():
        yield broker


@pytest.fixture(scope="module")
async def tokens() -> AsyncIterator[TokenServer]:
    async with token_server() as server:
        server.subject = SUBJECT
        yield server


Way = Callable[[SecuredBroker, TokenServer], dict[str, Any]]


def by_password(mechanism: str, user: str) -> Way:
    return lambda broker, _tokens: {
        "bootstrap_servers": broker.address("PASSWORDS"),
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": mechanism,
        "sasl_username": user,
        "sasl_password": PASSWORD,
        "ssl_cafile": broker.authority.file,
    }


def by_token(broker: SecuredBroker, tokens: TokenServer) -> dict[str, Any]:
    return {
        "bootstrap_servers": broker.address("TOKENS"),
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_url": tokens.url,
        "sasl_oauth_client_id": CLIENT,
        "sasl_oauth_client_secret": SECRET,
        "sasl_oauth_scope": "kafka",
    }


def by_certificate(broker: SecuredBroker, _tokens: TokenServer) -> dict[str, Any]:
    return {
        "bootstrap_servers": broker.address("CERTIFICATES"),
        "security_protocol": "SSL",
        "ssl_cafile": broker.authority.file,
        "ssl_certfile": broker.client.certificate,
        "ssl_keyfile": broker.client.key,
        "ssl_key_password": PASSWORD,
    }


WAYS = {
    "PLAIN": by_password("PLAIN", USER),
    "SCRAM-SHA-256": by_password("SCRAM-SHA-256", SCRAM_256),
    "SCRAM-SHA-512": by_password("SCRAM-SHA-512", SCRAM_512),
    "OAUTHBEARER": by_token,
    "certificate": by_certificate,
}


def settings_for(folder: Path, way: dict[str, Any]) -> Settings:
    name = uuid.uuid4().hex[:8]
    found = {
        "data_dir": folder / name,
        "topic": f"jobs-{name}",
        "dead_topic": f"dead-{name}",
        "group": f"group-{name}",
        "partitions": 2,
        "port": 0,
        **way,
    }
    settings = Settings(**found)
    settings.data_dir.mkdir(mode=0o700)
    return settings


def said(settings: Settings) -> str:
    """Return all that processes have written."""
    return "".join(file.read_text() for file in settings.data_dir.rglob("*.log"))


@pytest.mark.parametrize("way", WAYS)
async def test_produce_fold_answer_and_wait(
    broker: SecuredBroker, tokens: TokenServer, running: list[Process], tmp_path: Path, way: str
) -> None:
    settings = settings_for(tmp_path, WAYS[way](broker, tokens))
    await ensure_topics(settings.bootstrap_servers, settings)
    folding, answering = projector(settings), api(settings)
    running += [folding, answering]
    _, url = await asyncio.gather(folding.start(), answering.start())
    token = make_token(local_secret(settings.data_dir), "alice", (), ())
    async with (
        asyncio.timeout(DEADLINE),
        JobProducer("//test", settings=settings) as producer,
        aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {token}"}) as session,
    ):
        await producer.created("job", owner="alice", job_type="t")
        while (await session.get("/readyz")).status != 200:
            pass
        waiting = asyncio.create_task(state_of(session, wait=60))
        while "\njobtrail_waits_held 1" not in await text_of(session, "/metrics"):
            pass
        await producer.active("job")
        position = await producer.completed("job")
        assert await waiting == "completed"
        seen = {"Jobtrail-Position": position}
        async with session.get("/jobs/job", headers=seen) as answer:
            assert (await answer.json())["state"] == "completed"
    for secret in (PASSWORD, SECRET):
        assert secret not in said(settings)


async def state_of(session: aiohttp.ClientSession, wait: int) -> str | None:
    asked = {"jobIds": ["job"], "wait": wait, "includeUnknown": True}
    async with session.post("/jobs/statuses", json=asked) as answer:
        assert answer.status == 200, await answer.text()
        found: str | None = (await answer.json())["job"]["state"]
        return found


async def text_of(session: aiohttp.ClientSession, path: str) -> str:
    async with session.get(path) as answer:
        return await answer.text()


async def test_tokens_are_asked_for_with_the_scope(
    broker: SecuredBroker, tokens: TokenServer, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, by_token(broker, tokens))
    await ensure_topics(settings.bootstrap_servers, settings)
    assert tokens.asked[-1] == {"grant_type": "client_credentials", "scope": "kafka"}


@pytest.mark.parametrize(
    ("way", "wrong"),
    [
        ("PLAIN", {"sasl_password": "wrong"}),
        ("SCRAM-SHA-512", {"sasl_password": "wrong"}),
        ("SCRAM-SHA-256", {"sasl_username": "nobody"}),
        ("PLAIN", {"ssl_cafile": None}),
        ("OAUTHBEARER", {"sasl_oauth_client_secret": "wrong"}),
        ("certificate", {"ssl_certfile": None, "ssl_keyfile": None, "ssl_key_password": ""}),
    ],
)
async def test_nobody_gets_in_with_less(
    broker: SecuredBroker, tokens: TokenServer, tmp_path: Path, way: str, wrong: dict[str, Any]
) -> None:
    settings = settings_for(tmp_path, WAYS[way](broker, tokens) | wrong)
    with pytest.raises(LogUnavailable) as refused:
        await Log(settings.topic, Client(settings)).__aenter__()
    assert PASSWORD not in str(refused.value)


async def test_a_host_that_the_certificate_does_not_name_is_refused_unless_told_otherwise(
    broker: SecuredBroker, tokens: TokenServer, tmp_path: Path
) -> None:
    way = by_certificate(broker, tokens)
    port = way["bootstrap_servers"].rpartition(":")[2]
    settings = settings_for(tmp_path, way | {"bootstrap_servers": f"localhost:{port}"})
    with pytest.raises(LogUnavailable):
        await Log(settings.topic, Client(settings)).__aenter__()
    lax = settings.model_copy(update={"ssl_check_hostname": False})
    await ensure_topics(lax.bootstrap_servers, lax)
    async with Log(lax.topic, Client(lax)) as log:
        assert log.partitions == lax.partitions
    told = await examine(lax)
    assert {f.level for f in told if f.check == "topics"} == {"ok"}
    assert PASSWORD not in repr(told)


# --- no topic is made by chance


async def test_nothing_of_ours_has_a_topic_made_by_asking_about_it(
    broker: SecuredBroker, running: list[Process], tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, {"bootstrap_servers": broker.address("OPEN")})
    before = await broker.topics()
    folding, answering = projector(settings), api(settings)
    running += [folding, answering]
    async with asyncio.timeout(DEADLINE):
        await folding.spawn()
        await answering.start()
        errors = await asyncio.gather(
            *(refusal(asking) for asking in ways_to_ask(settings)),
            until_said(folding),
            until_said(answering),
            by_command(settings, "replay"),
            by_command(settings, "dead", "list"),
        )
    for error in errors:
        assert "There is no topic" in error
        assert f"services.broker.topics --bootstrap-servers {settings.bootstrap_servers}" in error
    missing = [f.found for f in await examine(settings) if f.check == "topics"]
    assert missing == [f"there is no topic {t}" for t in (settings.topic, settings.dead_topic)]
    assert await broker.topics() == before
    # One that does not say no makes it.
    async with AIOKafkaConsumer(bootstrap_servers=settings.bootstrap_servers) as consumer:
        consumer.assign([TopicPartition(settings.topic, 0)])
        async with asyncio.timeout(DEADLINE):
            while settings.topic not in await broker.topics():
                pass


def ways_to_ask(settings: Settings) -> list[Callable[[], Awaitable[Any]]]:
    async def producing() -> None:
        async with JobProducer("//test", settings=settings) as producer:
            await producer.created("job", owner="alice", job_type="t")

    return [
        producing,
        Log(settings.topic, Client(settings)).__aenter__,
        LogRange(settings).__aenter__,
        lambda: open_letters(settings, within=DEADLINE),
    ]


async def refusal(asking: Callable[[], Awaitable[Any]]) -> str:
    with pytest.raises(LogUnavailable) as refused:
        await asking()
    return str(refused.value)


async def until_said(process: Process) -> str:
    """Return what a process has logged, once it has said that there is no topic."""
    ended = asyncio.create_task(process.child.wait())
    while "There is no topic" not in (text := process.log.read_text()):
        assert not ended.done(), text
        # The machine is the processes', which have much to load.
        await asyncio.wait([ended], timeout=0.1)
    ended.cancel()
    return text


async def by_command(settings: Settings, *arguments: str) -> str:
    """Run a command that fails; return what it says."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jobtrail", *arguments),
        env={**clean_environment(), **as_environment(settings)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await child.communicate()
    assert child.returncode == 1
    return errors.decode()
