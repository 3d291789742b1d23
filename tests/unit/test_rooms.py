"""The rooms of the project: folders that import one another in one direction only.

A room is a folder. A module that lies beside rooms, such as `jobtrail/settings.py`, is one of its
own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

import pytest

from tests.unit.test_architecture import files_in, imports, tree

#: What imports lazily or starts: no part of the direction.
DOORS = ("__init__.py", "__main__.py")
#: How far a room may be from one that imports nothing of ours.
FLOORS = 12

FILES = files_in("jobtrail", "projections", "services")
FOLDERS = {file.rsplit("/", 1)[0] for file in FILES}


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(file: str) -> str:
    folder = file.rsplit("/", 1)[0]
    lies_beside_rooms = any(other.startswith(f"{folder}/") for other in FOLDERS)
    return module_of(file) if lies_beside_rooms else folder.replace("/", ".")


def arrows(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return by room which others it imports from."""
    files = {module_of(file): file for file in FILES}
    found: dict[str, set[str]] = {}
    for file, module in trees.items():
        if file.endswith(DOORS):
            continue
        here = room_of(file)
        found.setdefault(here, set())
        for name in imports(module, file):
            target = files.get(name) or files.get(name.rpartition(".")[0])
            if target is not None and room_of(target) != here:
                found[here].add(room_of(target))
    return found


def in_circles(graph: Mapping[str, Iterable[str]]) -> set[str]:
    """Return the rooms that import one another, and those that import from these."""
    left = {room: set(others) for room, others in graph.items()}
    while free := [room for room, others in left.items() if not others & left.keys()]:
        for room in free:
            del left[room]
    return set(left)


def floor_of(room: str, graph: Mapping[str, Iterable[str]]) -> int:
    return 1 + max((floor_of(other, graph) for other in graph.get(room, ())), default=0)


def test_rooms_import_in_one_direction() -> None:
    assert in_circles(arrows({file: tree(file) for file in FILES})) == set()


def test_the_house_stays_low() -> None:
    graph = arrows({file: tree(file) for file in FILES})
    assert max(floor_of(room, graph) for room in graph) <= FLOORS


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("jobtrail/core/fold.py", "from jobtrail.log.batches import Batch"),
        ("projections/sqlite/files/schema.py", "from projections.sqlite.read.reader import X"),
        ("services/api/limits/turns.py", "import services.api.waits.waits"),
    ],
)
def test_a_circle_is_seen(file: str, line: str) -> None:
    trees = {other: tree(other) for other in FILES} | {file: ast.parse(line)}
    assert room_of(file) in in_circles(arrows(trees))
