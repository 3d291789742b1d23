"""Tokens of the local service: what is let in, and everything that is not."""

from __future__ import annotations

import base64
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtrail.access.tokens import (
    AUDIENCE,
    ISSUER,
    LEEWAY,
    MAX_TOKEN_BYTES,
    READ_ALL,
    WRITE,
    Claims,
    TokenError,
    local_secret,
    make_token,
    read_token,
)
from jobtrail.core.errors import SettingError, UsageError
from projections.ports.read import Caller
from services.api.access.auth import Gate
from services.api.problems.problems import Problem

SECRET = bytes(range(32))
FAR = 4_000_000_000
GOOD: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": FAR}


def signed(
    claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any
) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def b64(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def unsigned() -> str:
    header = json.dumps({"alg": "none", "typ": "JWT"}).encode()
    return f"{b64(header)}.{b64(json.dumps(GOOD).encode())}."


# --- the secret


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    secret = local_secret(folder)
    assert len(secret) == 32
    assert local_secret(folder) == secret
    assert local_secret(tmp_path) != secret
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["secret"]


def test_processes_that_start_at_once_have_the_same_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        secrets = set(threads.map(local_secret, [tmp_path] * 64))
    assert len(secrets) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o666, 0o602])
def test_a_secret_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    local_secret(tmp_path)
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(SettingError) as caught:
        local_secret(tmp_path)
    assert caught.value.found == f"mode {mode:04o}"


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 64])
def test_what_is_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    handle = os.open(tmp_path / "secret", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    with pytest.raises(SettingError) as caught:
        local_secret(tmp_path)
    assert caught.value.where == str(tmp_path / "secret")


# --- tokens


def test_a_token_says_who_its_bearer_is() -> None:
    issued = 1_600_000_000
    lifetime = timedelta(seconds=FAR - issued)
    token = make_token(SECRET, "alice", ["stewards", "ops"], [READ_ALL, WRITE], lifetime, at=issued)
    assert read_token(SECRET, token) == Claims(
        "alice", ("stewards", "ops"), frozenset({READ_ALL, WRITE}), FAR
    )


def test_the_least_token_has_no_groups_and_no_permissions() -> None:
    assert read_token(SECRET, signed(GOOD)) == Claims("alice", (), frozenset(), FAR)


@pytest.mark.parametrize("user", ["", "x" * 257, "a\x00b", "a\nb", "\x7f"])
def test_no_token_is_made_for_what_is_no_name(user: str) -> None:
    for users in ({"user": user}, {"user": "alice", "groups": [user]}):
        with pytest.raises(UsageError):
            make_token(SECRET, **users)  # type: ignore[arg-type]


def test_no_token_is_made_for_an_unknown_permission_or_too_many_groups() -> None:
    with pytest.raises(UsageError):
        make_token(SECRET, "alice", permissions=["jobs:read"])
    with pytest.raises(UsageError):
        make_token(SECRET, "alice", groups=["x" * 200] * 50)


BAD = {
    "another secret": signed(GOOD, key=b"x" * 32),
    "another algorithm": signed(GOOD, key=b"x" * 64, algorithm="HS512"),
    "another algorithm, our secret": signed(GOOD, key=SECRET * 2, algorithm="HS384"),
    "no signature": unsigned(),
    "over": make_token(SECRET, "alice", lifetime=timedelta(seconds=-LEEWAY - 2)),
    "no end": signed(without("exp")),
    "no user": signed(without("sub")),
    "no issuer": signed(without("iss")),
    "no audience": signed(without("aud")),
    "another issuer": signed(GOOD | {"iss": "somebody"}),
    "another audience": signed(GOOD | {"aud": "something"}),
    "not yet": signed(GOOD | {"nbf": FAR - 1}),
    "issued in the future": signed(GOOD | {"iat": FAR - 1}),
    "an end that is no number": signed(GOOD | {"exp": "soon"}),
    "an endless end": signed(GOOD | {"exp": float("inf")}),
    "an end that is not a number": signed(GOOD | {"exp": float("nan")}),
    "a user that is no text": signed(GOOD | {"sub": 7}),
    "an empty user": signed(GOOD | {"sub": ""}),
    "a user with control characters": signed(GOOD | {"sub": "alice\x00"}),
    "groups that are no list": signed(GOOD | {"groups": "stewards"}),
    "groups that are no names": signed(GOOD | {"groups": [["stewards"]]}),
    "permissions that are no list": signed(GOOD | {"permissions": {READ_ALL: True}}),
    "a key of its own": signed(GOOD, jwk={"kty": "oct", "k": b64(SECRET)}),
    "the place of a key": signed(GOOD, jku="https://example.test/keys"),
    "the place of a certificate": signed(GOOD, x5u="https://example.test/cert"),
    "rules of its own": signed(GOOD, crit=["b64"], b64=True),
    "too long": signed(GOOD | {"x": "x" * MAX_TOKEN_BYTES}),
    "deep": f"{b64(b'[' * 6000)}.e30.e30",
    "no token": "token",
    "three parts": "a.b.c",
    "nothing": "",
    "not ascii": "tökén.x.y",
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_token_proves_nothing(reason: str) -> None:
    with pytest.raises(TokenError):
        read_token(SECRET, BAD[reason])


@given(st.text(max_size=300))
def test_no_text_is_a_token_or_breaks_the_reader(text: str) -> None:
    with pytest.raises(TokenError):
        read_token(SECRET, text)


@given(st.data())
def test_a_token_that_was_changed_is_refused(data: st.DataObject) -> None:
    token = signed(GOOD)
    # The last character of a part may carry bits that mean nothing.
    places = [i for i in range(len(token) - 1) if "." not in token[i : i + 2]]
    at = data.draw(st.sampled_from(places))
    other = data.draw(st.sampled_from("ABCabc019-_").filter(lambda c: c != token[at]))
    with pytest.raises(TokenError):
        read_token(SECRET, token[:at] + other + token[at + 1 :])


# --- the gate


def test_the_gate_knows_the_caller_again() -> None:
    gate = Gate(SECRET)
    header = "Bearer " + signed(GOOD | {"groups": ["ops"], "permissions": [READ_ALL]})
    first = gate.identify(header)
    assert first.caller == Caller("alice", ("ops",), reads_all=True)
    assert gate.identify(header) is first
    assert gate.identify(header.replace("Bearer ", "bearer  ")).caller == first.caller


def test_every_way_to_be_refused_looks_the_same() -> None:
    gate = Gate(SECRET)
    headers = [
        None,
        "",
        "Bearer",
        "Basic YTpi",
        signed(GOOD),
        *(f"Bearer {t}" for t in BAD.values()),
    ]
    refusals = set()
    for header in headers:
        with pytest.raises(Problem) as caught:
            gate.identify(header)
        problem = caught.value
        refusals.add((problem.status, problem.body(), *problem.headers.items()))
    ((status, _body, challenge),) = refusals
    assert status == 401
    assert challenge == ("WWW-Authenticate", 'Bearer realm="jobtrail"')


def test_many_tokens_do_not_fill_the_memory() -> None:
    gate = Gate(SECRET, room=100_000)
    identities = {
        gate.identify("Bearer " + signed(GOOD | {"sub": f"user-{n}"})).caller.user
        for n in range(300)
    }
    assert len(identities) == 300
    assert 10 < len(gate) < 100
