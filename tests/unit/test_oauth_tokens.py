"""Tokens for Kafka: fetched in bounded time, once for all, and again before they end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jobtrail.log.kafka import kafka_security
from jobtrail.log.oauth_tokens import ClientCredentials, NoToken, TokenSource
from jobtrail.settings import Settings
from tests.certificates import Authority
from tests.token_server import CLIENT, SECRET, TokenServer, token_server


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="server")
async def serving() -> AsyncIterator[TokenServer]:
    async with token_server() as server:
        yield server


def source(server: TokenServer, **others: Any) -> TokenSource:
    return TokenSource(server.url, CLIENT, SECRET)._replace(**others)


async def until_fetched(provider: ClientCredentials, count: int) -> None:
    async with asyncio.timeout(10):
        while provider.fetches < count or provider.is_fetching:
            await asyncio.sleep(0)


async def test_those_who_ask_at_once_share_one_answer(server: TokenServer) -> None:
    provider = ClientCredentials(source(server, scope="kafka all"))
    tokens = await asyncio.gather(*(provider.token() for _ in range(20)))
    assert len(set(tokens)) == 1
    assert await provider.token() == tokens[0]
    assert server.asked == [{"grant_type": "client_credentials", "scope": "kafka all"}]


async def test_a_token_is_fetched_again_before_it_ends_and_given_until_then(
    server: TokenServer,
) -> None:
    clock = Clock()
    provider = ClientCredentials(source(server), clock=clock)
    first = await provider.token()
    clock.now += 2_699
    assert (await provider.token(), provider.fetches) == (first, 1)
    clock.now += 1
    server.may_answer.clear()
    assert await provider.token() == first
    server.may_answer.set()
    await until_fetched(provider, 2)
    assert await provider.token() != first


async def test_a_token_that_has_nearly_ended_is_not_given(server: TokenServer) -> None:
    clock = Clock()
    provider = ClientCredentials(source(server), clock=clock)
    first = await provider.token()
    clock.now += 3_590
    assert await provider.token() != first


async def test_while_the_endpoint_is_away_the_old_token_is_given_and_seldom_asked_for(
    server: TokenServer,
) -> None:
    clock = Clock()
    provider = ClientCredentials(source(server), clock=clock)
    first = await provider.token()
    clock.now += 3_000
    server.status = 503
    assert await provider.token() == first
    await until_fetched(provider, 2)
    assert [await provider.token() for _ in range(3)] == [first] * 3
    assert provider.fetches == 2
    clock.now += 5
    server.status = 200
    assert await provider.token() == first
    await until_fetched(provider, 3)
    assert await provider.token() != first


async def test_an_endpoint_that_does_not_answer_costs_bounded_time(server: TokenServer) -> None:
    server.may_answer.clear()
    provider = ClientCredentials(source(server, within=0.1))
    with pytest.raises(NoToken, match=r"no answer within 0\.1 s"):
        await provider.token()


async def test_who_gives_up_takes_the_answer_from_nobody(server: TokenServer) -> None:
    server.may_answer.clear()
    provider = ClientCredentials(source(server))
    leaving = asyncio.create_task(provider.token())
    staying = asyncio.create_task(provider.token())
    async with asyncio.timeout(10):
        while not server.asked:
            await asyncio.sleep(0)
    leaving.cancel()
    server.may_answer.set()
    assert await staying
    assert provider.fetches == 1


async def test_a_loop_of_another_thread_gets_tokens_too(server: TokenServer) -> None:
    provider = ClientCredentials(source(server))
    found: list[str] = []
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def other() -> None:
        found.append(asyncio.run(provider.token()))
        loop.call_soon_threadsafe(ended.set)

    thread = threading.Thread(target=other)
    thread.start()
    async with asyncio.timeout(10):
        await ended.wait()
    thread.join()
    assert found == [await provider.token()]


GOOD = {"access_token": "abc", "token_type": "bearer", "expires_in": 60}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([], "a JSON object"),
        (GOOD | {"access_token": "a\x01auth=b"}, "`access_token`"),
        (GOOD | {"access_token": None}, "`access_token`"),
        (GOOD | {"token_type": "mac"}, "`token_type` Bearer"),
        (GOOD | {"expires_in": "soon"}, "`expires_in` in seconds"),
        (GOOD | {"expires_in": 0}, "`expires_in` above 0"),
        (GOOD | {"access_token": "a" * 70_000}, "at most 65536 bytes"),
    ],
)
async def test_an_answer_of_another_form_is_refused(
    server: TokenServer, answer: object, why: str
) -> None:
    server.instead = answer
    with pytest.raises(NoToken, match=f"expected.*{why}"):
        await ClientCredentials(source(server)).token()


@pytest.mark.parametrize("lifetime", [None, "60"])
async def test_a_lifetime_may_be_absent_or_a_text(
    server: TokenServer, lifetime: str | None
) -> None:
    server.lifetime = lifetime
    assert await ClientCredentials(source(server)).token()


async def test_a_wrong_secret_is_said_by_the_errors_name_and_nothing_secret_with_it(
    server: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # The server of the test writes down what it is asked.
    caplog.set_level(logging.WARNING, "aiohttp.access")
    url = f"{server.url}?key=hidden"
    provider = ClientCredentials(source(server, client_secret="wrong secret", url=url))
    with pytest.raises(NoToken, match=r"found 401 \(invalid_client\)") as refused:
        await provider.token()
    right = ClientCredentials(source(server))
    token = await right.token()
    said = f"{refused.value}{provider!r}{right!r}{caplog.text}"
    assert "action=oauth_token_not_fetched" in said
    for secret in ("wrong secret", "hidden", SECRET, token):
        assert secret not in said


def test_the_settings_make_a_provider(tmp_path: Any) -> None:
    authority = Authority(tmp_path)
    settings = Settings(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        sasl_oauth_token_url="https://id.example.org/token",
        sasl_oauth_client_id=CLIENT,
        sasl_oauth_client_secret=SECRET,
        sasl_oauth_cafile=authority.file,
    )
    found = kafka_security(settings)
    assert isinstance(found.pop("sasl_oauth_token_provider"), ClientCredentials)
    assert found == {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
    assert SECRET not in repr(settings)
