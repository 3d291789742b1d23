"""Every setting of every process, in one frozen object that is validated once at start.

The environment is read here and nowhere else. Each setting has a unit, a default and a reason;
the table in docs/settings.md is tested against this module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import platformdirs

from jobtrail import oidc_settings as oidc
from jobtrail.core.errors import SettingError
from jobtrail.kafka_settings import KafkaSettings, faults_of
from jobtrail.setting_fields import Secret, setting, values_of

ENV_PREFIX: Final = "JOBTRAIL_"


def default_data_dir() -> Path:
    """Return the folder for this user's local service (platformdirs' user data folder)."""
    return Path(platformdirs.user_data_dir("jobtrail", appauthor=False))


def _check_store(value: str) -> None:
    if value and not value.startswith("sqlite:///"):
        raise ValueError("expected sqlite:///FOLDER")


@dataclass(frozen=True, kw_only=True)
class Settings(KafkaSettings):
    """What a jobtrail process needs to know; `load` reads it from `JOBTRAIL_*` variables.

    Raises:
        SettingError: Values are wrong; every one is named with its bounds.
    """

    data_dir: Path = setting(
        made_by=default_data_dir,
        description="Folder of the local service: broker, store, secret, logs.",
    )
    projector_nice: int = setting(
        bounds=(0, 19),
        default=5,
        description="How far a projector stands back where others want the same processor, as of "
        "`nice`; 0: not at all. So answers come first while very much is written. Where a "
        "processor is free it gains or costs nothing.",
    )
    store: str = setting(
        default="",
        check=_check_store,
        description="Projection store, `sqlite:///FOLDER`. Empty: the folder `store` in the data "
        "folder.",
    )
    shards: int = setting(
        bounds=(1, 64),
        default=2,
        description="SQLite files of a new store. One writer each: two use two cores.",
    )
    host: str = setting(
        bounds=(1, None), default="127.0.0.1", description="Address that the API listens on."
    )
    port: int = setting(
        bounds=(0, 65535), default=8040, description="Port of the API. 0: a free one."
    )
    drain: float = setting(
        bounds=(0, 600),
        default=0.0,
        description="Seconds in which an API process that is told to stop still takes requests, "
        "while its `/readyz` is 503: longer than a load balancer takes to notice. 0, as always "
        "with `jobtrail up`: nothing stands in front of it that has to notice.",
    )
    health_host: str = setting(
        bounds=(1, None),
        default="127.0.0.1",
        description="Address of a projector's `/healthz`, `/readyz` and `/metrics`, which ask for "
        "no proof of who asks.",
    )
    health_port: int = setting(
        bounds=(0, 65535),
        default=0,
        description="Their port. 0: they are off, as always with `jobtrail up`, which watches its "
        "projectors itself and may have several on one machine. `jobtrail projector` takes 8041 "
        "unless told otherwise.",
    )
    oidc_issuer: str = setting(
        default="",
        description="Issuer whose tokens count beside the local service's, exactly as in their "
        "`iss`. Empty: none.",
    )
    oidc_audience: str = setting(
        default="",
        description="What those tokens have to name in `aud`: one made for another service proves "
        "nothing here.",
    )
    oidc_jwks_url: str = setting(
        default="",
        description="Where the issuer's public keys are. Empty: as "
        "`ISSUER/.well-known/openid-configuration` says.",
    )
    oidc_secret: Secret = setting(
        default=Secret(""),
        description="Secret shared with the issuer, in place of public keys: 32 bytes or more.",
    )
    oidc_algorithms: str = setting(
        default="",
        description="Algorithms that may sign, separated by commas; never a token's own choice. "
        "Empty: `RS256,ES256`, and `HS256` with a secret.",
    )
    oidc_user_claim: str = setting(
        bounds=(1, None),
        default="sub",
        description="Claim that names the user, as events name owners. Choose one that users "
        "can't change.",
    )
    oidc_groups_claim: str = setting(
        bounds=(1, None),
        default="groups",
        description="Claim with the groups: a list, or a text, which is one group. Dots lead into "
        "objects, as in `realm_access.roles`.",
    )
    oidc_groups_separator: str = setting(
        bounds=(None, 16),
        default="",
        description="What stands between two groups, where the claim is one text with several. "
        "Empty: a text is one group, whatever is in its name.",
    )
    oidc_permissions_claim: str = setting(
        bounds=(1, None),
        default="permissions",
        description="Claim with the permissions: a list, or a text with spaces between, as "
        "`scope`; other words in it are ignored.",
    )
    keys_file: Path | None = setting(
        default=None,
        description="File of the API keys. Unset: `keys.json` in the data folder.",
    )
    max_request_rate: float = setting(
        bounds=(0.1, None),
        default=1_000.0,
        description="Requests a second that one user may send to one API process in the long run; "
        "more get 429. Far above any person, far below what would slow the others.",
    )
    max_request_burst: int = setting(
        bounds=(1, None),
        default=2_000,
        description="Requests that one user may send at once after a rest.",
    )
    max_connections: int = setting(
        bounds=(1, None),
        default=30_000,
        description="Connections that one API process holds; more get 503 and are closed. Every "
        "wait is one, so more than `JOBTRAIL_MAX_WAITS`.",
    )
    max_body_bytes: int = setting(
        bounds=(1 << 10, 16 << 20),
        default=1 << 20,
        description="Bytes of the largest body; a larger one gets 413. It is in memory as a whole.",
    )
    max_reads: int = setting(
        bounds=(1, None),
        default=256,
        description="Long reads (large pages, filters that match little, bulks, the past) that one "
        "API process answers or lets wait at a time; more get 503. They are done one by one, by "
        "turns of callers.",
    )
    max_reads_per_caller: int = setting(
        bounds=(1, None), default=32, description="The same for one caller; more get 429."
    )
    read_deadline: float = setting(
        bounds=(0.1, 600),
        default=10.0,
        description="Seconds after which a long read that has not had its turn gets 503. Clients "
        "give up and ask again after about as long.",
    )
    max_read_seconds: float = setting(
        bounds=(0.01, 600),
        default=2.0,
        description="Seconds that one long read may take without what it waits for; a longer one "
        "gets 503. For so long others may have to wait for theirs.",
    )
    max_read_rows: int = setting(
        bounds=(1_000, None),
        default=20_000,
        description="Jobs that one request looks at, whether they match or not: some 30 ms. A page "
        "then has fewer jobs than asked for, and `next` goes on.",
    )
    max_page_bytes: int = setting(
        bounds=(1 << 16, 64 << 20),
        default=2 << 20,
        description="Bytes of the jobs or events on a page, which then has fewer and a `next`, and "
        "of a part of a streamed answer; one job or event is always given.",
    )
    max_outgoing_bytes: int = setting(
        bounds=(1 << 20, None),
        default=256 << 20,
        description="Bytes of answers that one API process holds for clients that have not read "
        "them yet; more get 503, or wait where they have begun.",
    )
    max_outgoing_bytes_per_caller: int = setting(
        bounds=(1 << 17, None),
        default=16 << 20,
        description="The same for one caller; more get 429.",
    )
    read_timeout: float = setting(
        bounds=(0.05, 600),
        default=10.0,
        description="Seconds in which a body has to arrive; a slower one gets 408.",
    )
    idle_timeout: float = setting(
        bounds=(0.05, 3600),
        default=30.0,
        description="Seconds in which the head of the next request has to arrive, before the "
        "connection is closed.",
    )
    max_waits: int = setting(
        bounds=(1, None),
        default=20_000,
        description="Waits that one API process holds at a time; more get 429. 20,000 take "
        "about 320 MiB. All of them together watch 16 jobs for each at most.",
    )
    max_waits_per_caller: int = setting(
        bounds=(1, None),
        default=2_000,
        description="The same for one caller, who watches 16 jobs for each of these at most.",
    )
    max_feeds: int = setting(
        bounds=(1, None),
        default=500,
        description="Listeners to `GET /jobs/events` that one API process has at a time; more "
        "get 429. Each looks at every event.",
    )
    max_feeds_per_caller: int = setting(
        bounds=(1, None), default=50, description="The same for one caller."
    )
    feed_buffer_bytes: int = setting(
        bounds=(16 << 20, None),
        default=32 << 20,
        description="Bytes that an API process keeps of what listeners to `GET /jobs/events` are "
        "told: half of what came last, half of what those who come back read from the log. Each "
        "listener takes up to 128 KiB beside it, and what is kept no more is read again.",
    )
    tail_buffer_bytes: int = setting(
        bounds=(1 << 20, None),
        default=64 << 20,
        description="Bytes of events beyond the projections that an API process keeps for fresh "
        "statuses. With more lag, it answers waits as the projections catch up.",
    )
    max_events_folded: int = setting(
        bounds=(200, None),
        default=1000,
        description="Events beyond the projections that one request folds at most, some 6 us "
        "each: others wait for it. Where jobs have more, they are folded 200 at a time, once for "
        "all who ask, or the answer is 503.",
    )
    ready_stalled_after: float = setting(
        bounds=(6, None),
        default=30.0,
        description="Seconds after which `/readyz` is 503 where no projector says that it lives, "
        "or a partition has events to apply and stays where it is. A projector says so every 5 s.",
    )
    stalled_after: float = setting(
        bounds=(1, None),
        default=60.0,
        description="Seconds without progress, with events to apply, after which a projector "
        "ends itself to be restarted.",
    )
    hung_after: float = setting(
        bounds=(3, None),
        default=30.0,
        description="Seconds without a sign of life after which `jobtrail up` ends a process and "
        "starts it again. Longer than any pause of a machine under load, shorter than clients "
        "wait.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting(
        default="INFO", description="What the processes write to their logs."
    )

    def __post_init__(self) -> None:
        for name, value in _checked({name: getattr(self, name) for name in names()}).items():
            object.__setattr__(self, name, value)

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """Return the same settings with other values; SettingError where these are wrong."""
        return replace(self, **update)

    @property
    def keys_path(self) -> Path:
        """The file of the API keys."""
        return self.keys_file or self.data_dir / "keys.json"

    @property
    def store_folder(self) -> Path:
        """The folder of the SQLite store."""
        if self.store:
            return Path(self.store.removeprefix("sqlite:///"))
        return self.data_dir / "store"


def names() -> list[str]:
    """Return the names of all settings."""
    return [field.name for field in fields(Settings)]


def load(**overrides: object) -> Settings:
    """Read the settings from the environment, with `overrides` that are not None on top.

    Returns:
        The validated, frozen settings.

    Raises:
        SettingError: Values are wrong; every one is named with its bounds and where it came from.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    places = {name: place for name, place in _variables().items() if name not in given}
    read = {name: os.environ[place] for name, place in places.items()}
    return Settings(**_checked(given | read, places))


