"""What a shard's reader and writer remember of names: no more than so many, nor so many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from projections.sqlite.files import schema
from projections.sqlite.tables.rows import MAX_NAMES, MAX_NAMES_BYTES, Names
from projections.sqlite.write.surrogate_keys import SurrogateKeys

#: An audience as large as one may be, all but its owner.
VIEWERS = tuple(f"user:{number:0257}" for number in range(256))
#: So many are more than may be remembered.
MANY = MAX_NAMES_BYTES // (256 * 262)


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[schema.Connection]:
    """Return an empty shard."""
    path = tmp_path / "shard-0.db"
    schema.make_shard(path, {0: 0}, {0: 0})
    db = schema.connect(path)
    yield db
    db.close()


def test_types_are_no_more_than_names_may_be(shard: schema.Connection) -> None:
    surrogate_keys, names = SurrogateKeys(shard), Names(shard)
    shard.execute("BEGIN")
    for number in range(MAX_NAMES + 10):
        assert names.type_name(surrogate_keys.type(f"t{number}")) == f"t{number}"
        assert names.count <= MAX_NAMES
    assert surrogate_keys.count > MAX_NAMES
    # What was given stays given; it is read again.
    surrogate_keys.begin()
    assert surrogate_keys.count < 10
    assert names.type_name(surrogate_keys.type("t7")) == "t7"
    assert names.type_name(surrogate_keys.type("t100003")) == "t100003"


def test_large_audiences_are_fewer_than_names_may_be(shard: schema.Connection) -> None:
    surrogate_keys, names = SurrogateKeys(shard), Names(shard)
    shard.execute("BEGIN")
    surrogate_keys.begin()
    given = [surrogate_keys.audience(f"o{number}", VIEWERS) for number in range(MANY)]
    surrogate_keys.write()
    most = 0
    for number, audience in enumerate(given):
        assert names.audience(audience) == (f"o{number}", VIEWERS)
        most = max(most, names.count)
    assert MANY // 2 < most < MANY
    assert surrogate_keys.count > MANY
    surrogate_keys.begin()
    assert surrogate_keys.count < 10
    assert surrogate_keys.audience("o1", VIEWERS) == given[1]
