"""The sources that the sender of an event is bound to, as an attribute of the event.

The fold sees only the event, so the entry point that authenticates the sender writes into the event
which sources the sender may use. `POST /events` does so for API keys that are bound to sources; an
event without the attribute comes from a sender without restrictions: a writer of the log, or a
caller whose token or key is bound to nothing.

The attribute is a text, since CloudEvents knows no lists: the sources with spaces between them, in
which a space is `%20` and a percent sign `%25`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

import msgspec

#: The extension attribute of CloudEvents.
ATTRIBUTE: Final = "jobtrailsources"
#: The most sources of an API key, and the most writers that a job names.
MAX_SOURCES: Final = 32
#: The most characters of the attribute: all names with 256 characters, each of them escaped.
MAX_CHARACTERS: Final = MAX_SOURCES * (3 * 256 + 1)
_SPACE: Final = b" \t\r\n"


def pack_sources(sources: Iterable[str]) -> str:
    """Return the attribute's text for some sources, at least one."""
    return " ".join(
        sorted(source.replace("%", "%25").replace(" ", "%20") for source in set(sources))
    )


# A log has few keys, and many events of each. 256 texts are 6 MiB at most.
@lru_cache(maxsize=256)
def unpack_sources(text: str) -> frozenset[str]:
    """Return the sources that the attribute's text names."""
    return frozenset(map(unquote, text.split(" ")))


def stamp(value: bytes, text: str) -> bytes:
    """Write the attribute into an event, replacing an existing one.

    Args:
        value: A CloudEvents JSON object that was decoded, byte for byte as it came.
        text: From `pack_sources`.

    Returns:
        The same with the attribute at its end: of two members of a name the last one counts.
    """
    opened = value.rstrip(_SPACE)[:-1]
    return b'%b,"%b":%b}' % (opened, ATTRIBUTE.encode(), msgspec.json.encode(text))
