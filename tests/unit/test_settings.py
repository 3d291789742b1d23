"""Settings: every bound, what an error names, the way to a child process, and their page.

`python tests/unit/test_settings.py` writes the table of docs/settings.md anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from jobtrail.core.errors import SettingError
from jobtrail.setting_fields import Secret, about
from jobtrail.settings import ENV_PREFIX, Settings, as_environment, default_data_dir, load, names

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "settings.md"
HEAD = "| variable | default | what |"

# Typed from the meaning of each setting: name, lowest, highest (None: no bound), step beyond.
BOUNDS: list[tuple[str, float, float | None, float]] = [
    ("projector_nice", 0, 19, 1),
    ("partitions", 1, 1024, 1),
    ("replication", 1, 9, 1),
    ("max_batch_bytes", 1 << 20, 1 << 30, 1),
    ("max_batch_records", 1_000, 10_000_000, 1),
    ("shards", 1, 64, 1),
    ("port", 0, 65535, 1),
    ("drain", 0, 600, 0.01),
    ("health_port", 0, 65535, 1),
    ("max_request_rate", 0.1, None, 0.01),
    ("max_request_burst", 1, None, 1),
    ("max_connections", 1, None, 1),
    ("max_body_bytes", 1 << 10, 16 << 20, 1),
    ("read_timeout", 0.05, 600, 0.01),
    ("idle_timeout", 0.05, 3600, 0.01),
    ("max_waits", 1, None, 1),
    ("max_waits_per_caller", 1, None, 1),
    ("max_reads", 1, None, 1),
    ("max_reads_per_caller", 1, None, 1),
    ("read_deadline", 0.1, 600, 0.01),
    ("max_read_seconds", 0.01, 600, 0.001),
    ("max_read_rows", 1_000, None, 1),
    ("max_page_bytes", 1 << 16, 64 << 20, 1),
    ("max_outgoing_bytes", 1 << 20, None, 1),
    ("max_outgoing_bytes_per_caller", 1 << 17, None, 1),
    ("max_feeds", 1, None, 1),
    ("max_feeds_per_caller", 1, None, 1),
    ("feed_buffer_bytes", 16 << 20, None, 1),
    ("tail_buffer_bytes", 1 << 20, None, 1),
    ("max_events_folded", 200, None, 1),
    ("ready_stalled_after", 6, None, 0.001),
    ("stalled_after", 1, None, 0.001),
    ("hung_after", 3, None, 0.001),
    ("sasl_oauth_timeout", 0.1, 300, 0.01),
]
LOWS = [(name, low, low - step) for name, low, _, step in BOUNDS]
HIGHS = [(name, high, high + step) for name, _, high, step in BOUNDS if high is not None]
CHOICES = [
    ("security_protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]),
    ("sasl_mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]),
    ("log_level", ["DEBUG", "INFO", "WARNING", "ERROR"]),
]
SECRET = "not to be shown"
OTHERS: dict[str, Any] = {
    "bootstrap_servers": "a:9092,b:9092",
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "PLAIN",
    "sasl_username": "me",
    "sasl_password": Secret(SECRET),
    "sasl_oauth_token_url": "https://id.example.org/token",
    "sasl_oauth_client_id": "client",
    "sasl_oauth_client_secret": Secret(SECRET),
    "sasl_oauth_scope": "kafka",
    "sasl_oauth_cafile": Path("id.pem"),
    "sasl_oauth_timeout": 4.5,
    "ssl_cafile": Path("ca.pem"),
    "ssl_certfile": Path("us.pem"),
    "ssl_keyfile": Path("us.key"),
    "ssl_key_password": Secret(SECRET),
    "ssl_check_hostname": False,
    "topic": "t",
    "dead_topic": "d",
    "group": "g",
    "partitions": 3,
    "replication": 2,
    "max_batch_bytes": 2 << 20,
    "max_batch_records": 2_000,
    "data_dir": Path("some folder/é"),
    "projector_nice": 3,
    "store": "sqlite:///folder",
    "shards": 5,
    "host": "::1",
    "port": 0,
    "drain": 1.75,
    "health_host": "::2",
    "health_port": 5,
    "oidc_issuer": "https://id.example.org/",
    "oidc_audience": "jobs",
    "oidc_jwks_url": "",
    "oidc_secret": Secret(SECRET * 4),
    "oidc_algorithms": "HS384",
    "oidc_user_claim": "email",
    "oidc_groups_claim": "realm_access.roles",
    "oidc_groups_separator": ",",
    "oidc_permissions_claim": "scope",
    "keys_file": Path("keys"),
    "max_request_rate": 2.5,
    "max_request_burst": 3,
    "max_connections": 11,
    "max_body_bytes": 2048,
    "max_reads": 9,
    "max_reads_per_caller": 8,
    "read_deadline": 3.5,
    "max_read_seconds": 0.5,
    "max_read_rows": 5_000,
    "max_page_bytes": 1 << 17,
    "max_outgoing_bytes": 1 << 21,
    "max_outgoing_bytes_per_caller": 1 << 18,
    "read_timeout": 1.5,
    "idle_timeout": 2.25,
    "max_waits": 7,
    "max_waits_per_caller": 6,
    "max_feeds": 5,
    "max_feeds_per_caller": 4,
    "feed_buffer_bytes": 1 << 26,
    "tail_buffer_bytes": 1 << 21,
    "max_events_folded": 300,
    "ready_stalled_after": 7.5,
    "stalled_after": 1.25,
    "hung_after": 12.5,
    "log_level": "DEBUG",
}
PUBLIC_KEYS = OTHERS | {
    "oidc_jwks_url": "https://id.example.org/keys",
    "oidc_secret": Secret(""),
    "oidc_algorithms": "PS256,EdDSA",
}


@pytest.fixture(name="env", autouse=True)
def only_the_tests_variables() -> Iterator[MutableMapping[str, str]]:
    """Give the environment without `JOBTRAIL_*`, and put those back afterwards."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(ENV_PREFIX)}
    yield os.environ
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    os.environ.update(kept)


