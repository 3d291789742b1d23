"""Whether an answer is one that the OpenAPI document gives: asked of every answer in tests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from services.api.openapi import document
from services.api.problems.problems import CONTENT_TYPE
from services.api.routes import ENDPOINTS

DOCUMENT = document(ENDPOINTS)
#: What a body in gzip or zstd begins with.
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_PATHS: dict[str, Any] = DOCUMENT["paths"]


def assert_documented(
    method: str, path: str, status: int, headers: Mapping[str, str], body: bytes
) -> None:
    """Check status, content type, headers and body of an answer."""
    operation = operation_of(method, path)
    media = headers.get("Content-Type", "").partition(";")[0]
    if operation is None:
        assert status in (404, 405), f"{method} {path} is not documented"
        assert media == CONTENT_TYPE
        return
    where = f"{operation['operationId']} {status}"
    assert str(status) in operation["responses"], f"{where} is not documented"
    response = _resolved(operation["responses"][str(status)])
    assert media in response.get("content", {"": None}), f"{where}: {media} is not documented"
    for name in response["headers"]:
        required = DOCUMENT["components"]["headers"][name].get("required", False)
        assert name in headers or not required, f"{where}: {name} is missing"
    if media.endswith("json") and method != "HEAD" and not body.startswith(_PACKED):
        errors = list(
            _validator(operation["operationId"], status, media).iter_errors(json.loads(body))
        )
        assert not errors, f"{where}: {errors[0].message} at {errors[0].json_path}"


def _resolved(response: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in response:
        return response
    found: dict[str, Any] = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return found


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    """Return the operation that answers a request, None where there is none."""
    path = path.partition("?")[0]
    method = "get" if method == "HEAD" else method.lower()
    # As OpenAPI has it, a path without a parameter goes before one with.
    for template in sorted(_PATHS, key=lambda template: "{" in template):
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            found: dict[str, Any] | None = _PATHS[template].get(method)
            return found
    return None


@cache
def _validator(name: str, status: int, media: str) -> Draft202012Validator:
    operations = [one for operations in _PATHS.values() for one in operations.values()]
    operation = next(one for one in operations if one["operationId"] == name)
    schema = operation["responses"][str(status)]["content"][media]["schema"]
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})
