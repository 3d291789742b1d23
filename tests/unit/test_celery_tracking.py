"""What the Celery integration tells of tasks, run in this process where that is enough."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from jobtrail.core.errors import LogUnavailable
from jobtrail.integrations.celery import Tracker, track
from jobtrail.integrations.celery_calls import Call, error_of, event_id
from jobtrail.produce.sync_producer import SyncJobProducer
from tests.e2e.celery_shop import SOURCE, shop


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.fixture
def app(tmp_path: Path) -> Celery:
    return shop(tmp_path)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """Return the address of a Kafka that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def away(app: Celery, nowhere: str) -> Iterator[Tracker]:
    """Track the app into a Kafka that is away, in which an event is given up at once."""
    producer = SyncJobProducer(SOURCE, bootstrap_servers=nowhere, within=0.3)
    tracker = Tracker(app, producer, "alice", None, None, tracebacks=False)
    tracker.connect()
    yield tracker
    tracker.close()


def test_a_task_goes_on_when_kafka_is_away(
    app: Celery, away: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    results = [app.tasks["shop.add"].apply((n, 1)) for n in range(50)]
    assert [result.get() for result in results] == list(range(1, 51))
    assert app.tasks["shop.add"].delay(1, 2).id
    assert away.flush(30)
    assert away.dropped == 50 * 3 + 1
    said = [record for record in caplog.records if "event_dropped" in record.message]
    assert len(said) == 1, "it is said once in a while"


def test_a_strict_publisher_hears_of_it(app: Celery, nowhere: str, tmp_path: Path) -> None:
    producer = SyncJobProducer(SOURCE, bootstrap_servers=nowhere, within=0.3)
    tracker = Tracker(app, producer, "alice", None, None, tracebacks=False)
    tracker.connect()
    tracker.be_strict()
    try:
        with pytest.raises(LogUnavailable):
            app.tasks["shop.add"].delay(1, 2)
    finally:
        tracker.close()
    assert list((tmp_path / "messages").iterdir()) == [], "it was not published"


def test_a_tracker_that_is_closed_listens_no_more(app: Celery, nowhere: str) -> None:
    producer = SyncJobProducer(SOURCE, bootstrap_servers=nowhere, within=0.3)
    tracker = Tracker(app, producer, "alice", None, None, tracebacks=False)
    tracker.connect()
    tracker.close()
    app.tasks["shop.add"].apply((1, 1))
    assert tracker.flush(0)
    assert tracker.dropped == 0


def test_another_app_is_not_ours(away: Tracker, tmp_path: Path) -> None:
    other = shop(tmp_path / "other")
    assert other.tasks["shop.add"].apply((1, 1)).get() == 2
    assert away.flush(30)
    assert away.dropped == 0


def test_nobody_owns_a_task_is_said(
    app: Celery, nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    def nobody(_call: Call) -> None:
        return None

    tracker = track(app, source=SOURCE, owner=nobody, bootstrap_servers=nowhere)
    try:
        app.tasks["shop.add"].delay(1, 2)
        assert tracker.dropped == 1
    finally:
        tracker.close()
    assert "Nobody owns this task." in caplog.text


def test_an_error_is_always_put_into_words() -> None:
    assert error_of(ValueError("no")) == {"type": "ValueError", "message": "no"}
    assert error_of(Unspeakable())["message"] == "(it can't be put into words)"
    assert error_of(ValueError("\ud800"))["message"] == "?"
    assert len(error_of(ValueError("x" * 10_000))["message"]) == 4096
    assert error_of(ValueError("no"), "a" * 9000 + "end")["traceback"].endswith("end")


def test_an_event_has_the_same_id_whenever_it_is_told() -> None:
    assert event_id("t", "active", 0) == event_id("t", "active", 0) == "t/active/0"
    assert len(event_id("t" * 256, "active", 0)) <= 256
    assert event_id("t" * 256, "active", 0) != event_id("t" * 256, "active", 1)
