"""`python -m services.api.openapi`: prints the document, as it is checked in."""

from __future__ import annotations

import json

from jobtrail.terminal.text import out_json
from services.api.openapi import document
from services.api.routes import ENDPOINTS


def main() -> None:
    """Write the document to standard output."""
    out_json(json.dumps(document(ENDPOINTS), indent=2, ensure_ascii=False).encode())


if __name__ == "__main__":
    main()
