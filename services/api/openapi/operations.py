"""Makes the document from the table of endpoints, with the shapes, limits and problems there."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from jobtrail.core.events import TYPE_NAMES
from jobtrail.version import __version__
from services.api.openapi.headers import HEADERS, POSITION_SCHEMA, reference
from services.api.openapi.schemas import Schema, Schemas, never_null, query_parameters
from services.api.problems import problems
from services.api.problems.problems import Kind
from services.api.reads.freshness import POSITION
from services.api.serving.endpoint import JSON, STREAM, Answer, Endpoint, Link

#: The problems that any request may be answered with.
_ALWAYS: Final = (
    problems.INVALID,
    problems.MALFORMED,
    problems.URI_TOO_LONG,
    problems.EXPECTATION_FAILED,
    problems.HEADERS_TOO_LARGE,
    problems.INTERNAL,
    problems.TOO_MANY_CONNECTIONS,
)
_WITH_BODY: Final = (problems.TIMEOUT, problems.TOO_LARGE, problems.UNSUPPORTED)
_WITH_TOKEN: Final = (
    problems.UNAUTHORIZED,
    problems.TOO_MANY_REQUESTS,
    problems.KEYS_UNAVAILABLE,
)
_SCHEME: Final = "bearer"

_ABOUT: Final = """\
Job events go into an append-only log; these operations answer from views folded out of it.

- A job that the caller may not see does not exist for them: it is left out, or 404. They see what
  they own, what they or one of their groups may view, and everything with the permission
  `jobs:read:all`.
- Every refusal is a problem of RFC 9457; tell problems apart by `type`. An unknown parameter or
  field is refused, never ignored. All that is wrong with a request is reported at once.
- Instants are ISO 8601; without an offset, UTC. A date alone is its first instant where a range
  begins and its last where it ends; both ends are inclusive.
- Every path with `GET` has `HEAD` too. Any other method is answered 405, with the methods of the
  path in `Allow`.
- An event has 192 KiB at most, its `output` and `error` 64 KiB each, and nests 256 deep at most.
  Its whole numbers are written without a fraction, its `time` is in the years 2 to 9998.
- A request has 1 MiB of body at most, 16 KiB of request line and 12 KiB in one header. The operator
  of the service may have set another bound for bodies; a refusal names it.
