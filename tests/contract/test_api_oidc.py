"""Tokens of an OIDC provider: who is let in, who is not, and where the keys come from."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from jobtrail.access.tokens import LEEWAY, MAX_TOKEN_BYTES, READ_ALL
from services.api.access.jwks import MAX_DOCUMENT, MAX_KEYS
from services.api.limits.limits import Timeouts
from tests.contract.oidc_provider import (
    AUDIENCE,
    OidcProvider,
    bearer,
    compact,
    signer,
)
from tests.contract.oidc_service import EAGER, seen, service, try_to_enter

SECRET = "0123456789abcdef" * 3


@pytest.mark.parametrize("found_by", ["discovery", "jwks_url"])
async def test_a_token_says_who_its_bearer_is(
    tmp_path: Path, provider: OidcProvider, found_by: str
) -> None:
    url = f"{provider.url}/keys" if found_by == "jwks_url" else ""
    async with service(tmp_path, **provider.settings(oidc_jwks_url=url)) as api:
        for one in provider.signers:
            assert await seen(api, one.sign(provider.claims())) == ["hers"]
            member = one.sign(provider.claims(sub="bob", groups=["ops"]))
            assert await seen(api, member) == ["hers"]
            admin = one.sign(provider.claims(sub="root", permissions=[READ_ALL, "jobs:cook"]))
            assert await seen(api, admin) == ["foreign", "hers"]
        # The local service's own tokens are let in beside them.
        assert await seen(api, api.token("eve")) == ["foreign"]
    assert provider.requests == {"configuration": found_by == "discovery", "keys": 1}


async def test_claims_are_taken_from_where_the_settings_say(
    tmp_path: Path, provider: OidcProvider
) -> None:
    options = provider.settings(
        oidc_user_claim="https://example.org/name",
        oidc_groups_claim="realm_access.roles",
        oidc_permissions_claim="scope",
        oidc_algorithms="PS256,EdDSA",
    )
    one = signer("EdDSA", "ed-1")
    provider.signers = [one, signer("RS256", "rsa-1")]
    async with service(tmp_path, **options) as api:
        named = {"sub": "x", "https://example.org/name": "alice"}
        assert await seen(api, one.sign(provider.claims(**named))) == ["hers"]
        named["https://example.org/name"] = "bob"
        assert await seen(api, one.sign(provider.claims(**named))) == []
        roles = {"realm_access": {"roles": ["dev", "ops"]}}
        assert await seen(api, one.sign(provider.claims(**named, **roles))) == ["hers"]
        scope = {"scope": f"openid {READ_ALL}"}
        admin = one.sign(provider.claims(**named, **scope))
        assert await seen(api, admin) == ["foreign", "hers"]
        for claims in (provider.claims(), provider.claims(sub="alice", name="alice")):
            assert (await api.get("/jobs/search", bearer(one.sign(claims)))).status == 401
        rsa = provider.signers[1].sign(provider.claims(**named))
        assert (await api.get("/jobs/search", bearer(rsa))).status == 401


async def test_a_shared_secret_takes_no_server(tmp_path: Path) -> None:
    options = {"oidc_issuer": "a name", "oidc_audience": AUDIENCE, "oidc_secret": SECRET}
    claims = {"iss": "a name", "aud": [AUDIENCE, "x"], "sub": "alice", "exp": 4_000_000_000}
    async with service(tmp_path, **options) as api:
        assert await seen(api, jwt.encode(claims, SECRET)) == ["hers"]
        assert await seen(api, api.token("eve")) == ["foreign"]
        for token in (
            jwt.encode(claims, SECRET, algorithm="HS384"),
            jwt.encode(claims, "x" * 32),
            jwt.encode(claims, api.secret),
            jwt.encode(claims | {"iss": "jobtrail-local"}, SECRET),
            jwt.encode(claims | {"iss": "jobtrail-local", "aud": "jobtrail"}, SECRET),
        ):
            assert (await api.get("/jobs/search", bearer(token))).status == 401


async def test_a_token_without_a_key_id_is_verified_with_the_one_key_that_fits(
    tmp_path: Path, provider: OidcProvider
) -> None:
    one = signer("RS256", None)
    provider.signers = [one]
    async with service(tmp_path, timeouts=EAGER, **provider.settings()) as api:
        assert await seen(api, one.sign(provider.claims())) == ["hers"]
        again = provider.claims(jti="2")
        provider.signers = [one, signer("RS256", "rsa-1")]
        # An unknown key lets the keys be fetched: now there are two that fit.
        other = signer("RS256", "rsa-1").sign(provider.claims())
        assert await seen(api, other) == ["hers"]
        assert (await api.get("/jobs/search", bearer(one.sign(again)))).status == 401


# --- who is not


def bad_tokens(provider: OidcProvider) -> dict[str, str]:
    """Return everything that is nearly a token of the provider."""
    rsa, ec = signer("RS256", "rsa-1"), signer("ES256", "ec-1")
    other = signer("RS256", "other")
    good = provider.claims()
    confused = {"alg": "HS256", "kid": "rsa-1"}
    return {
        "signed with the public key": compact(
            confused, good, lambda text: hmac.digest(rsa.pem(), text, "sha256")
        ),
        "no signature": compact({"alg": "none", "kid": "rsa-1"}, good, lambda _text: b""),
        "no algorithm": rsa.sign(good, alg=None),
        "an algorithm that is a list": rsa.sign(good, alg=["RS256"]),
        "another key under the same id": other.sign(good, kid="rsa-1"),
        "a key of another kind": ec.sign(good, kid="rsa-1"),
        "an unknown key": other.sign(good),
        "a key id that is a list": rsa.sign(good, kid=["rsa-1"]),
        "over": rsa.sign(provider.claims(exp=int(time.time()) - LEEWAY - 2)),
        "not yet": rsa.sign(provider.claims(nbf=int(time.time()) + 60)),
        "another issuer": rsa.sign(provider.claims(iss="https://example.org")),
        "nearly the issuer": rsa.sign(provider.claims(iss=provider.url + "/")),
        "an issuer that is a list": rsa.sign(provider.claims(iss=[provider.url])),
        "the local issuer": rsa.sign(provider.claims(iss="jobtrail-local", aud="jobtrail")),
        "another audience": rsa.sign(provider.claims(aud="jobtrail")),
        "no end": rsa.sign(provider.claims(exp=None)),
        "no issuer": rsa.sign(provider.claims(iss=None)),
        "no audience": rsa.sign(provider.claims(aud=None)),
        "no user": rsa.sign(provider.claims(sub=None)),
        "an empty user": rsa.sign(provider.claims(sub="")),
        "a group that is no name": rsa.sign(provider.claims(groups=["a\nb"])),
        "groups that are no list": rsa.sign(provider.claims(groups={"ops": True})),
        "rules of its own": rsa.sign(good, crit=["exp"], exp=1),
        "the place of a key": rsa.sign(good, jku=f"{provider.url}/keys"),
        "the place of a certificate": rsa.sign(good, x5u=f"{provider.url}/keys"),
        "a key of its own": other.sign(good, kid="rsa-1", jwk=other.jwk),
        "too long": rsa.sign(provider.claims(x="x" * MAX_TOKEN_BYTES)),
        "cut": rsa.sign(good)[:-20],
        "no token": "nonsense",
    }


async def test_every_bad_token_gets_the_same_401(
    tmp_path: Path, provider: OidcProvider, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(tmp_path, **provider.settings()) as api:
        rsa = signer("RS256", "rsa-1")
        # Other than by what is wrong with it, a bad token is as this good one.
        assert await seen(api, rsa.sign(provider.claims())) == ["hers"]
        refusals = {}
        key = "jobtrail_0123456789ab." + "x" * 43
        for what, token in {**bad_tokens(provider), "no such key": key}.items():
            caplog.clear()
            with caplog.at_level("INFO"):
                answer = await try_to_enter(api, f"Bearer {token}")
            refusals[what] = (answer.status, answer.body, answer.headers["WWW-Authenticate"])
            assert "action=refused status=401" in caplog.text
            assert "\n" not in caplog.messages[-1]
        for header in (None, "", "Bearer", f"Basic {rsa.sign(provider.claims())}"):
            answer = await try_to_enter(api, header)
            refusals[str(header)] = (answer.status, answer.body, answer.headers["WWW-Authenticate"])
        assert {what for what, refusal in refusals.items() if refusal[0] != 401} == set()
        assert len(set(refusals.values())) == 1
        # One fetch at the start, and for all of them together no other.
        assert provider.requests["keys"] == 1
        assert len(api.service.gate) == 1


# --- where the keys come from


async def test_a_flood_of_unknown_keys_costs_the_provider_one_fetch(
    tmp_path: Path, provider: OidcProvider
) -> None:
    async with service(tmp_path, **provider.settings()) as api:
        await api.service.gate.prepare()
        assert provider.requests["keys"] == 1
        tokens = [signer("ES256", "ec-1").sign(provider.claims(), kid=f"x{n}") for n in range(60)]
        answers = await asyncio.gather(*(try_to_enter(api, f"Bearer {t}") for t in tokens))
        assert {answer.status for answer in answers} == {401}
        assert provider.requests["keys"] == 1


async def test_all_who_need_keys_share_a_fetch(tmp_path: Path, provider: OidcProvider) -> None:
    async with service(tmp_path, timeouts=EAGER, **provider.settings()) as api:
        await api.service.gate.prepare()
        provider.asked.clear()
        provider.open.clear()
        before = provider.requests["keys"]
        new = signer("ES256", "ec-2")
        provider.signers.append(new)
        tokens = [new.sign(provider.claims(jti=str(n))) for n in range(20)]
        tasks = [asyncio.create_task(seen(api, token)) for token in tokens]
        await provider.asked.wait()
        # While the provider is slow, all others are served.
        assert await seen(api, signer("RS256", "rsa-1").sign(provider.claims())) == ["hers"]
        assert await seen(api, api.token("eve")) == ["foreign"]
        # One who goes away takes nobody with them.
        tasks.pop(0).cancel()
        assert not any(task.done() for task in tasks)
        provider.open.set()
        assert await asyncio.gather(*tasks) == [["hers"]] * 19
        assert provider.requests["keys"] == before + 1


async def test_a_new_key_is_taken_up_and_an_old_one_dropped(
    tmp_path: Path, provider: OidcProvider
) -> None:
    old, new = signer("RS256", "rsa-1"), signer("RS256", "rsa-2")
    provider.signers = [old]
    timeouts = Timeouts(refetch=0, reverify=0)
    async with service(tmp_path, timeouts=timeouts, **provider.settings()) as api:
        token = old.sign(provider.claims())
        assert await seen(api, token) == ["hers"]
        provider.signers = [new]
        assert await seen(api, new.sign(provider.claims())) == ["hers"]
        assert (await try_to_enter(api, f"Bearer {token}")).status == 401


async def test_old_keys_are_fetched_anew_beside_the_requests(
    tmp_path: Path, provider: OidcProvider
) -> None:
    timeouts = Timeouts(refetch=0, refresh=0, reverify=0)
    async with service(tmp_path, timeouts=timeouts, **provider.settings()) as api:
        await api.service.gate.prepare()
        provider.asked.clear()
        provider.open.clear()
        before = provider.requests["keys"]
        token = signer("RS256", "rsa-1").sign(provider.claims())
        assert await seen(api, token) == ["hers"]
        await provider.asked.wait()
        assert await seen(api, token) == ["hers"]
        assert provider.requests["keys"] == before + 1


@pytest.mark.parametrize(
    "illness",
    [
        {"status": 500},
        {"status": 302},
        {"body": b"no JSON"},
        {"body": b"[]"},
        {"body": b'{"keys": []}'},
        {"body": b'{"keys": "many"}'},
        {"body": b'{"keys": [7, {"kty": "oct", "k": "AAAA"}, {"kty": "RSA", "n": "!", "e": 1}]}'},
        {"body": b'{"keys": [' + b",".join([b"{}"] * (MAX_KEYS + 1)) + b"]}"},
        {"body": b" " * (MAX_DOCUMENT + 1)},
        {"issuer": "https://example.org"},
        {"silent": True},
    ],
    ids=str,
)
async def test_a_provider_that_is_ill_leaves_the_keys_as_they_are(
    tmp_path: Path, provider: OidcProvider, illness: dict[str, Any]
) -> None:
    timeouts = Timeouts(refetch=0, provider=0.2)
    async with service(tmp_path, timeouts=timeouts, **provider.settings()) as api:
        one = signer("RS256", "rsa-1")
        good = provider.claims()
        assert await seen(api, one.sign(good)) == ["hers"]
        provider.status = illness.get("status", 200)
        provider.body = illness.get("body")
        provider.issuer = illness.get("issuer", "")
        if "silent" in illness:
            provider.open.clear()
        unknown = signer("ES256", "other").sign(good)
        assert (await try_to_enter(api, f"Bearer {unknown}")).status == 401
        assert await seen(api, one.sign(good | {"jti": "2"})) == ["hers"]


async def test_tokens_wait_for_a_provider_that_has_never_answered(
    tmp_path: Path, provider: OidcProvider
) -> None:
    provider.status = 503
    async with service(tmp_path, timeouts=EAGER, **provider.settings()) as api:
        token = signer("RS256", "rsa-1").sign(provider.claims())
        answer = await try_to_enter(api, f"Bearer {token}")
        assert (answer.status, answer.json["type"].split(":")[-1]) == (503, "keys-unavailable")
        assert answer.headers["Retry-After"] == "10"
        assert await seen(api, api.token("eve")) == ["foreign"]
        provider.status = 200
        assert await seen(api, token) == ["hers"]


async def test_only_public_keys_for_signing_count(tmp_path: Path, provider: OidcProvider) -> None:
    one = signer("RS256", "rsa-1")
    secret = {"kty": "oct", "kid": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}
    encrypting = {**signer("ES256", "ec-1").jwk, "use": "enc"}
    # Some providers say neither what a key is for nor with which algorithm.
    plain = {name: one.jwk[name] for name in ("kty", "kid", "n", "e")}
    keys = [plain, secret, encrypting, {**signer("RS256", "rsa-2").jwk, "alg": "RS512"}]
    provider.body = json.dumps({"keys": keys}).encode()
    async with service(tmp_path, **provider.settings()) as api:
        good = provider.claims()
        assert await seen(api, one.sign(good)) == ["hers"]
        for token in (
            jwt.encode(good, SECRET, headers={"kid": "oct"}),
            signer("ES256", "ec-1").sign(good),
            signer("RS256", "rsa-2").sign(good),
        ):
            assert (await try_to_enter(api, f"Bearer {token}")).status == 401
