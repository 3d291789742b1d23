"""A figure as it was measured: every run, what it comes to, where and with what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

#: Where results are kept that are worth keeping.
RESULTS: Final = Path(__file__).parent / "results"


class Row(msgspec.Struct, frozen=True):
    """One line of the table."""

    measure: str
    unit: str
    #: For example `{"median": 41000, "min": 40100, "max": 41900}`.
    values: dict[str, float]


class Result(msgspec.Struct, omit_defaults=True):
    """What `results/NAME.json` holds."""

    figure: str
    #: What was measured, in one sentence.
    what: str
    parameters: dict[str, Any]
    #: Every run, in the order in which they were made.
    runs: list[dict[str, Any]]
    rows: list[Row]
    #: Of all runs together, by name.
    distributions: dict[str, dict[str, float]] = {}
    machine: dict[str, Any] = {}
    #: How long it took to measure.
    seconds: float = 0.0


def write(result: Result, folder: Path) -> Path:
    """Write a result; return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.figure}.json"
    content = msgspec.json.encode(_rounded(msgspec.to_builtins(result)))
    path.write_bytes(msgspec.json.format(content, indent=2) + b"\n")
    return path


def read(path: Path) -> Result:
    """Read a result."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def _rounded(value: Any) -> Any:
    """Return a value with as many digits as a measurement can have: six."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return value


def as_text(values: dict[str, float], unit: str) -> str:
    """Return a row's values in words: `p50 1.2, p99 3.4 ms`."""
    if set(values) == {"median", "min", "max"}:
        if values["min"] == values["max"]:
            return f"{number(values['median'])} {unit}".strip()
        spread = f"{number(values['min'])} to {number(values['max'])}"
        return f"{number(values['median'])} {unit} ({spread})"
    parts = [f"{name} {number(value)}" for name, value in values.items()]
    return f"{', '.join(parts)} {unit}".strip()


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def in_order(results: Sequence[Result], names: Sequence[str]) -> list[Result]:
    """Return results in the order of these names; others are left out."""
    by_name = {result.figure: result for result in results}
    return [by_name[name] for name in names if name in by_name]
