"""The OpenAPI and AsyncAPI documents are what the definitions make; pages name what is there."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from jobtrail.contract import results
from jobtrail.core.events import EVENT_TYPES, TYPE_NAMES
from jobtrail.core.job import Job
from jobtrail.core.states import State
from jobtrail.log.dead_letters import BATCH, CUT, DETAIL, NONE, PLACE, REASON, RETRIES, RUN
from jobtrail.settings import Settings
from projections import asyncapi
from services.api.http.answers import encode, job_answer, status_answer
from services.api.openapi import document
from services.api.openapi.headers import HEADERS
from services.api.openapi.operations import problem_kinds
from services.api.problems import problems
from services.api.routes import ENDPOINTS

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"


def as_json(made: Any) -> Any:
    return json.loads(json.dumps(made))


MADE = {
    "openapi.json": ("services.api.openapi", as_json(document(ENDPOINTS))),
    "asyncapi.json": ("projections.asyncapi", as_json(asyncapi.document(Settings()))),
}
OPENAPI, ASYNCAPI = MADE["openapi.json"][1], MADE["asyncapi.json"][1]


@pytest.mark.parametrize("name", MADE)
def test_a_document_is_what_the_definitions_make(name: str) -> None:
    module, made = MADE[name]
    kept = json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))
    same = kept == made
    assert same, f"it has changed: python -m {module} > docs/{name}"


@pytest.mark.parametrize("made", [OPENAPI, ASYNCAPI], ids=MADE)
def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    found = list(references(made))
    assert found
    for reference in found:
        place: Any = made
        for part in reference.removeprefix("#/").split("/"):
            place = place[part.replace("~1", "/").replace("~0", "~")]


def references(made: Any) -> Iterator[str]:
    if isinstance(made, dict):
        if isinstance(reference := made.get("$ref"), str):
            yield reference
        for value in made.values():
            yield from references(value)
    elif isinstance(made, list):
        for value in made:
            yield from references(value)


# --- OpenAPI


def test_the_openapi_document_is_valid() -> None:
    validate(OPENAPI)


def test_every_endpoint_is_documented_in_words() -> None:
    operations = {
        (method.upper(), path): operation
        for path, operations in OPENAPI["paths"].items()
        for method, operation in operations.items()
    }
    assert set(operations) == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    for operation in operations.values():
        assert operation["summary"].endswith(".")
        assert all(parameter["description"] for parameter in operation["parameters"])
    names = [operation["operationId"] for operation in operations.values()]
    assert len(names) == len(set(names))
    for operation in operations.values():
        for response in operation["responses"].values():
            links = response.get("links", {}).values()
            assert {link["operationId"] for link in links} <= set(names)


def test_every_place_in_a_path_is_a_parameter() -> None:
    for endpoint in ENDPOINTS:
        names = {place.name for place in endpoint.places}
        assert names == set(re.findall(r"\{(\w+)\}", endpoint.path))


def test_every_header_of_an_answer_is_explained() -> None:
    for endpoint in ENDPOINTS:
        named = {name for answer in endpoint.answers for name in answer.headers}
        named |= {name for kind in problem_kinds(endpoint) for name in kind.headers}
        assert named <= set(HEADERS)


def test_every_kind_of_problem_is_given_by_some_operation() -> None:
    kinds = {kind for kind in vars(problems).values() if isinstance(kind, problems.Kind)}
    given = {kind for endpoint in ENDPOINTS for kind in problem_kinds(endpoint)}
    assert kinds == given | {problems.METHOD_NOT_ALLOWED}
    assert len({(kind.status, kind.type) for kind in kinds}) == len(kinds)


def test_an_answer_has_the_fields_of_its_type() -> None:
    job = Job(id="j", state=State.ACTIVE, created_at=0, updated_at=0)
    for answer, shape in ((job_answer(job), results.Job), (status_answer(job), results.Status)):
        made = msgspec.json.decode(encode(answer))
        assert list(made) == [field.encode_name for field in msgspec.structs.fields(shape)]
        assert msgspec.convert(made, shape)


# --- AsyncAPI: no package ships its official schema, so here is what the specification asks for


def _texts(*names: str) -> dict[str, Any]:
    return {name: {"type": "string"} for name in names}


_REFERENCE = {
    "type": "object",
    "required": ["$ref"],
    "properties": {"$ref": {"type": "string", "pattern": "^#/"}},
    "additionalProperties": False,
}
_BINDINGS = {
    "type": "object",
    "required": ["kafka"],
    "properties": {
        "kafka": {"type": "object", "properties": {"bindingVersion": {"const": "0.5.0"}}}
    },
}
#: The fixed fields of AsyncAPI 3.0.0, as far as the document uses them, and no others.
ASYNCAPI_SCHEMA = {
    "type": "object",
    "required": ["asyncapi", "info", "channels", "operations", "components"],
    "additionalProperties": False,
    "properties": {
        "asyncapi": {"const": "3.0.0"},
        "defaultContentType": {"type": "string", "pattern": "^[^/]+/[^/]+$"},
        "info": {
            "type": "object",
            "required": ["title", "version"],
            "additionalProperties": False,
            "properties": {
                **_texts("title", "version", "description"),
                "license": {"type": "object", "required": ["name"]},
            },
        },
        "servers": {
            "additionalProperties": {
                "required": ["host", "protocol"],
                "additionalProperties": False,
                "properties": {
                    **_texts("host", "protocol", "description"),
                    "variables": {"additionalProperties": {"type": "object"}},
                },
            }
        },
        "channels": {
            "minProperties": 2,
            "additionalProperties": {
                "required": ["address", "messages"],
                "additionalProperties": False,
                "properties": {
                    **_texts("address", "description"),
                    "servers": {"type": "array", "items": _REFERENCE},
                    "messages": {"minProperties": 1, "additionalProperties": _REFERENCE},
                    "bindings": _BINDINGS,
                },
            },
        },
        "operations": {
            "minProperties": 1,
            "additionalProperties": {
                "required": ["action", "channel"],
                "additionalProperties": False,
                "properties": {
                    "action": {"enum": ["send", "receive"]},
                    "channel": _REFERENCE,
                    "summary": {"type": "string"},
                    "messages": {"type": "array", "items": _REFERENCE},
                },
            },
        },
        "components": {
            "additionalProperties": False,
            "properties": {
                "schemas": {"additionalProperties": {"type": "object"}},
                "messages": {
                    "additionalProperties": {
                        "required": ["name", "payload"],
                        "additionalProperties": False,
                        "properties": {
                            **_texts("name", "summary", "description", "contentType"),
                            "headers": {"type": "object"},
                            "payload": {"type": "object"},
                            "bindings": _BINDINGS,
                        },
                    }
                },
            },
        },
    },
}


def test_the_asyncapi_document_is_what_its_specification_asks_for() -> None:
    Draft202012Validator.check_schema(ASYNCAPI_SCHEMA)
    errors = list(Draft202012Validator(ASYNCAPI_SCHEMA).iter_errors(ASYNCAPI))
    assert not errors, [f"{error.json_path}: {error.message}" for error in errors]
    for name, channel in ASYNCAPI["channels"].items():
        for operation in ASYNCAPI["operations"].values():
            if operation["channel"]["$ref"] == f"#/channels/{name}":
                # A message of an operation has to be one of its channel's.
                within = [f"#/channels/{name}/messages/{key}" for key in channel["messages"]]
                assert {message["$ref"] for message in operation["messages"]} <= {*within}


def test_every_type_of_event_is_a_message() -> None:
    log = ASYNCAPI["channels"]["job-events"]
    assert list(log["messages"]) == list(TYPE_NAMES)
    for kind, name in zip(EVENT_TYPES, TYPE_NAMES, strict=True):
        message = ASYNCAPI["components"]["messages"][name]
        assert message["payload"]["$ref"] == f"#/components/schemas/{kind.__name__}"
        assert "murmur2" in message["bindings"]["kafka"]["key"]["description"]


@pytest.mark.parametrize("made", [OPENAPI, ASYNCAPI], ids=MADE)
@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.json")), ids=lambda file: file.stem)
def test_golden_events_fit_the_schemas(file: Path, made: dict[str, Any]) -> None:
    event = json.loads(file.read_text(encoding="utf-8"))
    if file.stem.startswith("dead-"):
        return
    name = EVENT_TYPES[TYPE_NAMES.index(event["type"])].__name__
    schema = {"$ref": f"#/components/schemas/{name}", "components": made["components"]}
    Draft202012Validator(schema).validate(event)
    assert not Draft202012Validator(schema).is_valid({**event, "id": ""})
    assert not Draft202012Validator(schema).is_valid({**event, "source": "a\nb"})


def test_a_dead_letter_has_the_headers_that_the_document_names() -> None:
    headers = ASYNCAPI["components"]["messages"]["dead-letter"]["headers"]
    assert set(headers["required"]) == {REASON, DETAIL, PLACE}
    assert set(headers["properties"]) == {REASON, DETAIL, PLACE, CUT, RETRIES, RUN, BATCH, NONE}
    reasons = {file.stem.removeprefix("dead-") for file in GOLDEN.glob("dead-*.json")}
    assert reasons - {"too-large-whole"} <= set(headers["properties"][REASON]["enum"])
    pattern = headers["properties"][PLACE]["pattern"]
    assert re.search(pattern, "job-events/3/1043")


# --- The pages: the files, names and headings that they lead to

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
#: Paths that are true elsewhere: in a wheel, in a cache, where a user has made a file.
ELSEWHERE = {"jobtrail/_processes", "jobtrail/kafka-VERSION/", "compose/.env"}
OUR_PATH = re.compile(
    r"`((?:benchmarks|compose|docs|jobtrail|projections|services|tests)/[\w./*-]*)(?:::([\w.]+))?`"
)
OUR_NAME = re.compile(r"(?:`|-m )((?:benchmarks|jobtrail|projections|services|tests)(?:\.\w+)+)\b")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def defined(node: ast.stmt) -> set[str]:
    """Return the names that a statement defines or imports."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return {target.id for target in targets if isinstance(target, ast.Name)}


