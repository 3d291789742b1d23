"""The OpenAPI 3.1 document, made from the definitions that route, validate and answer.

`python -m services.api.openapi > docs/openapi.json` writes it again.
"""

from services.api.openapi.operations import document

__all__ = ["document"]
