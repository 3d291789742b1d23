"""The AsyncAPI 3.0 document of the two topics, made of the types that decode them.

`python -m projections.asyncapi > docs/asyncapi.json` writes it.

Source: AsyncAPI 3.0.0 and its Kafka bindings 0.5.0.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, Final

from jobtrail.contract.json_schema import schema_components
from jobtrail.core.events import EVENT_TYPES, MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES, TYPE_NAMES
from jobtrail.core.nesting import MAX_NESTING
from jobtrail.log.dead_letters import (
    BATCH,
    CUT,
    DETAIL,
    DONE,
    DROPPED,
    LETTER,
    MARK,
    NONE,
    PLACE,
    REASON,
    RETRIED,
    RETRIES,
    RUN,
)
from jobtrail.settings import Settings
from jobtrail.terminal.text import out_json
from jobtrail.version import __version__
from projections.projector.dead_letters import MAX_DETAIL_BYTES

Document = dict[str, Any]

_BINDING: Final = "0.5.0"
_KEPT: Final = {"cleanup.policy": ["delete"], "retention.ms": -1, "retention.bytes": -1}
_KEY: Final = """\
The job's id in UTF-8, the same as the event's `subject`. One job is one partition, whatever \
client writes: (murmur2(key) & 0x7fffffff) % partitions, the default of Kafka's own Java client. \
Clients on librdkafka set `partitioner=murmur2_random`."""
_LIMITS: Final = f"""\
CloudEvents 1.0 in structured JSON mode. An event has {MAX_EVENT_BYTES} bytes at most, its \
`output` and `error` {MAX_PAYLOAD_BYTES} bytes each, and nests {MAX_NESTING} deep at most. Whole \
numbers are written without a fraction, `time` is in the years 2 to 9998. Attributes beyond these \
are kept; nowhere in an event is a number beyond the range of a double, or half of a surrogate \
pair. Delivering an event twice, known by its `id`, changes nothing."""
_DEAD_NAMES: Final = ("dead-letter", "dead-letter-mark")
_PLACE: Final = "^.+/[0-9]+/[0-9]+$"
_REASONS: Final = {
    "no-value": "The record has no value.",
    "too-large": "The event, its output or its error is too large.",
    "not-utf-8": "The value is not UTF-8.",
    "not-json": "The value is not JSON, or has half of a surrogate pair.",
    "invalid": "The event breaks its schema, or has a number beyond the range of a double.",
    "wrong-key": "The key is not the job's id.",
    "header-not-utf-8": "The name of a header is not UTF-8.",
    "wrong-partition": "The record lies in another partition than its key's.",
    "batch-unreadable": "A batch of records can't be unpacked or taken apart.",
    "batch-too-large": "A batch unpacks to more bytes, or has more records, than are read.",
}


def document(settings: Settings) -> Document:
    """Return the AsyncAPI 3.0 document.

    Args:
        settings: Name the topics.
    """
    log, dead = settings.topic, settings.dead_topic
    schemas = _schemas()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "jobtrail",
            "version": __version__,
            "description": "Job events in an append-only log, and what could not be read of it.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{bootstrapServers}",
                "protocol": "kafka",
                "description": "Any Kafka; on one machine the one that `jobtrail up` runs.",
                "variables": {"bootstrapServers": {"description": "host:port[,host:port]"}},
            }
        },
        "channels": {
            log: _channel(log, "What happened to jobs, kept for ever.", TYPE_NAMES),
            dead: _channel(dead, "Records of the log that are no valid event.", _DEAD_NAMES),
        },
        "operations": {
            "sendJobEvent": _operation("send", log, "Say what happened to a job.", TYPE_NAMES),
            "receiveJobEvents": _operation(
                "receive", log, "Fold what happened to jobs, in the order of the log.", TYPE_NAMES
            ),
            "sendDeadLetter": _operation(
                "send", dead, "Keep a record that is no valid event.", ["dead-letter"]
            ),
            "markDeadLetter": _operation(
                "send", dead, "Say that something was done about a letter.", ["dead-letter-mark"]
            ),
            "receiveDeadLetters": _operation(
                "receive", dead, "Look at what was no valid event.", _DEAD_NAMES
            ),
        },
        "components": {
            "messages": {
                **{_name(kind): _event_message(kind) for kind in EVENT_TYPES},
                "dead-letter": _DEAD_LETTER,
                "dead-letter-mark": _MARK,
            },
            "schemas": schemas,
        },
    }