Env = MutableMapping[str, str]


def variable(name: str) -> str:
    return f"JOBTRAIL_{name.upper()}"


# --- bounds


@pytest.mark.parametrize(("name", "bound", "beyond"), LOWS + HIGHS)
def test_a_number_has_its_bounds_and_the_error_names_variable_and_bound(
    env: Env, name: str, bound: float, beyond: float
) -> None:
    env[variable(name)] = str(bound)
    assert getattr(load(), name) == bound
    env[variable(name)] = str(beyond)
    with pytest.raises(SettingError) as refused:
        load()
    kind = get_type_hints(Settings)[name].__name__
    than = ">=" if beyond < bound else "<="
    assert f"{variable(name)}: Expected `{kind}` {than} {bound}" in str(refused.value)
    assert f"found '{beyond}'" in str(refused.value)


@pytest.mark.parametrize(("name", "choices"), CHOICES)
def test_a_choice_is_one_of_its_words_and_the_error_names_them(
    env: Env, name: str, choices: list[str]
) -> None:
    env |= {"JOBTRAIL_SASL_USERNAME": "me", "JOBTRAIL_SASL_PASSWORD": SECRET}
    for choice in choices:
        env[variable(name)] = choice
        assert getattr(load(), name) == choice
    env[variable(name)] = "other"
    with pytest.raises(SettingError) as refused:
        load()
    assert f"{variable(name)}: " in str(refused.value)
    assert all(f"'{choice}'" in str(refused.value) for choice in choices)


@pytest.mark.parametrize("name", [name for name, *_ in BOUNDS])
def test_a_number_is_no_word(env: Env, name: str) -> None:
    env[variable(name)] = "many"
    with pytest.raises(SettingError, match=variable(name)):
        load()


def test_no_bound_is_missing_here() -> None:
    kinds = get_type_hints(Settings).items()
    assert {name for name, kind in kinds if kind in (int, float)} == {n for n, *_ in BOUNDS}
    assert {n for n, kind in kinds if get_origin(kind) is Literal} == dict(CHOICES).keys()


@pytest.mark.parametrize("store", ["postgresql://h/d", "sqlite://x", "/folder"])
def test_a_store_is_of_a_known_kind(env: Env, store: str) -> None:
    env["JOBTRAIL_STORE"] = store
    with pytest.raises(SettingError, match=r"JOBTRAIL_STORE.*sqlite:///FOLDER"):
        load()


def test_the_stores_folder_is_the_named_one_else_that_in_the_data_folder() -> None:
    assert load(store="sqlite:///some/folder").store_folder == Path("some/folder")
    assert load(store="sqlite:////top").store_folder == Path("/top")
    assert load(data_dir=Path("d"), store="").store_folder == Path("d/store")


# --- errors


def test_every_wrong_setting_is_named_with_where_it_came_from(env: Env) -> None:
    env["JOBTRAIL_PORT"] = "70000"
    with pytest.raises(SettingError) as refused:
        load(shards=0, partitions=2000)
    for part in ("JOBTRAIL_PORT: ", "setting shards: ", "setting partitions: "):
        assert part in str(refused.value)
    assert refused.value.hint == "The bounds of each setting are in docs/settings.md."
    assert not refused.value.retriable


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingError, match="setting colour"):
        load(colour="red")


