"""A shop whose jobs are Celery's: the tests publish them, and this file is their worker's."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

from jobtrail.integrations.celery import track

SOURCE = "//tests/shop"
#: Names the folder of the broker and the results, for a worker.
FOLDER = "CELERY_SHOP"


class Channel(filesystem.Channel):
    """A message is there as a whole or not at all: kombu's own can be read while it is written."""

    def _put(self, queue: str, payload: object, **_: object) -> None:
        name = f"{time.monotonic_ns()}_{uuid.uuid4()}.{queue}.msg"
        written = Path(self.control_folder) / name
        written.write_text(dumps(payload))
        written.rename(Path(self.data_folder_out) / name)


class Transport(filesystem.Transport):
    """A folder as a broker."""

    Channel = Channel


TRANSPORT_ALIASES["folder"] = "tests.e2e.celery_shop:Transport"


def shop(folder: Path) -> Celery:
    """Return the app, which keeps its messages and results below a folder."""
    for name in ("messages", "control", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    app = Celery("shop", broker="folder://", backend=f"file://{folder / 'results'}")
    app.conf.update(
        broker_transport_options={
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.02,
        },
        result_chord_retry_interval=0.1,
        task_track_started=True,
        worker_hijack_root_logger=False,
    )
    add_plain_tasks(app)
    add_odd_tasks(app)
    return app


def add_plain_tasks(app: Celery) -> None:
    """Give an app tasks that succeed, are retried or fail."""

    @app.task(name="shop.add", shared=False)
    def add(*numbers: int) -> int:
        return sum(numbers)

    @app.task(name="shop.total", shared=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="shop.flaky", shared=False, bind=True, max_retries=5)
    def flaky(self: Any, failures: int) -> int:
        if self.request.retries < failures:
            raise self.retry(exc=ConnectionError("not now"), countdown=0)
        return int(self.request.retries)

    @app.task(name="shop.boom", shared=False)
    def boom(retries: int = 0) -> None:
        raise ValueError("no such article")

    @app.task(
        name="shop.hopeless",
        shared=False,
        autoretry_for=(OSError,),
        max_retries=1,
        default_retry_delay=0,
    )
    def hopeless() -> None:
        raise OSError("the printer is on fire")


def add_odd_tasks(app: Celery) -> None:
    """Give an app tasks that end in some other way."""

    @app.task(name="shop.odd", shared=False)
    def odd(what: str) -> Any:
        return {"big": "x" * 70_000, "object": object(), "deep": nested(300)}[what]

    @app.task(name="shop.hang", shared=False)
    def hang() -> None:
        signal.pause()

    @app.task(name="shop.rejected", shared=False)
    def rejected() -> None:
        raise Reject("no use", requeue=False)

    @app.task(name="shop.ignored", shared=False)
    def ignored() -> None:
        raise Ignore

    @app.task(name="shop.replaced", shared=False, bind=True)
    def replaced(self: Any, first: bool = True) -> Any:
        if first and not self.request.retries:
            raise self.retry(countdown=0)
        return self.replace(app.tasks["shop.add"].s(20, 22))


def nested(depth: int) -> list[Any]:
    """Return lists in each other."""
    return [] if depth == 0 else [nested(depth - 1)]


if FOLDER in os.environ:
    app = shop(Path(os.environ[FOLDER]))
    track(app, source=f"{SOURCE}/worker", owner="worker")
