"""The published schemas of events: what the definitions make, and never less than they were.

The log keeps events for ever, and producers of any age write to it. `golden/schemas` holds version
1 as it was first published: whatever it accepts has to be accepted, for good.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from jobtrail.contract.event_schemas import event_schemas
from jobtrail.core.events import TYPE_NAMES

PUBLISHED = Path(__file__).parents[2] / "docs" / "schemas"
GOLDEN = Path(__file__).parent / "golden"
#: Bounds that may only be widened: with each, whether a larger figure is the wider one.
BOUNDS = {"maximum": True, "maxLength": True, "maxItems": True, "maxProperties": True} | {
    "minimum": False,
    "minLength": False,
    "minItems": False,
}
#: What must stay as it is.
FIXED = ("const", "pattern", "format", "$ref", "$schema", "$id")


def schema_of(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_a_schema_is_what_the_definitions_make(name: str) -> None:
    made = json.loads(json.dumps(event_schemas()[name]))
    same = schema_of(PUBLISHED, name) == made
    assert same, "it has changed: python -m jobtrail.contract.event_schemas docs/schemas"


def test_every_type_has_one() -> None:
    assert sorted(path.stem for path in PUBLISHED.glob("*.json")) == sorted(TYPE_NAMES)


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_golden_events_fit_the_schema_of_their_type_and_no_other(name: str) -> None:
    tried = 0
    for path in sorted(GOLDEN.glob("*-*.json")):
        if path.stem.startswith("dead-"):
            continue
        event = json.loads(path.read_text(encoding="utf-8"))
        fits = Draft202012Validator(schema_of(PUBLISHED, name)).is_valid(event)
        assert fits == (event["type"] == name), path.name
        tried += fits
    assert tried >= 2


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_what_was_accepted_is_accepted_for_good(name: str) -> None:
    assert narrowed(schema_of(GOLDEN / "schemas", name), schema_of(PUBLISHED, name)) == []


def narrowed(old: Any, new: Any, at: str = "") -> list[str]:
    """Return where a schema takes less than it did."""
    found = [f"{at}/{key}" for key in FIXED if old.get(key) != new.get(key)]
    for key, larger_is_wider in BOUNDS.items():
        if key in new and (
            key not in old or (new[key] < old[key] if larger_is_wider else new[key] > old[key])
        ):
            found.append(f"{at}/{key}")
    added = set(new.get("required", ())) - set(old.get("required", ()))
    found += [f"{at}/required: {name}" for name in sorted(added)]
    for place in ("properties", "$defs"):
        for name, schema in old.get(place, {}).items():
            where = f"{at}/{place}/{name}"
            if name in new.get(place, {}):
                found += narrowed(schema, new[place][name], where)
            else:
                found.append(f"{where}: gone")
    for key in ("type", "enum"):
        if key in new and not set(listed(old.get(key))) <= set(listed(new[key])):
            found.append(f"{at}/{key}")
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(new.get(key), dict):
            found += narrowed(old.get(key) or {}, new[key], f"{at}/{key}")
    if "anyOf" in new:
        lost = [o for o in old.get("anyOf", [old]) if not is_taken(o, new["anyOf"])]
        found += [f"{at}/anyOf: {option}" for option in lost]
    return found


def is_taken(old: Any, options: list[Any]) -> bool:
    """Whether one of several schemas takes all that a schema took."""
    if old in options:
        return True
    values = old.get("enum", [])
    takers = [Draft202012Validator(option) for option in options]
    return bool(values) and all(any(t.is_valid(value) for t in takers) for value in values)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s["required"].append("time"), "/required: time"),
        (lambda s: s["properties"].pop("time"), "/properties/time: gone"),
        (lambda s: s["properties"]["id"].update(maxLength=100), "/properties/id/maxLength"),
        (lambda s: s["properties"]["id"].update(minLength=2), "/properties/id/minLength"),
        (lambda s: s["$defs"]["CreatedData"]["properties"].pop("owner"), "owner: gone"),
        (lambda s: s["properties"]["id"].update(pattern="x"), "/properties/id/pattern"),
        (lambda s: s["properties"]["time"]["anyOf"].pop(), "/properties/time/anyOf"),
        (lambda s: s["properties"].update(new={"type": "string"}), None),
        (lambda s: s["properties"]["id"].update(maxLength=1000), None),
        (lambda s: s["required"].remove("source"), None),
    ],
)
def test_a_narrower_schema_is_found_out(change: Any, expected: str | None) -> None:
    old, new = (schema_of(PUBLISHED, "job.created") for _ in range(2))
    change(new)
    found = narrowed(old, new)
    assert found == [] if expected is None else any(expected in place for place in found), found
