"""Asynchronous code behind a synchronous face: an event loop in a thread of its own."""

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

    A fork takes no threads along: in a process that was forked since it does not run, and can be
    started anew. Starting is for one thread at a time.

    Args:
        name: Of the thread.
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
        """Begin with a coroutine, in the context of the caller; return its result to come."""
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
    """Run a loop in this thread; signals are left to the threads of whoever started it.

    A signal that those have blocked would be let in here otherwise, and end the process. Celery's
    pool relies on that: a child is sent SIGTERM as soon as it has told of its end, when it may
    still hold the lock of the pipe that it told it by; if it dies there, no other gets on.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    loop.run_forever()


class SyncFacade(ABC, Generic[_A]):
    """The synchronous face of an asynchronous object, which lives in a thread of its own.

    Args:
        name: Of the thread.
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
    """Return a method of the asynchronous object as one of its face that blocks."""

    @functools.wraps(method)
    def call(self: SyncFacade[_A], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._run(lambda inner: method(inner, *args, **kwargs))

    return call
