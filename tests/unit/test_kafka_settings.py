"""Which settings of Kafka go together, and files that can't be used: each in one sentence."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobtrail.core.errors import SettingError
from jobtrail.log.kafka import kafka_security
from jobtrail.settings import Settings, load
from projections.projector.app import credentials
from tests.certificates import Authority

SECRET = "not to be shown"
OAUTH = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "OAUTHBEARER",
    "sasl_oauth_token_url": "https://id.example.org/token",
    "sasl_oauth_client_id": "client",
    "sasl_oauth_client_secret": SECRET,
}
SCRAM = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "me", "sasl_password": SECRET}


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        (SCRAM | {"sasl_username": ""}, "USERNAME"),
        (SCRAM | {"sasl_password": ""}, "PASSWORD"),
        (SCRAM | {"sasl_password": "", "sasl_mechanism": "PLAIN"}, "PASSWORD"),
        (OAUTH | {"sasl_oauth_token_url": ""}, "OAUTH_TOKEN_URL"),
        (OAUTH | {"sasl_oauth_client_id": ""}, "OAUTH_CLIENT_ID"),
        (OAUTH | {"sasl_oauth_client_secret": ""}, "OAUTH_CLIENT_SECRET"),
    ],
)
def test_what_a_mechanism_needs_is_named_where_it_is_missing(
    values: dict[str, Any], missing: str
) -> None:
    protocol, mechanism = values["security_protocol"], values.get("sasl_mechanism", "SCRAM-SHA-512")
    with pytest.raises(SettingError) as refused:
        load(**values)
    sentence = (
        f"JOBTRAIL_SASL_{missing} is needed with JOBTRAIL_SECURITY_PROTOCOL={protocol} and "
        f"JOBTRAIL_SASL_MECHANISM={mechanism}"
    )
    assert sentence in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("values", [OAUTH, SCRAM, SCRAM | {"sasl_mechanism": "PLAIN"}])
def test_what_is_whole_is_taken_and_nothing_secret_shown(values: dict[str, Any]) -> None:
    assert SECRET not in repr(load(**values)) + str(load(**values))


@pytest.mark.parametrize("url", ["http://id.example.org/token", "id.example.org", "ftp://x/"])
def test_a_client_secret_is_sent_nowhere_in_the_clear(url: str) -> None:
    with pytest.raises(SettingError, match=r"TOKEN_URL: expected https://.*secret is sent there"):
        load(**OAUTH | {"sasl_oauth_token_url": url})
    assert load(**OAUTH | {"sasl_oauth_token_url": "http://127.0.0.1:1/token"})


def test_a_key_belongs_to_a_certificate() -> None:
    with pytest.raises(SettingError) as refused:
        load(ssl_keyfile=Path("key"), ssl_key_password=SECRET)
    for name in ("KEYFILE", "KEY_PASSWORD"):
        sentence = f"JOBTRAIL_SSL_{name} means nothing without JOBTRAIL_SSL_CERTFILE"
        assert sentence in str(refused.value)
    assert SECRET not in str(refused.value)


def test_the_certificate_is_shown_and_names_are_checked_unless_told_otherwise(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    us = authority.issue("us", password=SECRET)
    settings = Settings(
        security_protocol="SSL",
        ssl_cafile=authority.file,
        ssl_certfile=us.certificate,
        ssl_keyfile=us.key,
        ssl_key_password=SECRET,
    )
    assert kafka_security(settings)["ssl_context"].check_hostname
    assert SECRET not in repr(settings)
    lax = kafka_security(settings.model_copy(update={"ssl_check_hostname": False}))["ssl_context"]
    assert (lax.check_hostname, lax.verify_mode) == (False, ssl.CERT_REQUIRED)


def _without_password(folder: Path, values: dict[str, Any]) -> None:
    del values["ssl_key_password"]


def _wrong_password(folder: Path, values: dict[str, Any]) -> None:
    values["ssl_key_password"] = "wrong"


def _key_of_another(folder: Path, values: dict[str, Any]) -> None:
    values["ssl_keyfile"] = Authority(folder, "other.pem").issue("other", password=SECRET).key


def _no_pem(folder: Path, values: dict[str, Any]) -> None:
    values["ssl_certfile"].write_text("no certificate")


def _key_missing(folder: Path, values: dict[str, Any]) -> None:
    values["ssl_keyfile"] = folder / "missing"


def _certificate_missing(folder: Path, values: dict[str, Any]) -> None:
    values["ssl_certfile"] = folder / "missing"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_without_password, "The client certificate can't be used."),
        (_wrong_password, "The client certificate can't be used."),
        (_key_of_another, "The client certificate can't be used."),
        (_no_pem, "The client certificate can't be used."),
        (
            _key_missing,
            "A file of the client certificate can't be read. Where: setting ssl_keyfile",
        ),
        (
            _certificate_missing,
            "A file of the client certificate can't be read. Where: setting ssl_certfile",
        ),
    ],
)
def test_a_certificate_that_cant_be_used_is_named(
    tmp_path: Path, damage: Callable[[Path, dict[str, Any]], None], said: str
) -> None:
    us = Authority(tmp_path).issue("us", password=SECRET)
    values = {
        "security_protocol": "SSL",
        "ssl_certfile": us.certificate,
        "ssl_keyfile": us.key,
        "ssl_key_password": SECRET,
    }
    damage(tmp_path, values)
    with pytest.raises(SettingError) as refused:
        kafka_security(Settings(**values))
    assert str(refused.value).startswith(said)
    assert SECRET not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_certificate_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    us = Authority(tmp_path).issue("us")
    us.key.chmod(0)
    settings = Settings(security_protocol="SSL", ssl_certfile=us.certificate, ssl_keyfile=us.key)
    with pytest.raises(SettingError, match=r"can't be read.*Permission denied"):
        kafka_security(settings)


def test_faust_is_told_what_every_other_client_is(tmp_path: Path) -> None:
    cafile = Authority(tmp_path).file
    assert credentials(Settings()) is None
    tls = credentials(Settings(security_protocol="SSL", ssl_cafile=cafile))
    assert tls.protocol.value == "SSL"
    scram = credentials(Settings(**SCRAM))
    assert (scram.protocol.value, scram.username, scram.password) == (
        "SASL_PLAINTEXT",
        "me",
        SECRET,
    )
    assert scram.mechanism.value == "SCRAM-SHA-512"
    oauth = credentials(Settings(**OAUTH))
    assert (oauth.protocol.value, oauth.mechanism.value) == ("SASL_SSL", "OAUTHBEARER")
    assert SECRET not in f"{tls!r}{scram!r}{oauth!r}"
