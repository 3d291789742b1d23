"""Every setting of every process, in one frozen object that is validated once at start.

The environment is read here and nowhere else. Each setting has a unit, a default and a reason;
the table in docs/settings.md is tested against this module.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from jobtrail import oidc_settings as oidc
from jobtrail.core.errors import SettingError
from jobtrail.kafka_settings import KafkaSettings, Name

ENV_PREFIX = "JOBTRAIL_"


def default_data_dir() -> Path:
    """Return the folder for this user's local service (platformdirs' user data folder)."""
    return Path(platformdirs.user_data_dir("jobtrail", appauthor=False))


class Settings(KafkaSettings):
    """What a jobtrail process needs to know, from `JOBTRAIL_*` variables or from its caller.

    Raises:
        pydantic.ValidationError: A value is out of bounds; `load` turns it into a SettingError.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Folder of the local service: broker, store, secret, logs.",
    )
    projector_nice: Annotated[int, Field(ge=0, le=19)] = Field(
        default=5,
        description="How far a projector stands back where others want the same processor, as of "
        "`nice`; 0: not at all. So answers come first while very much is written. Where a "
        "processor is free it gains or costs nothing.",
    )
    store: str = Field(
        default="",
        description="Projection store, `sqlite:///FOLDER`. Empty: the folder `store` in the data "
        "folder.",
    )
    shards: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2,
        description="SQLite files of a new store. One writer each: two use two cores.",
    )
    host: Name = Field(default="127.0.0.1", description="Address that the API listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8040, description="Port of the API. 0: a free one."
    )
    oidc_issuer: str = Field(
        default="",
        description="Issuer whose tokens count beside the local service's, exactly as in their "
        "`iss`. Empty: none.",
    )
    oidc_audience: str = Field(
        default="",
        description="What those tokens have to name in `aud`: one made for another service proves "
        "nothing here.",
    )
    oidc_jwks_url: str = Field(
        default="",
        description="Where the issuer's public keys are. Empty: as "
        "`ISSUER/.well-known/openid-configuration` says.",
    )
    oidc_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Secret shared with the issuer, in place of public keys: 32 bytes or more.",
    )
    oidc_algorithms: str = Field(
        default="",
        description="Algorithms that may sign, separated by commas; never a token's own choice. "
        "Empty: `RS256,ES256`, and `HS256` with a secret.",
    )
    oidc_user_claim: Name = Field(
        default="sub",
        description="Claim that names the user, as events name owners. Choose one that users "
        "can't change.",
    )
    oidc_groups_claim: Name = Field(
        default="groups",
        description="Claim with the groups: a list, or a text, which is one group. Dots lead into "
        "objects, as in `realm_access.roles`.",
    )
    oidc_groups_separator: Annotated[str, Field(max_length=16)] = Field(
        default="",
        description="What stands between two groups, where the claim is one text with several. "
        "Empty: a text is one group, whatever is in its name.",
    )
    oidc_permissions_claim: Name = Field(
        default="permissions",
        description="Claim with the permissions: a list, or a text with spaces between, as "
        "`scope`; other words in it are ignored.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="File of the API keys. Unset: `keys.json` in the data folder.",
    )
    max_request_rate: Annotated[float, Field(ge=0.1)] = Field(
        default=1_000.0,
        description="Requests a second that one user may send to one API process in the long run; "
        "more get 429. Far above any person, far below what would slow the others.",
    )
    max_request_burst: Annotated[int, Field(ge=1)] = Field(
        default=2_000, description="Requests that one user may send at once after a rest."
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        default=30_000,
        description="Connections that one API process holds; more get 503 and are closed. Every "
        "wait is one, so more than `JOBTRAIL_MAX_WAITS`.",
    )
    max_body_bytes: Annotated[int, Field(ge=1 << 10, le=16 << 20)] = Field(
        default=1 << 20,
        description="Bytes of the largest body; a larger one gets 413. It is held in memory whole.",
    )
    max_ids: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1000, description="Ids that one call may ask for; the contract has 1,000."
    )
    max_page_size: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1000, description="Jobs or events on a page at most; the contract has 1,000."
    )
    max_reads: Annotated[int, Field(ge=1)] = Field(
        default=256,
        description="Long reads (large pages, filters that match little, bulks, the past) that one "
        "API process answers or lets wait at a time; more get 503. They are done one by one, by "
        "turns of callers.",
    )
    max_reads_per_caller: Annotated[int, Field(ge=1)] = Field(
        default=32, description="The same for one caller; more get 429."
    )
    read_deadline: Annotated[float, Field(ge=0.1, le=600)] = Field(
        default=10.0,
        description="Seconds after which a long read that has not had its turn gets 503. Clients "
        "give up and ask again after about as long.",
    )
    max_read_seconds: Annotated[float, Field(ge=0.01, le=600)] = Field(
        default=2.0,
        description="Seconds that one long read may take without what it waits for; a longer one "
        "gets 503. For so long others may have to wait for theirs.",
    )
    max_read_rows: Annotated[int, Field(ge=1_000)] = Field(
        default=20_000,
        description="Jobs that one request looks at, whether they match or not: some 30 ms. A page "
        "then has fewer jobs than asked for, and `next` goes on.",
    )
    max_page_bytes: Annotated[int, Field(ge=1 << 16, le=64 << 20)] = Field(
        default=2 << 20,
        description="Bytes of the jobs or events on a page, which then has fewer and a `next`, and "
        "of a part of a streamed answer; one job or event is always given.",
    )
    max_outgoing_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        default=256 << 20,
        description="Bytes of answers that one API process holds for clients that have not read "
        "them yet; more get 503, or wait where they have begun.",
    )
    max_outgoing_bytes_per_caller: Annotated[int, Field(ge=1 << 17)] = Field(
        default=16 << 20, description="The same for one caller; more get 429."
    )
    read_timeout: Annotated[float, Field(ge=0.05, le=600)] = Field(
        default=10.0,
        description="Seconds in which a body has to arrive; a slower one gets 408.",
    )
    idle_timeout: Annotated[float, Field(ge=0.05, le=3600)] = Field(
        default=30.0,
        description="Seconds in which the head of the next request has to arrive, before the "
        "connection is closed.",
    )
    max_waits: Annotated[int, Field(ge=1)] = Field(
        default=20_000,
        description="Waits that one API process holds at a time; more get 429. 20,000 take "
        "about 320 MiB. All of them together watch 16 jobs for each at most.",
    )
    max_waits_per_caller: Annotated[int, Field(ge=1)] = Field(
        default=2_000,
        description="The same for one caller, who watches 16 jobs for each of these at most.",
    )
    max_feeds: Annotated[int, Field(ge=1)] = Field(
        default=500,
        description="Listeners to `GET /jobs/events` that one API process has at a time; more "
        "get 429. Each looks at every event.",
    )
    max_feeds_per_caller: Annotated[int, Field(ge=1)] = Field(
        default=50, description="The same for one caller."
    )
    feed_buffer_bytes: Annotated[int, Field(ge=16 << 20)] = Field(
        default=32 << 20,
        description="Bytes that an API process keeps of what listeners to `GET /jobs/events` are "
        "told: half of what came last, half of what those who come back read from the log. Each "
        "listener takes up to 128 KiB beside it, and what is kept no more is read again.",
    )
    tail_buffer_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        default=64 << 20,
        description="Bytes of events beyond the projections that an API process keeps for fresh "
        "statuses. Behind by more, it answers waits as the projections catch up.",
    )
    max_events_folded: Annotated[int, Field(ge=200)] = Field(
        default=1000,
        description="Events beyond the projections that one request folds at most, some 6 us "
        "each: others wait for it. Where jobs have more, they are folded 200 at a time, once for "
        "all who ask, or the answer is 503.",
    )
    ready_stalled_after: Annotated[float, Field(ge=6)] = Field(
        default=30.0,
        description="Seconds after which `/readyz` is 503 where no projector says that it lives, "
        "or a partition has events to apply and stays where it is. A projector says so every 5 s.",
    )
    stalled_after: Annotated[float, Field(ge=1)] = Field(
        default=60.0,
        description="Seconds without progress, with events to apply, after which a projector "
        "ends itself to be started anew.",
    )
    hung_after: Annotated[float, Field(ge=3)] = Field(
        default=30.0,
        description="Seconds without a sign of life after which `jobtrail up` ends a process and "
        "starts it again. Longer than any pause of a machine under load, shorter than clients "
        "wait.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="What the processes write to their logs."
    )

    @field_validator("store")
    @classmethod
    def _store_is_known(cls, value: str) -> str:
        if value and not value.startswith("sqlite:///"):
            raise ValueError("expected sqlite:///FOLDER")
        return value

    @model_validator(mode="after")
    def _provider_is_whole(self) -> Self:
        faults = oidc.faults_of(
            self.oidc_issuer,
            self.oidc_audience,
            self.oidc_jwks_url,
            self.oidc_secret.get_secret_value(),
            self.oidc_algorithms,
        )
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _client_secret_goes_by_tls(self) -> Self:
        if self.sasl_oauth_token_url and not oidc.is_safe(self.sasl_oauth_token_url):
            raise ValueError(
                "JOBTRAIL_SASL_OAUTH_TOKEN_URL: expected https://..., or http:// on this machine, "
                "since the client secret is sent there"
            )
        return self

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


def load(**overrides: object) -> Settings:
    """Read the settings from the environment, with `overrides` that are not None on top.

    Returns:
        The validated, frozen settings.

    Raises:
        SettingError: Values are wrong; every one is named with its bounds and where it came from.
    """
    try:
        return Settings(**{k: v for k, v in overrides.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False):
            if not fault["loc"]:
                # About several together: it names them itself, and what was found has secrets.
                faults.append(fault["msg"])
                continue
            name = str(fault["loc"][0])
            source = f"{ENV_PREFIX}{name.upper()}"
            from_environment = overrides.get(name) is None and source in os.environ
            place = source if from_environment else f"setting {name}"
            faults.append(f"{place}: {fault['msg']} (found {fault['input']!r})")
        raise SettingError(
            "Settings can't be used: " + "; ".join(faults) + ".",
            hint="The bounds of each setting are in docs/settings.md.",
        ) from None


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that give a child process exactly these settings."""
    found: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            found[f"{ENV_PREFIX}{name.upper()}"] = str(value)
    return found
