"""The long form: a service under load that is killed for as long as one likes, then checked.

`make soak ARGS="--minutes 60 --seed 1"`. Progress goes to standard error, the report as Markdown to
standard output and as JSON into a file. It ends by itself, whatever happens, and stops what it
started. The exit status is 0 only where nothing was lost, doubled, different or told wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.faults.kit import reporting
from tests.faults.kit.checker import Report
from tests.faults.kit.keeping import Keeper
from tests.faults.kit.stage import Shape, Stage, staged
from tests.waiting import look_again

#: What is done in an hour.
PER_HOUR: Final = {
    "kill projector": 1100,
    "kill api": 330,
    "kill broker": 110,
    "pause projector": 24,
    "pause api": 12,
    "pause broker": 12,
}
#: Seconds that each step has which it does not take from another one: to start and to do what is
#: due behind its minutes, to let all come level and for the last check, with some for each minute
#: of events: listeners whose process was killed all the time have all of them before them. The
#: check is what all is done for: it is made whatever the steps before have shown.
_START_WITHIN: Final = 300.0
_SETTLE_WITHIN: Final = 900.0
_SETTLE_A_MINUTE: Final = 30.0
_CHECK_WITHIN: Final = 300.0
_CHECK_A_MINUTE: Final = 10.0
_TOLD_EVERY: Final = 30.0
_SAMPLED_EVERY: Final = 5.0
#: Seconds at the begin that nothing is done in, and that no slope is made of.
_WARM_UP: Final = 5.0


class Soak:
    """The faults of a run, drawn from its seed, and what came of them."""

    def __init__(self, stage: Stage, minutes: float, rates: dict[str, float], spared: str) -> None:
        self._stage = stage
        self._seconds = minutes * 60
        self._rates = rates
        self._spared = spared
        self._began = time.monotonic()
        #: Processes that are paused: not to be hit again before they go on.
        self._held: set[str] = set()
        self.done: Counter[str] = Counter()
        self.checks: list[dict[str, Any]] = []

    async def run(self, checks: int) -> None:
        """Do everything that is due, for as long as it takes."""
        looking = [asyncio.create_task(self._sample()), asyncio.create_task(self._tell())]
        looking += [asyncio.create_task(self._check_while(n, checks)) for n in range(checks)]
        await asyncio.sleep(_WARM_UP)
        try:
            async with asyncio.TaskGroup() as doing:
                for what, per_hour in self._rates.items():
                    if per_hour:
                        doing.create_task(self._repeat(what, 3600 / per_hour))
            await asyncio.sleep(max(self._seconds - self._elapsed(), 0))
        finally:
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    async def _repeat(self, what: str, every: float) -> None:
        """Do something at drawn times, about so many seconds apart, until the time is up."""
        draw = random.Random(f"{self._stage.shape.seed} {what}")
        kind, _, which = what.partition(" ")
        due = _WARM_UP + draw.uniform(0, every)
        while due < self._seconds:
            await asyncio.sleep(max(due - self._elapsed(), 0))
            due += draw.uniform(0.5, 1.5) * every
            some = [k for k in self._stage.keepers if k.name.startswith(which)]
            if kind == "pause":
                keeper = draw.choice(some)
                # Most are short; some outlast a consumer's session.
                await self._pause(keeper, draw.choice((2, 3, 5, 8, 40)), what)
                continue
            keeper = draw.choice([k for k in some if k.name != self._spared])
            if await self._is_there(keeper):
                self.done[what] += self._stage.kill(keeper)

    async def _pause(self, keeper: Keeper, seconds: float, what: str) -> None:
        if keeper.name in self._held or not await self._is_there(keeper):
            return
        self._held.add(keeper.name)
        try:
            await self._stage.pause(keeper, seconds)
        finally:
            self._held.discard(keeper.name)
        self.done[what] += 1

    async def _is_there(self, keeper: Keeper) -> bool:
        """Wait until a process is there to be hit: the broker ready, any other started."""
        while self._elapsed() < self._seconds:
            there = keeper.ready.is_set() if keeper is self._stage.broker else keeper.pids()
            if there and keeper.name not in self._held:
                return True
            await look_again()
        return False

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLED_EVERY)
            for keeper in self._stage.keepers:
                keeper.sample()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TOLD_EVERY)
            load, clients = self._stage.load, self._stage.clients
            behind = sum(load.position.values()) - sum(self._stage.position.values())
            tell(
                f"{self._elapsed() / 60:5.1f} min  {load.acknowledged:,} acknowledged, the store "
                f"{max(behind, 0):,} behind; {reporting.in_words(self.done)}; "
                f"told wrongly: {reporting.in_words(clients.faults) or 'nothing'}"
            )

    async def _check_while(self, number: int, of: int) -> None:
        """Check while all goes on."""
        await asyncio.sleep(self._seconds * (number + 1) / (of + 1))
        found = await self._stage.checker.compare()
        self.checks.append(found.as_json())
        tell(
            f"checked while it ran, in {found.seconds} s: "
            f"{'nothing is different' if found.ok else found.words[:5]}"
        )


def tell(words: str) -> None:
    """Say how far it is."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _noted(found: dict[str, Any], step: str) -> Iterator[None]:
    """Take down what goes wrong in a step, the first of it, and let the next one be taken."""
    try:
        yield
    except Exception as error:
        found["error"] = found["error"] or f"{step}: {error!r}"


