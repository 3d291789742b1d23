"""Keys of an OIDC provider that change, and claims of another form than usual."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobtrail.access.tokens import READ_ALL
from tests.contract.api_service import running
from tests.contract.oidc_provider import (
    OidcProvider,
    Signer,
    compact,
)
from tests.contract.oidc_service import EAGER, seen, service, try_to_enter


@pytest.mark.parametrize("key_id", ["rsa-1", None])
async def test_a_key_that_is_replaced_under_its_id_counts_at_once(
    tmp_path: Path, provider: OidcProvider, key_id: str | None
) -> None:
    old, new = Signer("RS256", key_id), Signer("RS256", key_id)
    provider.signers = [old]
    async with service(tmp_path, timeouts=EAGER, **provider.settings()) as api:
        assert await seen(api, old.sign(provider.claims())) == ["hers"]
        provider.signers = [new]
        assert await seen(api, new.sign(provider.claims())) == ["hers"]
        forged = old.sign(provider.claims(sub="eve"))
        assert (await try_to_enter(api, f"Bearer {forged}")).status == 401


async def test_forged_tokens_cost_the_provider_one_fetch(
    tmp_path: Path, provider: OidcProvider
) -> None:
    forger = Signer("RS256", "rsa-1")
    async with service(tmp_path, **provider.settings()) as api:
        assert await seen(api, provider.signers[0].sign(provider.claims())) == ["hers"]
        for number in range(5):
            forged = forger.sign(provider.claims(jti=str(number)))
            assert (await try_to_enter(api, f"Bearer {forged}")).status == 401
        assert provider.requests["keys"] == 1
        assert await seen(api, provider.signers[0].sign(provider.claims())) == ["hers"]


async def test_each_of_two_keys_of_one_id_may_sign(tmp_path: Path, provider: OidcProvider) -> None:
    provider.signers = [Signer("RS256", "same"), Signer("RS256", "same"), Signer("ES256", "same")]
    async with service(tmp_path, **provider.settings()) as api:
        for one in provider.signers:
            assert await seen(api, one.sign(provider.claims())) == ["hers"]
        forged = Signer("RS256", "same").sign(provider.claims())
        assert (await try_to_enter(api, f"Bearer {forged}")).status == 401


KEY_MEMBERS: list[tuple[dict[str, Any], int]] = [
    ({"key_ops": ["verify"]}, 200),
    ({"key_ops": ["verify", "encrypt"]}, 200),
    ({"key_ops": ["encrypt"]}, 401),
    ({"key_ops": []}, 401),
    ({"key_ops": "verify"}, 401),
    ({"key_ops": None}, 401),
    ({"use": "enc"}, 401),
    ({"use": ["sig"]}, 401),
]


async def test_a_key_does_only_what_it_is_for(tmp_path: Path, provider: OidcProvider) -> None:
    one = provider.signers[0]
    keys = [{**one.jwk, **more, "kid": f"k{n}"} for n, (more, _) in enumerate(KEY_MEMBERS)]
    provider.body = json.dumps({"keys": keys}).encode()
    async with service(tmp_path, **provider.settings()) as api:
        for number, (more, status) in enumerate(KEY_MEMBERS):
            token = one.sign(provider.claims(), kid=f"k{number}")
            assert (await try_to_enter(api, f"Bearer {token}")).status == status, more


HUGE = 10**400
ODD_INSTANTS = ("4000000000", " 4000000000 ", [4_000_000_000], True, {}, HUGE)
ODD_CLAIMS = ("\ud800", ["\ud800"], {"\udfff": 1}, HUGE, [HUGE], [[HUGE]])


async def test_a_signed_token_with_odd_claims_is_refused(
    tmp_path: Path, provider: OidcProvider
) -> None:
    odd = [{name: value} for name in ("exp", "nbf", "iat") for value in ODD_INSTANTS]
    names = ("sub", "groups", "permissions", "x")
    odd += [{name: value} for name in names for value in ODD_CLAIMS]
    async with service(tmp_path, **provider.settings()) as api:
        local = provider.claims(iss="jobtrail-local", aud="jobtrail")
        for claims in odd:
            for token in (
                provider.signers[0].sign(provider.claims(**claims)),
                compact({"alg": "HS256"}, local | claims, signed_with(api.secret)),
            ):
                answer = await try_to_enter(api, f"Bearer {token}")
                assert answer.status == 401, claims
    async with running(tmp_path / "local") as api:
        for claims in odd:
            token = compact({"alg": "HS256"}, local | claims, signed_with(api.secret))
            assert (await try_to_enter(api, f"Bearer {token}")).status == 401, claims


def signed_with(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda text: hmac.digest(secret, text, "sha256")


@pytest.mark.parametrize(
    ("separator", "expected"),
    [
        ("", {"ops": 1, "Data ops": 0, "ops Data": 0, "ops,x": 0, " ops": 0}),
        (" ", {"Data ops": 1, "Data\u00a0ops": 0, "ops\t": 0, "Data  ops ": 1}),
        (",", {"Data Stewards,ops": 1, "Data Stewards, ops": 0, "ops,": 1}),
    ],
)
async def test_a_text_is_one_group_unless_a_separator_is_set(
    tmp_path: Path, provider: OidcProvider, separator: str, expected: dict[str, int]
) -> None:
    options = provider.settings(oidc_groups_separator=separator)
    async with service(tmp_path, **options) as api:
        for groups, sees in expected.items():
            token = provider.signers[0].sign(provider.claims(sub="bob", groups=groups))
            if "\t" in groups:
                assert (await try_to_enter(api, f"Bearer {token}")).status == 401
            else:
                assert await seen(api, token) == ["hers"] * sees, groups
        # What is a list already is parted no further.
        token = provider.signers[0].sign(provider.claims(sub="bob", groups=["x ops", "x,ops"]))
        assert await seen(api, token) == []


async def test_permissions_are_parted_by_a_space_and_nothing_else(
    tmp_path: Path, provider: OidcProvider
) -> None:
    one = provider.signers[0]
    async with service(tmp_path, **provider.settings()) as api:
        for space in ("\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\t", ",", ""):
            scope = f"openid{space}{READ_ALL}"
            token = one.sign(provider.claims(sub="bob", permissions=scope))
            assert await seen(api, token) == [], repr(space)
        token = one.sign(provider.claims(sub="bob", permissions=f"openid  {READ_ALL} "))
        assert await seen(api, token) == ["foreign", "hers"]
