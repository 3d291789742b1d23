"""A process of its own for the stores' contract tests: it projects, it creates, it can be killed.

`python -m tests.contract.store_process COMMAND ARGUMENTS...`; the log is made again from its seed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import signal
import sys

from jobtrail.core.errors import JobtrailError
from tests.contract.store_checks import check_equal
from tests.contract.store_feeding import batch_of, feed, projecting
from tests.contract.store_model import Model
from tests.contract.store_streams import PARTITIONS, Log, seeded_log
from tests.contract.stores import SqliteStore, at_address
from tests.groups import group_of

#: A process whose parent died runs in circles no longer than this.
MAX_LOOKS = 10_000_000


def small_log(seed: int) -> Log:
    """Return the log that a process makes from a seed."""
    return seeded_log(seed, jobs=60, events=500, steady=2)


def answer(text: str) -> None:
    """Write a line to whoever started this process."""
    os.write(1, f"{text}\n".encode())


class Steps:
    """Counts a writer's steps of one kind and does something at one of them.

    Args:
        kind: How the step begins, empty for any.
        number: At how many of them.
        how: `dies` ends this process at that step with SIGKILL; `tells` writes a line and goes on.
    """

    def __init__(self, kind: str, number: int, how: str) -> None:
        self.kind = kind
        self.left = number
        self.how = how

    def __call__(self, step: str) -> None:
        """Look at a step that is about to be taken."""
        if not step.startswith(self.kind):
            return
        self.left -= 1
        if self.left == 0 and self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.left == 0:
            answer("here")


async def project(store: SqliteStore, seed: int, steps: Steps | None) -> None:
    """Project the rest of a log in small batches."""
    writer = store.writer()
    if steps is not None:
        store.trace(writer, steps)
    async with projecting(writer) as projector:
        await feed(projector, small_log(seed), random.Random(seed), most=12)


def reset(store: SqliteStore, seed: int, steps: Steps) -> None:
    """Empty the part of a store that holds partition 1."""
    writer = store.writer()
    store.trace(writer, steps)
    writer.reset(1, small_log(seed).begins(), small_log(seed).ends())


def create() -> None:
    """Create the stores whose addresses come in as lines; answer each with `made` or why not.

    To hit the same instant as others, each says that it is there and then runs in circles until
    there is a file beside the store.
    """
    for line in sys.stdin:
        store = at_address(line.strip())
        answer("there")
        looks = 0
        while not store.folder.with_suffix(".go").exists() and looks < MAX_LOOKS:
            looks += 1
        try:
            store.create()
        except JobtrailError as error:
            answer(f"{type(error).__name__}: {error}")
        else:
            answer("made")


class Retries(logging.Handler):
    """Knows when a projector has found its store unwritable.

    Use it as a context; `seen` is set by each retry.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = asyncio.Event()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a line of the log."""
        if "action=store_retry" in record.getMessage():
            self.messages.append(record.getMessage())
            self.seen.set()

    def __enter__(self) -> Retries:
        """Listen."""
        logging.getLogger("projections.projector.store_thread").addHandler(self)
        return self

    def __exit__(self, *_error: object) -> None:
        """Listen no more."""
        logging.getLogger("projections.projector.store_thread").removeHandler(self)


async def hit_a_file_limit(store: SqliteStore, seed: int) -> None:
    """Project while the kernel refuses to let any file grow, then while it no longer does."""
    log, writer = small_log(seed), store.writer()
    for partition in range(PARTITIONS):
        writer.apply([batch_of(writer, partition, log.slice(partition, 0, 1))])
    before = store.rows()
    largest = max(file.stat().st_size for file in store.folder.iterdir())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with projecting(writer) as projector:
        with Retries() as retries:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 100, hard))
            task = asyncio.create_task(projector.apply(0, group_of(log.records[0])))
            await retries.seen.wait()
            assert store.rows() == before
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            await task
        await feed(projector, log, random.Random(seed))
    check_equal(store, Model(log).advance())
    store.close()


def main() -> None:
    """Do what the command line says."""
    command, *arguments = sys.argv[1:]
    if command == "create":
        create()
        return
    store, seed = at_address(arguments[0]), int(arguments[1])
    steps = Steps(arguments[2], int(arguments[3]), arguments[4]) if arguments[2:] else None
    if command == "project":
        asyncio.run(project(store, seed, steps))
    elif command == "reset":
        assert steps is not None
        reset(store, seed, steps)
    elif command == "limit":
        asyncio.run(hit_a_file_limit(store, seed))


if __name__ == "__main__":
    main()
