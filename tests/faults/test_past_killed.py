"""Projectors killed with SIGKILL while somebody looks at the past: what is told stays true."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final, NamedTuple

import aiohttp
import pytest

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.core.asof import Cut
from jobtrail.core.events import from_microseconds
from jobtrail.core.position import format_position, parse_position
from jobtrail.core.states import STATES
from jobtrail.settings import Settings
from projections.ports.read import Caller, Filters
from tests.conftest import MakeLog
from tests.contract.past_model import model_at
from tests.contract.store_streams import BASE, DAYS, Log
from tests.faults.flows import LOOK, Traffic, applied, equals_fold, until
from tests.processes import Process, api, projector

KILLS: Final = 4
#: Answers before each kill, and after the last; and how many of all are folded again.
ANSWERS: Final = 12
CHECKED: Final = 60
_DAY: Final = 86_400_000_000
_ALL: Final = Caller("admin", reads_all=True)
pytestmark = pytest.mark.timeout(400)


class Told(NamedTuple):
    """What was answered."""

    cut: Cut
    #: What the answer was made from.
    held: dict[int, int]
    counts: dict[str | None, list[int]]


class Looker:
    """Asks for counts of the past all the time, at instants and at positions.

    Args:
        settings: Of the service.
        url: Where it is.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._chance = random.Random(5)
        token = make_token(local_secret(settings.data_dir), "admin", permissions=[READ_ALL])
        self._headers = {"Authorization": f"Bearer {token}"}
        self._url = url
        self._held: dict[int, int] = {}
        self.told: list[Told] = []

    async def look(self) -> None:
        """Look until cancelled."""
        async with aiohttp.ClientSession(self._url, headers=self._headers) as session:
            while True:
                cut = self._cut()
                position = format_position(cut.position)
                at = position if cut.instant is None else _said(cut.instant)
                async with session.get("/jobs/summary", params={"asOf": at}) as answer:
                    # While a projector begins to take the store over, nothing is told.
                    assert answer.status in (200, 503), await answer.text()
                    if answer.status == 200:
                        self._held = parse_position(answer.headers["Jobtrail-Position"])
                        self.told.append(
                            Told(cut, self._held, _counts((await answer.json())["jobType"]))
                        )
                # What it costs is bounded for each caller.
                await asyncio.sleep(LOOK)

    def _cut(self) -> Cut:
        if self._held and self._chance.random() < 0.5:
            share = self._chance.random()
            return Cut(position={p: int(end * share) for p, end in self._held.items()})
        return Cut(instant=BASE + self._chance.randrange(DAYS * _DAY))


def _said(instant: int) -> str:
    return from_microseconds(instant).isoformat().replace("+00:00", "Z")


def _counts(told: list[dict[str, Any]]) -> dict[str | None, list[int]]:
    return {one["jobType"]: [one.get(state, 0) for state in STATES] for one in told}


async def killed(settings: Settings, worker: Process, looker: Looker) -> None:
    """Kill a projector again and again, each time once it has applied more and much was told."""
    await worker.spawn()
    for _ in range(KILLS):
        goal, answers = applied(settings) + 700, len(looker.told) + ANSWERS
        await until(
            lambda goal=goal, answers=answers: (
                applied(settings) >= goal and len(looker.told) >= answers
            ),
            f"{goal} events are applied and {answers} answers are there",
        )
        await worker.kill()
        await worker.spawn()
    answers = len(looker.told) + ANSWERS
    await until(lambda: len(looker.told) >= answers, "something is told after the last")


def check(log: Log, told: Told) -> None:
    """Hold an answer against the pure fold of what the log was then."""
    expected = model_at(log, told.cut, told.held).summary(_ALL, Filters())
    assert told.counts == {name: list(counts) for name, counts in expected.items()}, told


async def test_the_past_stays_true_while_projectors_die(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    worker, service = projector(settings), api(settings)
    running += [worker, service]
    async with Traffic(settings, 3):
        await worker.start()
        looker = Looker(settings, await service.start())
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(looker.look())
            await worker.kill()
            await killed(settings, worker, looker)
            looking.cancel()
    log = await equals_fold(settings)
    some = random.Random(7).sample(looker.told, CHECKED)
    for told in some:
        check(log, told)
    assert {told.cut.instant is None for told in some} == {True, False}
