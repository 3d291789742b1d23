"""What `unfair` and `ingest` send: valid events, requests that are answered, a steady flow."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest

from benchmarks.flow import Flow, records
from benchmarks.greedy import Greedy, _Asker
from benchmarks.load import Load
from benchmarks.options import QUICK
from benchmarks.unfair import CROWDED, FOREIGN, _hostile
from jobtrail.core.events import Created, decode


def test_hostile_events_are_valid() -> None:
    made = list(_hostile(QUICK))
    events = [decode(value) for _, value in made]
    assert [event.subject for event in events] == [job_id for job_id, _ in made]
    created = [event.data for event in events if isinstance(event, Created)]
    crowd = [data for data in created if f"user:{CROWDED}" in data.viewers]
    assert len({data.owner for data in crowd}) == len(crowd) == QUICK.crowd
    assert sum(data.bulk_id == FOREIGN for data in created) == 5 * QUICK.crowd


@pytest.mark.parametrize("hot_every", [0, 10])
def test_a_flow_is_of_valid_events_and_some_of_them_of_hot_jobs(hot_every: int) -> None:
    flow = Flow("", "", Load(jobs=500, owners=50, under_way=100), 100, 1_000, hot_every, "")
    made = list(itertools.islice(records(flow), flow.events))
    events = [decode(value) for _, value in made]
    assert len({event.id for event in events}) == len(made) == 1_000
    hot = [event for event in events if event.subject.startswith("hot-")]
    assert len(hot) == (100 if hot_every else 0)
    if hot_every:
        assert len({event.subject for event in hot}) > 1


class Sent:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def write(self, request: bytes) -> None:
        """Take a request."""
        self.requests.append(request)


@pytest.mark.parametrize("size", [1_000_000, 20, 7])
async def test_a_greedy_caller_asks_again_whatever_is_answered(size: int) -> None:
    statuses: Counter[int] = Counter()
    asker = _Asker(Greedy("", 1, [b"ask"], 0, b"", ""), statuses, 1)
    sent: Any = Sent()
    asker.connection_made(sent)
    for answer in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000,
        b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}",
    ):
        head, mark, body = answer.partition(b"\r\n\r\n")
        asker.data_received(head + mark + body[: size - 1])
        for at in range(size - 1, len(body), size):
            asker.data_received(body[at : at + size])
    await asyncio.sleep(0)
    assert statuses == {200: 1, 429: 1}
    assert len(sent.requests) == 3