- A body of 1 KiB or more comes in zstd or gzip where `Accept-Encoding` asks for it.
"""


def document(endpoints: Iterable[Endpoint]) -> Schema:
    """Return the OpenAPI 3.1 document of some endpoints.

    Args:
        endpoints: Those without `answers` are left out.
    """
    described = [endpoint for endpoint in endpoints if endpoint.answers]
    schemas = Schemas(_shapes(described), _models(described))
    paths: dict[str, Schema] = {}
    for endpoint in described:
        operations = paths.setdefault(endpoint.path, {})
        operations[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "jobtrail",
            "version": __version__,
            "summary": "What every job is doing.",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": HEADERS,
            "responses": {
                "MethodNotAllowed": _refusal([problems.METHOD_NOT_ALLOWED], schemas),
                "NotModified": {
                    "description": "The client has this answer already: see `If-None-Match`.",
                    "headers": _headers(("ETag",)),
                },
            },
            "securitySchemes": {
                _SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or a JSON Web Token of the provider or of this "
                    "machine's service: `jobtrail token` prints one.",
                }
            },
        },
    }


def problem_kinds(endpoint: Endpoint) -> list[Kind]:
    """Return all problems that an endpoint may answer with."""
    kinds = [*_ALWAYS, *endpoint.problems]
    if endpoint.body or endpoint.forms:
        kinds += _WITH_BODY
    if not endpoint.public:
        kinds += _WITH_TOKEN
    if endpoint.permission is not None:
        kinds.append(problems.FORBIDDEN)
    return kinds


def _shapes(endpoints: Iterable[Endpoint]) -> Iterator[Any]:
    yield problems.METHOD_NOT_ALLOWED.shape
    for endpoint in endpoints:
        yield from (kind.shape for kind in problem_kinds(endpoint))
        yield from (answer.shape for answer in endpoint.answers if answer.shape is not None)
        yield from (form.shape for form in endpoint.forms)
        yield from (parameter.shape for parameter in (*endpoint.places, *endpoint.headers))


def _models(endpoints: Iterable[Endpoint]) -> Iterator[Any]:
    return (endpoint.body for endpoint in endpoints if endpoint.body is not None)


def _operation(endpoint: Endpoint, schemas: Schemas) -> Schema:
    summary, _, description = inspect.cleandoc(endpoint.handle.__doc__ or "").partition("\n")
    operation: Schema = {
        "operationId": endpoint.name,
        "tags": [_tag(endpoint)],
        "summary": summary,
        "description": description.strip(),
        "security": [] if endpoint.public else [{_SCHEME: _permissions(endpoint)}],
        "parameters": _parameters(endpoint, schemas),
    }
    if not operation["description"]:
        del operation["description"]
    if content := _body(endpoint, schemas):
        operation["requestBody"] = {"required": True, "content": content}
    answers = {str(answer.status): _answer(answer, schemas) for answer in endpoint.answers}
    if _has_tag(endpoint):
        answers["200"]["headers"] |= {"ETag": reference("ETag")}
        answers["304"] = {"$ref": "#/components/responses/NotModified"}
    operation["responses"] = answers | _refusals(endpoint, schemas)
    return operation


def _has_tag(endpoint: Endpoint) -> bool:
    """Tell whether the answers of an endpoint have an `ETag`."""
    return endpoint.method == "GET" and STREAM not in endpoint.answers[0].media


def _tag(endpoint: Endpoint) -> str:
    """Return the group of an operation: the first part of its path; `service` for public ones."""
    return "service" if endpoint.public else endpoint.path.split("/")[1]


def _permissions(endpoint: Endpoint) -> list[str]:
    return [] if endpoint.permission is None else [endpoint.permission]


def _parameters(endpoint: Endpoint, schemas: Schemas) -> list[Schema]:
    found = [
        {
            "name": parameter.name,
            "in": place,
            "description": parameter.description,
            "required": place == "path",
            "schema": never_null(schemas.of(parameter.shape)),
        }
        for place, parameters in (("path", endpoint.places), ("header", endpoint.headers))
        for parameter in parameters
    ]
    found += query_parameters(endpoint.query)
    if problems.BEHIND in endpoint.problems:
        found.append(
            {
                "name": POSITION,
                "in": "header",
                "description": "The read waits until it has reached this position, 5 s at most.",
                "required": False,
                "schema": POSITION_SCHEMA,
            }
        )
    if _has_tag(endpoint):
        found.append(
            {
                "name": "If-None-Match",
                "in": "header",
                "description": "The `ETag` of an answer that the client has: 304 where it is still "
                "the same.",
                "required": False,
                "schema": {"type": "string", "examples": ['W/"0123456789abcdef"']},
            }
        )
    return found


def _body(endpoint: Endpoint, schemas: Schemas) -> Schema:
    content: Schema = {}
    if endpoint.body is not None:
        content[JSON] = {"schema": schemas.of(endpoint.body)}
    for form in endpoint.forms:
        schema = schemas.of(form.shape)
        if "$ref" not in schema:
            schema["description"] = form.description
        content[form.media] = {"schema": schema}
    return content


def _answer(answer: Answer, schemas: Schemas) -> Schema:
    schema = {"type": "string"} if answer.shape is None else schemas.of(answer.shape)
    if STREAM in answer.media:
        schema = _event_schema(schema)
    found: Schema = {
        "description": answer.description,
        "headers": _headers(answer.headers),
        "content": {media: {"schema": schema} for media in answer.media},
    }
    if answer.links:
        found["links"] = {name: _link(link) for name, link in answer.links.items()}
    return found


def _event_schema(data: Schema) -> Schema:
    """Return the schema of each event of a stream, in the form of OpenAPI 3.2."""
    return {
        "type": "object",
        "properties": {
            "id": POSITION_SCHEMA,
            "event": {"enum": list(TYPE_NAMES)},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": data,
            },
        },
        "required": ["id", "event", "data"],
    }


def _link(link: Link) -> Schema:
    found: Schema = {"operationId": link.to}
    if link.parameters:
        found["parameters"] = dict(link.parameters)
    if link.body is not None:
        found["requestBody"] = dict(link.body)
    return found


def _refusals(endpoint: Endpoint, schemas: Schemas) -> Schema:
    by_status: dict[int, list[Kind]] = {}
    for kind in problem_kinds(endpoint):
        by_status.setdefault(kind.status, []).append(kind)
    return {str(status): _refusal(by_status[status], schemas) for status in sorted(by_status)}


def _refusal(kinds: Sequence[Kind], schemas: Schemas) -> Schema:
    """Return the answer for problems that have one status."""
    options = []
    for shape in dict.fromkeys(kind.shape for kind in kinds):
        ours = [kind for kind in kinds if kind.shape is shape]
        members = {
            "type": {"enum": [kind.type for kind in ours]},
            "status": {"const": ours[0].status},
        }
        options.append({**schemas.of(shape), "properties": members})
    names = sorted({name for kind in kinds for name in kind.headers})
    return {
        "description": " Or: ".join(kind.title for kind in kinds),
        "headers": _headers(names),
        "content": {
            problems.CONTENT_TYPE: {
                "schema": options[0] if len(options) == 1 else {"anyOf": options}
            }
        },
    }


def _headers(names: Iterable[str]) -> Schema:
    return {name: reference(name) for name in (*names, "Server-Timing")}
