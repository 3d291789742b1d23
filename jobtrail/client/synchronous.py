"""The synchronous client: the same code, run on an event loop in its own thread."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Iterator
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from jobtrail.client.asynchronous import Client
from jobtrail.processes.loop_thread import SyncFacade, blocking

_T = TypeVar("_T")
_P = ParamSpec("_P")


def _iterating(
    method: Callable[Concatenate[Client, _P], AsyncGenerator[_T]],
) -> Callable[Concatenate[SyncClient, _P], Iterator[_T]]:
    """Turn an asynchronous generator of `Client` into a blocking one."""

    @functools.wraps(method)
    def iterate(self: SyncClient, /, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T]:
        found = method(self._client, *args, **kwargs)
        try:
            while True:
                try:
                    yield self._thread.run(_next(found))
                except StopAsyncIteration:
                    return
        finally:
            # An iteration that stops early closes its connection; a closed client has none.
            if self._thread.is_running:
                self._thread.run(found.aclose())

    return iterate


async def _next(found: AsyncGenerator[_T]) -> _T:
    return await anext(found)


class SyncClient(SyncFacade[Client]):
    """Asks a jobtrail service from code that is not asynchronous; thread-safe.

    Use it as a context manager. The methods are those of `Client`, with the same arguments.

    Args:
        url: The service, `http://HOST:PORT`.
        token: The caller's token or API key.
        patience: Seconds after which retries of a temporary failure end.
    """

    search = _iterating(Client.search)
    events = _iterating(Client.events)
    job = blocking(Client.job)
    history = _iterating(Client.history)
    summary = blocking(Client.summary)
    bulk = blocking(Client.bulk)
    statuses = blocking(Client.statuses)
    wait = blocking(Client.wait)

    def __init__(self, url: str, token: str, *, patience: float = 30.0) -> None:
        super().__init__("jobtrail-client")
        self._client = Client(url, token, patience=patience)

    @property
    def position(self) -> str | None:
        """Every read waits until the service has this position of the log."""
        return self._client.position

    @position.setter
    def position(self, position: str | None) -> None:
        self._client.position = position

    def _inner(self) -> Client:
        return self._client

    def __enter__(self) -> Self:
        """Start the event loop and open the connections."""
        self._thread.start()
        self._thread.run(self._client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections and end the event loop."""
        self._thread.run(self._client.__aexit__(kind, error, trace))
        self._thread.stop()
