"""The mutants of a module: one small fault each.

cosmic-ray's operators make faults in operators, comparisons, numbers and loops. They know no
tables, strings or statements, of which states and fold consist, so those are added here.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

#: Members that are put in each other's place: each enum's, in turn.
ENUMS = {
    "State": ["CREATED", "ACTIVE", "RETRY", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED"],
    "Rule": ["ALWAYS", "HIGHER_ATTEMPT"],
    "Verdict": ["APPLIED", "DUPLICATE", "LATE", "NOT_ALLOWED", "FOREIGN"],
}
#: Operators of cosmic-ray that need to be told names, and one that fails at names with a dot in
#: `except`: what is caught is left out below.
LEFT_OUT = ("VariableReplacer", "VariableInserter", "ExceptionReplacer")
TURNED = {"min": "max", "max": "min", "any": "all", "all": "any"}
#: What can be left out of a function and still leave one that can be called.
STATEMENTS = (ast.Assign, ast.AugAssign, ast.Expr, ast.Raise, ast.Continue, ast.Break)

Span = tuple[tuple[int, int], tuple[int, int]]


class Mutant(NamedTuple):
    """A module with one fault."""

    line: int
    #: What stood there, and what stands there now.
    before: str
    after: str
    tree: ast.Module


def mutants_of(path: Path) -> list[Mutant]:
    """Return a module's mutants in the order of their lines, none twice.

    Args:
        path: The module's source.

    Returns:
        Those that differ, as syntax trees, from the module and from each other. Annotations are
        left as they are: none is evaluated when the code runs.
    """
    source = path.read_text(encoding="utf-8")
    seen, found = {ast.dump(ast.parse(source))}, []
    for mutant in (*_by_cosmic_ray(source), *_by_tree(source)):
        form = ast.dump(mutant.tree)
        if form not in seen:
            seen.add(form)
            found.append(mutant)
    return sorted(found, key=lambda mutant: mutant.line)


def _by_cosmic_ray(source: str) -> Iterator[Mutant]:
    left_out = _annotations(ast.parse(source))
    provider = OperatorProvider()
    for name in provider:
        if name in LEFT_OUT:
            continue
        operator = provider[name]()
        nodes = ast_nodes(get_ast(source))
        spans = [span for node in nodes for span in operator.mutation_positions(node)]
        for occurrence, (start, _end) in enumerate(spans):
            if any(begin <= start < end for begin, end in left_out):
                continue
            mutated = mutate_code(source, operator, occurrence)
            try:
                tree = ast.parse(mutated)
            except SyntaxError:
                continue
            yield Mutant(start[0], *_changed(source, mutated), tree)


def _annotations(tree: ast.Module) -> list[Span]:
    found = []
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if isinstance(said := getattr(node, name, None), ast.expr):
                end = (said.end_lineno or 0, said.end_col_offset or 0)
                found.append(((said.lineno, said.col_offset), end))
    return found


def _changed(source: str, mutated: str) -> tuple[str, str]:
    """Return the first line that differs, of both."""
    lines = source.splitlines(), mutated.splitlines()
    return next(
        ((old.strip(), new.strip()) for old, new in zip(*lines, strict=False) if old != new),
        ("", ""),
    )


def _by_tree(source: str) -> Iterator[Mutant]:
    tree = ast.parse(source)
    for place in list(_places(tree, within=False)):
        for other in _instead(place.node, within=place.within):
            place.put(ast.copy_location(other, place.node))
            mutated = ast.fix_missing_locations(copy.deepcopy(tree))
            place.put(place.node)
            yield Mutant(place.node.lineno, *_told(place.node, other), mutated)


class _Place(NamedTuple):
    """Where a node hangs in a tree."""

    parent: ast.AST
    field: str
    #: In a field that is a list.
    index: int | None
    node: ast.expr | ast.stmt
    #: Whether it lies in a function.
    within: bool

    def put(self, node: ast.AST) -> None:
        """Hang another node there."""
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def _places(parent: ast.AST, *, within: bool) -> Iterator[_Place]:
    """Yield every expression and statement below a node but annotations and descriptions."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns"):
            continue
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or _is_description(node):
                continue
            inside = within or isinstance(parent, ast.FunctionDef)
            if isinstance(node, ast.expr | ast.stmt):
                at = index if isinstance(value, list) else None
                yield _Place(parent, field, at, node, inside)
            if not isinstance(node, ast.JoinedStr):
                yield from _places(node, within=inside)


def _is_description(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _instead(node: ast.expr | ast.stmt, *, within: bool) -> Iterator[ast.AST]:
    """Yield what may stand in a node's place."""
    match node:
        case ast.Dict(keys=keys, values=values):
            for at in range(len(keys)):
                yield ast.Dict(_without(keys, at), _without(values, at))
        case ast.Set(elts=[_, _, *_] as elements):
            for at in range(len(elements)):
                yield ast.Set(_without(elements, at))
        case ast.Attribute(value=ast.Name(id=enum), attr=name) if name in ENUMS.get(enum, ()):
            names = ENUMS[enum]
            following = names[(names.index(name) + 1) % len(names)]
            yield ast.Attribute(node.value, following, ast.Load())
        case ast.Name(id=name) if name in TURNED:
            yield ast.Name(TURNED[name], ast.Load())
        case ast.Constant(value=str() | bytes()) | ast.JoinedStr():
            yield ast.Constant(type(getattr(node, "value", ""))())
        case ast.BoolOp(values=values):
            yield from values
        case ast.If() | ast.IfExp() | ast.While():
            for outcome in (True, False):
                other = copy.copy(node)
                other.test = ast.Constant(outcome)
                yield other
        case ast.stmt() if within:
            yield from _instead_of_statement(node)


def _instead_of_statement(node: ast.stmt) -> Iterator[ast.stmt]:
    match node:
        case ast.Try(handlers=[ast.ExceptHandler(type=ast.Tuple(elts=caught))]):
            for at in range(len(caught)):
                other = copy.deepcopy(node)
                other.handlers[0].type = ast.Tuple(_without(caught, at), ast.Load())
                yield other
        case ast.Return(value=ast.expr()):
            yield ast.Return(ast.Constant(None))
        case _ if isinstance(node, STATEMENTS):
            yield ast.Pass()


def _without(nodes: list[Any], at: int) -> list[Any]:
    return nodes[:at] + nodes[at + 1 :]


def _told(node: ast.AST, other: ast.AST) -> tuple[str, str]:
    """Return in one line each what stood there and what stands there now."""
    if isinstance(node, ast.Dict | ast.Set):
        pairs = zip(_entries(node), [*_entries(other), ""], strict=True)
        return next(before for before, after in pairs if before != after), "left out"
    old, new = (
        ast.unparse(ast.fix_missing_locations(copy.deepcopy(one))).splitlines()
        for one in (node, other)
    )
    differing = [pair for pair in zip(old, new, strict=False) if pair[0] != pair[1]]
    before, after = differing[0] if differing else (old[-1], "nothing")
    return before.strip(), after.strip()


def _entries(node: ast.AST) -> list[str]:
    """Return the entries of a dict or set as they are written."""
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return [ast.unparse(key) if key else f"**{ast.unparse(value)}" for key, value in pairs]
    return [ast.unparse(one) for one in node.elts] if isinstance(node, ast.Set) else []
