"""The JSON Schema of each event type, for producers that are not written in Python.

`python -m jobtrail.contract.event_schemas docs/schemas` writes them again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from jobtrail.contract.json_schema import schema_components
from jobtrail.core.events import EVENT_TYPES
from jobtrail.files.atomic import atomic_write

#: The version of all schemas. It stays 1 as long as fields are only added, as they always are: see
#: docs/events.md.
VERSION: Final = 1


def event_schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas by the types' names, as `job.created`."""
    return {str(kind.__struct_config__.tag): _schema(kind) for kind in EVENT_TYPES}


def _schema(kind: type[Any]) -> dict[str, Any]:
    name = str(kind.__struct_config__.tag)
    (made,), definitions = schema_components([kind], "#/$defs/{name}")
    own = definitions.pop(made["$ref"].rpartition("/")[2])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:jobtrail:event:{name}:{VERSION}",
        **own,
        "$defs": dict(sorted(definitions.items())),
    }


def main() -> None:
    """Write the schemas into a folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in event_schemas().items():
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        atomic_write(folder / f"{name}.json", text.encode())


if __name__ == "__main__":
    main()