def is_defined(names: list[str], file: Path) -> bool:
    """Tell whether a file defines or imports a name, such as `Class.method` in its parts."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for name in names:
        found = [node for node in body if name in defined(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def is_ours(dotted: str) -> bool:
    """Tell whether a dotted name is a module, or what one of them defines."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        here = ROOT.joinpath(*parts[:count])
        for file in (here.with_suffix(".py"), here / "__init__.py"):
            if file.is_file():
                return is_defined(parts[count:], file)
        if here.is_dir():
            return count == len(parts)
    return False


def headings(page: Path) -> set[str]:
    """Return what a link writes behind `#` to lead to a heading of a page."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path, name in OUR_PATH.findall(text):
        pattern = re.sub(r"[A-Z]{4,}", "*", path).rstrip("/")
        assert path in ELSEWHERE or any(ROOT.glob(pattern)), path
        assert not name or is_defined(name.split("."), ROOT / path), f"{path}::{name}"
    for name in OUR_NAME.findall(text):
        assert is_ours(name), name
    for path, heading in LINK.findall(text):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not heading or heading in headings(target), f"{path}#{heading}"


def test_a_name_that_is_nowhere_is_seen() -> None:
    assert is_ours("jobtrail.core.fold.fold")
    assert is_ours("jobtrail.core.states.TRANSITIONS")
    assert is_ours("services.api.waits.waits.Waits.register")
    assert not is_ours("jobtrail.core.fold.folds")
    assert not is_ours("jobtrail.folding")
    assert not is_ours("services.api.waits.waits.Waits.registers")


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {path for path, _ in LINK.findall(index)}
    assert {page.name for page in ROOT.glob("docs/*.*")} <= {*linked, "README.md", "size.svg"}
