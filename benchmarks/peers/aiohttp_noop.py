"""An aiohttp handler that does nothing, on the API's own server settings and event loop.

`python -m benchmarks.peers.aiohttp_noop` says `ready URL` and runs until standard input ends.
"""

from __future__ import annotations

import asyncio
import socket

import uvloop
from aiohttp import web

from jobtrail.processes.runtime import end_with_parent
from jobtrail.settings import Settings
from services.api.limits.limits import Bounds, Timeouts
from services.api.serving.protocol import Runner


async def _nothing(_request: web.Request) -> web.Response:
    return web.Response(body=b"{}", content_type="application/json")


async def _run() -> None:
    stop = asyncio.Event()
    end_with_parent(stop)
    app = web.Application()
    app.router.add_get("/nothing", _nothing)
    runner = Runner(app, Bounds.of(Settings()), Timeouts(), shutdown_timeout=1.0)
    await runner.setup()
    try:
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        await web.SockSite(runner, listener).start()
        print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(_run())