def test_a_wrong_override_is_not_laid_on_a_right_variable(env: Env) -> None:
    env["JOBTRAIL_PORT"] = "8040"
    with pytest.raises(SettingError, match="setting port"):
        load(port=-1)


# --- where values come from


def test_defaults_hold_without_variables(env: Env) -> None:
    assert load() == Settings()
    assert load().data_dir == default_data_dir()
    assert not [name for name in env if name.startswith(ENV_PREFIX)]


def test_an_override_wins_over_a_variable_and_none_is_no_override(env: Env) -> None:
    env["JOBTRAIL_PORT"] = "1"
    assert load(port=2).port == 2
    assert load(port=None).port == 1


def test_an_empty_variable_counts_as_unset(env: Env) -> None:
    env["JOBTRAIL_PORT"] = ""
    assert load().port == 8040


@pytest.mark.parametrize("name", names())
def test_settings_are_frozen(name: str) -> None:
    settings = Settings()
    with pytest.raises(FrozenInstanceError):
        setattr(settings, name, OTHERS[name])


def test_the_password_is_not_shown() -> None:
    assert SECRET not in repr(load(**OTHERS))


def test_a_variable_counts_in_small_letters_too(env: Env) -> None:
    env["jobtrail_port"] = "7"
    assert load().port == 7


def test_a_changed_copy_is_checked_too() -> None:
    assert load(port=1).model_copy(update={"port": 2}) == load(port=2)
    with pytest.raises(SettingError, match="setting port"):
        load().model_copy(update={"port": -1})


# --- to a child process


def test_the_values_here_are_other_than_the_defaults_for_every_setting() -> None:
    assert list(OTHERS) == names()
    same = [name for name, value in OTHERS.items() if getattr(Settings(), name) == value]
    # It excludes the secret; `PUBLIC_KEYS` has it.
    assert same == ["oidc_jwks_url"]


@pytest.mark.parametrize("values", [{}, OTHERS, PUBLIC_KEYS], ids=["defaults", "others", "keys"])
def test_as_environment_gives_the_same_settings_again(env: Env, values: dict[str, Any]) -> None:
    settings = load(**values)
    env.update(as_environment(settings))
    assert load() == settings


def test_a_child_process_reads_exactly_these_settings(env: Env) -> None:
    settings = load(**OTHERS)
    code = "from jobtrail.settings import *; import json; print(json.dumps(as_environment(load())))"
    child = {**env, **as_environment(settings), "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=child, capture_output=True, check=True)
    assert as_environment(settings) == json.loads(run.stdout)


@pytest.mark.parametrize("name", ["topic", "dead_topic", "group", "host"])
def test_an_empty_name_is_refused_or_kept(env: Env, name: str) -> None:
    try:
        settings = load(**{name: ""})
    except SettingError:
        return
    env.update(as_environment(settings))
    assert load() == settings


# --- the page


def rendered() -> str:
    """Return the table of docs/settings.md, made from the settings."""
    rows = [HEAD, "|---|---|---|"]
    for field in fields(Settings):
        default = None if field.default is MISSING else field.default
        if isinstance(default, Secret):
            default = default.get_secret_value()
        shown = "empty" if default == "" else "unset" if default is None else f"`{default}`"
        if field.default_factory is default_data_dir:
            shown = "the user's data folder, by platformdirs"
        what = [about(field).description, *bounds_of(field)]
        rows.append(f"| `{variable(field.name)}` | {shown} | {' '.join(what)} |")
    return "\n".join(rows) + "\n"


def bounds_of(field: Field[Any]) -> list[str]:
    """Return a setting's bounds in words."""
    kind = get_type_hints(Settings)[field.name]
    if get_origin(kind) is Literal:
        return [f"One of {', '.join(f'`{word}`' for word in get_args(kind))}."]
    if kind not in (int, float):
        return []
    bounds = about(field)
    words = [f"at least {bounds.least}"] if bounds.least is not None else []
    words += [f"at most {bounds.most}"] if bounds.most is not None else []
    return [f"{', '.join(words)}.".capitalize()] if words else []


def test_the_pages_table_is_that_of_the_settings() -> None:
    table = HEAD + PAGE.read_text(encoding="utf-8").split(HEAD, 1)[1].split("\n\n", 1)[0]
    assert table.strip().splitlines() == rendered().splitlines()


def test_every_setting_is_described() -> None:
    for field in fields(Settings):
        assert about(field).description.endswith("."), field.name


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").split(HEAD, 1)[0]
    PAGE.write_text(head + rendered(), encoding="utf-8")
