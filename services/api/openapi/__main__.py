"""`python -m services.api.openapi`: the document, as it is checked in."""

from __future__ import annotations

import json

from services.api.openapi import document
from services.api.routes import ENDPOINTS


def main() -> None:
    """Write the document to standard output."""
    print(json.dumps(document(ENDPOINTS), indent=2, ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    main()