async def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run it all; return the report."""
    shape = Shape(
        options.seed, options.rate, options.waits, options.listeners, apis=options.api_processes
    )
    rates = {what: number * options.faults for what, number in PER_HOUR.items()}
    found: dict[str, Any] = {"seed": options.seed, "minutes": options.minutes, "error": None}
    checked: Report | None = None
    began = time.monotonic()
    stage = run = None
    try:
        async with staged(folder, shape) as stage:
            run = Soak(stage, options.minutes, rates, options.spare)
            tell(f"seed {options.seed}: all is up after {time.monotonic() - began:.0f} s")
            with _noted(found, "run"):
                async with asyncio.timeout(options.minutes * 60 + _START_WITHIN):
                    await run.run(options.checks)
            tell("no more is done to it; waiting until all is level")
            with _noted(found, "settle"):
                async with asyncio.timeout(_SETTLE_WITHIN + _SETTLE_A_MINUTE * options.minutes):
                    await stage.settle()
            level = "level" if found["error"] is None else f"not level: {found['error']}"
            tell(f"all is {level} after {time.monotonic() - began:.0f} s; checking")
            await stage.end_clients()
            with _noted(found, "check"):
                async with asyncio.timeout(_CHECK_WITHIN + _CHECK_A_MINUTE * options.minutes):
                    checked = await stage.check(tell)
    except BaseException as error:  # the report says what it was
        found["error"] = found["error"] or repr(error)
        if not isinstance(error, Exception):
            raise
    finally:
        found["seconds"] = round(time.monotonic() - began)
        if stage is not None and run is not None:
            found |= reporting.figures(stage, run.done, run.checks)
    found["check"] = None if checked is None else checked.as_json()
    clean = checked is not None and checked.ok and not found.get("told_wrongly")
    found["ok"] = clean and found["error"] is None and all(c["ok"] for c in found["checks"])
    return found


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--rate", type=float, default=1000.0, help="events a second")
    parser.add_argument("--waits", type=int, default=200)
    parser.add_argument("--listeners", type=int, default=50)
    parser.add_argument("--api-processes", type=int, default=2)
    parser.add_argument("--faults", type=float, default=1.0, help="how many times as many faults")
    parser.add_argument(
        "--spare", default="api-1", help="a process that is never killed: its memory has a slope"
    )
    parser.add_argument("--checks", type=int, default=2, help="checks while it runs")
    parser.add_argument("--report", type=Path, default=Path("benchmarks/results/soak.json"))
    parser.add_argument("--keep", type=Path, help="folder for all files, kept afterwards")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = asyncio.run(soak(options, options.keep or Path(folder)))
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(reporting.markdown(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
