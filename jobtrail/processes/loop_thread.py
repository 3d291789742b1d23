"""A synchronous interface to asynchronous code: an event loop in its own thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

_A = TypeVar("_A")
_T = TypeVar("_T")
_P = ParamSpec("_P")


class LoopThread:
    """Runs coroutines for threads that block until they are done.

    A fork copies no threads: in a forked process the loop does not run, and can be started again.
    Only one thread at a time may start it.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread runs, in this process."""
        return self._loop is not None and self._pid == os.getpid()

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        run = functools.partial(_run_without_signals, self._loop)
        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()
        self._pid = os.getpid()

    def submit(self, work: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine, in the context of the caller; return its future."""
        assert self._loop is not None, "the thread has not been started"
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine and return its result; an interrupt cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or not self.is_running:
            return
        self._loop = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _run_without_signals(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop in this thread, with all signals blocked.

    A signal that the other threads have blocked would otherwise be delivered here, and end the
    process. Celery's pool relies on blocking: a child is sent SIGTERM as soon as it has reported
    its end, when it may still have the lock of the pipe that it reported on; if it dies there, no
    other child can continue.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    loop.run_forever()


class SyncFacade(ABC, Generic[_A]):
    """The synchronous interface of an asynchronous object, which runs in its own thread.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._thread = LoopThread(name)

    @abstractmethod
    def _inner(self) -> _A:
        """Return the asynchronous object, with its thread running."""

    def _run(self, work: Callable[[_A], Coroutine[Any, Any, _T]]) -> _T:
        inner = self._inner()
        return self._thread.run(work(inner))


def blocking(
    method: Callable[Concatenate[_A, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[SyncFacade[_A], _P], _T]:
    """Turn a method of the asynchronous object into a blocking one."""

    @functools.wraps(method)
    def call(self: SyncFacade[_A], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._run(lambda inner: method(inner, *args, **kwargs))

    return call
