"""Figures that anyone can measure again: `python -m benchmarks`, see docs/performance.md."""

from __future__ import annotations

from typing import Final

#: Each is a module with a function `measure`. The first one does not want a broker beside it.
FIGURES: Final = (
    "start",
    "producing",
    "catch_up",
    "visible",
    "waits",
    "answers",
    "held_waits",
    "hostile",
)

#: They take longer, so they are measured when they are named, and only then.
LONG: Final = (
    "history",
    "answers_two",
    "answers_busy",
    "size",
    "replay",
    "replay_beside",
    "past",
    "hot_key",
    "unfair",
    "ingest",
    "coming_back",
    "odd_records",
)
