"""A token endpoint on this machine (RFC 6749, client credentials), for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import BasicAuth, web

CLIENT = "a client"
SECRET = "not to be shown: é&="
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TokenServer:
    """Answers as it is told to, and remembers what it was asked.

    Its tokens are unsecured JWS (RFC 7515, appendix A.5), which Kafka's own test validator takes.
    """

    def __init__(self) -> None:
        #: Who the tokens are for.
        self.subject = "jobtrail"
        self.lifetime: float | str | None = 3600
        #: In place of a token, where it is set.
        self.instead: Any = None
        self.status = 200
        #: Cleared: nobody is answered.
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        #: The forms that were sent, by those who know the secret.
        self.asked: list[dict[str, str]] = []
        self.url = ""

    def token(self) -> str:
        """Return a new token."""
        now = int(time.time())
        claims = {"sub": self.subject, "iat": now, "exp": now + 3600, "jti": str(len(self.asked))}
        return jwt.encode(claims, None, algorithm="none")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for a token."""
        who = BasicAuth.decode(request.headers["Authorization"])
        if (who.login, who.password) != ("a+client", "not+to+be+shown%3A+%C3%A9%26%3D"):
            return web.json_response({"error": "invalid_client"}, status=401)
        form = await request.post()
        self.asked.append({name: str(value) for name, value in form.items()})
        await self.may_answer.wait()
        answer = {"access_token": self.token(), "token_type": "Bearer"}
        if self.lifetime is not None:
            answer["expires_in"] = self.lifetime  # type: ignore[assignment]
        found = answer if self.instead is None else self.instead
        return web.json_response(found, status=self.status)


@asynccontextmanager
async def token_server() -> AsyncIterator[TokenServer]:
    """Serve tokens at a free port of the loopback."""
    server = TokenServer()
    app = web.Application()
    app.router.add_post("/token", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}/token"
        yield server
    finally:
        server.may_answer.set()
        await runner.cleanup()
