"""What requests cost here, by what they cost in another checkout of the project.

`python -m benchmarks.in_turns CHECKOUT`

Each round measures both, so that a machine that is slower for a while is so for both. A checkout of
before a change of `one_by_one` itself needs the new one to be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import msgspec

from benchmarks.stage import Stage

HERE = Path(__file__).resolve().parents[1]


async def _run(checkout: Path, *arguments: str) -> bytes:
    """Run a checkout's own `one_by_one`, since modules move; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(checkout / "benchmarks" / "one_by_one.py"),
        *arguments,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"`one_by_one {' '.join(arguments)}` failed in {checkout}")
    return printed


async def compare(other: Path, rounds: int) -> None:
    """Measure both, and print what was found."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with Stage() as stage:
        checkouts = {"there": other, "here": HERE}
        servers = await stage.bootstrap_servers()
        for name, checkout in checkouts.items():
            await _run(checkout, "make", servers, str(stage.folder / name))
        for number in range(rounds):
            stage.say(f"round {number + 1} of {rounds}")
            # Now the one first, now the other: the second of two in a row is slower by a percent.
            for name in list(checkouts)[:: -1 if number % 2 else 1]:
                checkout = checkouts[name]
                printed = await _run(checkout, "ask", str(stage.folder / name))
                for kind, cost in msgspec.json.decode(printed, type=dict[str, float]).items():
                    found[kind][name].append(cost)
    sys.stdout.write(f"{'µs of CPU':16}{'there':>9}{'here':>9}{'here by there':>16}\n")
    for kind, costs in found.items():
        there, here = (statistics.median(costs[name]) for name in ("there", "here"))
        ratio = statistics.median(b / a for a, b in zip(costs["there"], costs["here"], strict=True))
        sys.stdout.write(f"{kind:16}{there:9.1f}{here:9.1f}{ratio:16.3f}\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.in_turns", description=__doc__)
    parser.add_argument("checkout", type=Path, help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    asyncio.run(compare(options.checkout.resolve(), options.rounds))


if __name__ == "__main__":
    main()