def _schemas() -> Document:
    _, components = schema_components(EVENT_TYPES, "#/components/schemas/{name}")
    return dict(sorted(components.items()))


def _name(kind: type[Any]) -> str:
    return str(kind.__struct_config__.tag)


def _channel(topic: str, description: str, names: Any) -> Document:
    return {
        "address": topic,
        "description": description,
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic,
                "topicConfiguration": _KEPT,
                "bindingVersion": _BINDING,
            }
        },
    }


def _operation(action: str, topic: str, summary: str, names: Any) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{topic}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{topic}/messages/{name}"} for name in names],
    }


def _event_message(kind: type[Any]) -> Document:
    return {
        "name": _name(kind),
        "summary": inspect.getdoc(kind),
        "description": _LIMITS,
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": _KEY, "minLength": 1, "maxLength": 256},
                "bindingVersion": _BINDING,
            }
        },
    }


_DEAD_LETTER: Final[Document] = {
    "name": "dead-letter",
    "summary": "A record that is no valid event, its bytes as they were, and why.",
    "description": "Key and value are those of the record, and so are headers beyond these, unless "
    f"`{RUN}` or `{BATCH}` is the header before the last. The same letter may come twice: its "
    "place tells.",
    "contentType": "application/octet-stream",
    "headers": {
        "type": "object",
        "required": [REASON, DETAIL, PLACE],
        "properties": {
            REASON: {
                "type": "string",
                "enum": list(_REASONS),
                "description": " ".join(f"`{name}`: {text}" for name, text in _REASONS.items()),
            },
            DETAIL: {
                "type": "string",
                "description": "What was expected and what was found, in words; "
                f"{MAX_DETAIL_BYTES} bytes of UTF-8 at most.",
            },
            PLACE: {
                "type": "string",
                "pattern": _PLACE,
                "description": "Where the record lies, or the first one: topic/partition/offset.",
            },
            RUN: {
                "type": "string",
                "pattern": "^[0-9]+/[0-9]+$",
                "description": "The letter has many records that were refused for one reason: the "
                "last offset, and how many. The value is a record batch of Kafka's, version 2.",
            },
            BATCH: {
                "type": "string",
                "pattern": "^[0-9]+/[a-z0-9]+$",
                "description": "The letter is a batch that was not read: its last offset and its "
                "codec. The value is the batch as it is in the log.",
            },
            NONE: {
                "type": "string",
                "const": "",
                "description": "The record had neither key nor value.",
            },
            RETRIES: {
                "type": "string",
                "pattern": "^[0-9]+$",
                "description": "The record was written back to the log by `jobtrail dead retry`: "
                "for the how many-th time. The record in the log has this header, too.",
            },
            CUT: {
                "type": "string",
                "pattern": "^[0-9]+$",
                "description": "The bytes of a record that is too large for a letter: key and "
                "value are cut, and its headers left out. The log holds all of it.",
            },
        },
    },
    "payload": {"description": "Any bytes, or none."},
    "bindings": {
        "kafka": {
            "key": {"description": "Any bytes, or none: the record's."},
            "bindingVersion": _BINDING,
        }
    },
}

_MARK: Final[Document] = {
    "name": "dead-letter-mark",
    "summary": "Says that a dead letter was written back to the log, or dropped.",
    "description": "It has these headers and no others, so that it is no letter itself. A letter "
    "of the same place and record is done, whether it comes before or after.",
    "contentType": "application/octet-stream",
    "headers": {
        "type": "object",
        "required": [LETTER, MARK, DONE],
        "properties": {
            LETTER: {
                "type": "string",
                "pattern": _PLACE,
                "description": f"The letter's `{PLACE}`.",
            },
            MARK: {
                "type": "string",
                "pattern": "^[0-9a-f]{8}$",
                "description": "A hash of the letter's key and value: it tells the record from "
                "another one at the same place, in a topic that was made again.",
            },
            DONE: {"type": "string", "enum": [RETRIED, DROPPED]},
        },
    },
    "payload": {"description": "Empty."},
    "bindings": {
        "kafka": {
            "key": {"description": "The letter's place."},
            "bindingVersion": _BINDING,
        }
    },
}


def main() -> None:
    """Write the document to standard output."""
    out_json(json.dumps(document(Settings()), indent=2, ensure_ascii=False).encode())


if __name__ == "__main__":
    main()
