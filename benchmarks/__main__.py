"""`python -m benchmarks [NAME...]`: measures figures, prints a table, writes `results/*.json`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks import FIGURES, LONG, results
from benchmarks.machine import describe
from benchmarks.options import QUICK, Options
from benchmarks.report import table
from benchmarks.results import Result
from benchmarks.stage import Stage
from jobtrail.settings import ENV_PREFIX

Measure = Callable[[Stage, Options], Awaitable[Result]]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"figures (all): {', '.join(FIGURES)}; when they are named: {', '.join(LONG)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes; nothing is kept unless --results is given"
    )
    parser.add_argument("--results", type=Path, help="folder of the results")
    parser.add_argument("--broker", type=Path, help="keep the broker's log here for the next time")
    for field in fields(Options):
        kind = type(field.default)
        told = f"(default {field.default:,})"
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, metavar="N", help=told)
    parsed = parser.parse_args(arguments)
    unknown = sorted(set(parsed.names) - {*FIGURES, *LONG})
    if unknown:
        parser.error(f"there is no figure {unknown[0]}; there are {', '.join([*FIGURES, *LONG])}")
    return parsed


def _options(parsed: argparse.Namespace) -> Options:
    chosen = {field.name: getattr(parsed, field.name) for field in fields(Options)}
    given = {name: value for name, value in chosen.items() if value is not None}
    return replace(QUICK if parsed.quick else Options(), **given)


async def _run(parsed: argparse.Namespace, console: Console) -> list[Result]:
    _stop_on_signals()
    options = _options(parsed)
    folder = parsed.results or (None if parsed.quick else results.RESULTS)
    found = []
    async with Stage(parsed.broker) as stage:
        named = [name for name in (*FIGURES, *LONG) if name in parsed.names]
        for name in named or FIGURES:
            console.print(f"[bold]{name}[/bold]")
            machine, began = describe(), time.perf_counter()
            try:
                result = await _figure(name)(stage, options)
            finally:
                await stage.clear()
            result.machine = machine
            result.seconds = time.perf_counter() - began
            found.append(result)
            if folder is not None:
                results.write(result, folder)
    return found


def _stop_on_signals() -> None:
    """Let the first Ctrl-C or SIGTERM end what goes on, and the next ones change nothing."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _figure(name: str) -> Measure:
    """Import a figure's module only when it is its turn."""
    from importlib import import_module

    measure: Measure = import_module(f"benchmarks.{name}").measure
    return measure


def _be_able_to_hold_connections() -> None:
    """Let this process and its children open as many files as the system allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parsed = _parse(arguments)
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        # The settings of whoever runs this are not the figures'.
        del os.environ[name]
    _be_able_to_hold_connections()
    progress = Console(stderr=True, highlight=False)
    began = time.perf_counter()
    try:
        found = uvloop.run(_run(parsed, progress))
    except (KeyboardInterrupt, asyncio.CancelledError):
        progress.print("stopped")
        return 130
    Console(width=None if sys.stdout.isatty() else 120).print(table(found))
    progress.print(f"{len(found)} figures in {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
