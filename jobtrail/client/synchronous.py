"""The client's synchronous face: the same code, run on an event loop of its own thread."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from jobtrail.blocking import LoopThread
from jobtrail.client.asynchronous import Client

_T = TypeVar("_T")
_P = ParamSpec("_P")


def _blocking(
    method: Callable[Concatenate[Client, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[SyncClient, _P], _T]:
    """Return a method of `Client` as one that blocks."""

    @functools.wraps(method)
    def call(self: SyncClient, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._run(method(self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[Client, _P], AsyncGenerator[_T]],
) -> Callable[Concatenate[SyncClient, _P], Iterator[_T]]:
    """Return an asynchronous generator of `Client` as one that blocks."""

    @functools.wraps(method)
    def iterate(self: SyncClient, /, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T]:
        found = method(self._client, *args, **kwargs)
        try:
            while True:
                try:
                    yield self._run(_next(found))
                except StopAsyncIteration:
                    return
        finally:
            # Who stops in the middle lets go of the connection; a closed client has none.
            if self._thread.is_running:
                self._run(found.aclose())

    return iterate


async def _next(found: AsyncGenerator[_T]) -> _T:
    return await anext(found)


class SyncClient:
    """Asks a jobtrail service from code that is not asynchronous; thread-safe.

    Use it as a context manager. The methods are those of `Client`, with the same arguments.

    Args:
        url: The service, `http://HOST:PORT`.
        token: Who asks.
        patience: Seconds after which a passing failure is given up.
    """

    search = _iterating(Client.search)
    events = _iterating(Client.events)
    summary = _blocking(Client.summary)
    bulk = _blocking(Client.bulk)
    statuses = _blocking(Client.statuses)
    wait = _blocking(Client.wait)

    def __init__(self, url: str, token: str, *, patience: float = 30.0) -> None:
        self._client = Client(url, token, patience=patience)
        self._thread = LoopThread("jobtrail-client")

    @property
    def position(self) -> str | None:
        """Every read waits until the service holds this position of the log."""
        return self._client.position

    @position.setter
    def position(self, position: str | None) -> None:
        self._client.position = position

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._thread.run(work)

    def __enter__(self) -> Self:
        """Start the event loop and open the connections."""
        self._thread.start()
        self._run(self._client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections and end the event loop."""
        self._run(self._client.__aexit__(kind, error, trace))
        self._thread.stop()