def is_in_environment(name: str) -> bool:
    """Tell whether a variable of the environment sets a setting."""
    return name in _variables()


def _variables() -> dict[str, str]:
    """Return the variables that set something, by the names of the settings."""
    # A variable counts in small letters too; an empty one counts as unset.
    there = {name.lower(): name for name, value in os.environ.items() if value}
    wanted = {name: f"{ENV_PREFIX}{name}".lower() for name in names()}
    return {name: there[variable] for name, variable in wanted.items() if variable in there}


def _checked(values: Mapping[str, object], places: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return values as their settings have them; SettingError where some are wrong."""
    found, faults = values_of(Settings, values, places)
    # What is wrong about several together does not say what was found: it has secrets.
    faults = faults or faults_of(found)
    if faults := faults or oidc.faults_of(
        found.get("oidc_issuer", ""),
        found.get("oidc_audience", ""),
        found.get("oidc_jwks_url", ""),
        found.get("oidc_secret", Secret("")).get_secret_value(),
        found.get("oidc_algorithms", ""),
    ):
        raise SettingError(
            "Settings can't be used: " + "; ".join(faults) + ".",
            hint="The bounds of each setting are in docs/settings.md.",
        )
    return found


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that give a child process exactly these settings."""
    found: dict[str, str] = {}
    for name in names():
        if (value := getattr(settings, name)) is not None:
            text = value.get_secret_value() if isinstance(value, Secret) else str(value)
            found[f"{ENV_PREFIX}{name.upper()}"] = text
    return found
