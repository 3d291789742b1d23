"""An OIDC provider for the tests: a real server on loopback, and the keys that it signs with."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "jobs"


def compact(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """Return a token as no library would make it: whatever it is given goes in, None does not."""
    header = {name: value for name, value in header.items() if value is not None}
    signed = b".".join(b64(json.dumps(part).encode()) for part in (header, claims))
    return b".".join((signed, b64(sign(signed)))).decode()


def b64(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


class Signer:
    """A private key, and what is published of it."""

    def __init__(self, algorithm: str, key_id: str | None) -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self.private: Any
        if algorithm.startswith("ES"):
            self.private = ec.generate_private_key(ec.SECP256R1())
            public: Any = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        elif algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
            public = OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        else:
            self.private = rsa.generate_private_key(65537, 2048)
            public = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        self.jwk: dict[str, Any] = {**public, "use": "sig", "alg": algorithm}
        if key_id is not None:
            self.jwk["kid"] = key_id

    def pem(self) -> bytes:
        """Return the public key as anybody may have it."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, claims: dict[str, Any], **headers: Any) -> str:
        """Return a token; `headers` come on top of the key's own."""
        header = {"alg": self.algorithm, "kid": self.key_id, **headers}
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        return compact(header, claims, lambda text: algorithm.sign(text, self.private))


@cache
def signer(algorithm: str, key_id: str | None) -> Signer:
    """Return a key; it is made once, which takes a while."""
    return Signer(algorithm, key_id)


class OidcProvider:
    """Publishes its configuration and its keys; a test says which, and when it is ill."""

    def __init__(self) -> None:
        self.url = ""
        #: What it calls itself; empty for its URL.
        self.issuer = ""
        self.signers = [signer("RS256", "rsa-1"), signer("ES256", "ec-1")]
        self.requests = {"configuration": 0, "keys": 0}
        #: What is sent in place of the keys.
        self.status = 200
        self.body: bytes | None = None
        #: The keys come once this is set.
        self.open = asyncio.Event()
        self.open.set()
        #: Set when somebody has asked for the keys.
        self.asked = asyncio.Event()

    def claims(self, **others: Any) -> dict[str, Any]:
        """Return what a good token says; None takes a claim out."""
        claims = {
            "iss": self.issuer or self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "exp": int(time.time()) + 3600,
            **others,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def settings(self, **others: Any) -> dict[str, Any]:
        """Return the settings that let its tokens in."""
        return {"oidc_issuer": self.url, "oidc_audience": AUDIENCE, **others}

    async def configuration(self, _request: web.Request) -> web.Response:
        self.requests["configuration"] += 1
        return web.json_response(
            {"issuer": self.issuer or self.url, "jwks_uri": f"{self.url}/keys"}
        )

    async def keys(self, _request: web.Request) -> web.Response:
        self.requests["keys"] += 1
        self.asked.set()
        await self.open.wait()
        body = self.body
        if body is None:
            body = json.dumps({"keys": [signer.jwk for signer in self.signers]}).encode()
        return web.Response(body=body, status=self.status, content_type="application/json")


@contextlib.asynccontextmanager
async def oidc_provider() -> AsyncIterator[OidcProvider]:
    """Run a provider on a free port."""
    provider = OidcProvider()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider.configuration)
    app.router.add_get("/keys", provider.keys)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.url = f"http://127.0.0.1:{site.port}"
    try:
        yield provider
    finally:
        provider.open.set()
        await runner.cleanup()


def bearer(token: str) -> dict[str, str]:
    """Return the header that sends a token."""
    return {"Authorization": f"Bearer {token}"}
