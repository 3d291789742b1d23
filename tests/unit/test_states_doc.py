"""The table and the diagram in docs/states.md are those of `jobtrail.core.states`."""

from __future__ import annotations

import re
from pathlib import Path

from jobtrail.core.states import ENDED, STATES, TRANSITIONS, Rule

PAGE = (Path(__file__).parents[2] / "docs" / "states.md").read_text(encoding="utf-8")
HIGHER = "a higher attempt"

Transitions = dict[tuple[str, str], str]


def in_code() -> Transitions:
    words = {Rule.ALWAYS: "", Rule.HIGHER_ATTEMPT: HIGHER}
    return {
        (source.value, target.value): words[rule]
        for source, targets in TRANSITIONS.items()
        for target, rule in targets.items()
    }


def rows_of(header: str) -> list[list[str]]:
    """Return the cells of the rows of one table on the page."""
    table = PAGE.split(f"{header}\n", 1)[1].split("\n\n", 1)[0]
    _, *rows = table.splitlines()
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


def in_table() -> Transitions:
    found: Transitions = {}
    for source, targets in rows_of("| from | to |"):
        for target in [] if targets == "none" else targets.split(", "):
            form = re.fullmatch(r"(\w+)(?: \((.+)\))?", target)
            assert form is not None, target
            found[source, form[1]] = form[2] or ""
    return found


def in_diagram() -> Transitions:
    diagram = PAGE.split("```mermaid\nstateDiagram-v2\n", 1)[1].split("```", 1)[0]
    found: Transitions = {}
    for line in diagram.splitlines():
        form = re.fullmatch(r" +(\S+) --> (\S+)(?: : (.+))?", line)
        assert form is not None, line
        assert (form[1], form[2]) not in found, line
        found[form[1], form[2]] = form[3] or ""
    return found


def test_the_table_is_the_codes_with_a_first_row_for_unknown_jobs() -> None:
    unknown = {("(unknown)", state.value): "" for state in STATES}
    assert in_table() == unknown | in_code()


def test_the_table_has_a_row_for_every_state_in_order() -> None:
    sources = [source for source, _ in rows_of("| from | to |")]
    assert sources == ["(unknown)", *(state.value for state in STATES)]


def test_the_diagram_is_the_codes_with_beginnings_and_final_states() -> None:
    begins = {("[*]", state.value): "" for state in STATES}
    ends = {(state.value, "[*]"): "" for state in STATES if not TRANSITIONS[state]}
    assert in_diagram() == begins | in_code() | ends


def test_every_state_has_its_line() -> None:
    lines = rows_of("| state | meaning | ended |")
    assert [(name, ended == "yes") for name, _, ended in lines] == [
        (state.value, state in ENDED) for state in STATES
    ]
    assert all(meaning for _, meaning, _ in lines)


def test_every_state_has_its_transitions_in_code() -> None:
    assert set(TRANSITIONS) == set(STATES)
