"""Which settings of an OIDC provider go together, and what is said of those that don't."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from jobtrail.core.errors import SettingError
from jobtrail.oidc_settings import ASYMMETRIC, is_safe
from jobtrail.settings import load
from services.api.access.provider import Provider, claim_at
from services.api.limits.limits import Timeouts

PAGE = Path(__file__).parents[2] / "docs" / "authentication.md"
URL = "https://id.example.org/realms/jobs"
SECRET = "0123456789abcdef" * 2
GOOD: dict[str, Any] = {"oidc_issuer": URL, "oidc_audience": "jobs"}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"oidc_algorithms": "RS256, ES256,EdDSA"},
        {"oidc_jwks_url": "https://id.example.org/keys"},
        {"oidc_jwks_url": "http://127.0.0.1:8080/keys", "oidc_issuer": "any name"},
        {"oidc_secret": SECRET, "oidc_issuer": "any name"},
        {"oidc_secret": SECRET * 2, "oidc_algorithms": "HS384,HS512"},
    ],
)
def test_what_goes_together_is_taken(values: dict[str, Any]) -> None:
    assert load(**GOOD | values).oidc_audience == "jobs"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"oidc_issuer": ""}, ["OIDC_AUDIENCE", "OIDC_ISSUER"]),
        ({"oidc_issuer": "", "oidc_audience": "", "oidc_secret": SECRET}, ["OIDC_SECRET"]),
        ({"oidc_issuer": "", "oidc_audience": "", "oidc_jwks_url": URL}, ["OIDC_JWKS_URL"]),
        ({"oidc_issuer": "", "oidc_audience": "", "oidc_algorithms": "RS256"}, ["OIDC_ALGOR"]),
        ({"oidc_audience": ""}, ["OIDC_AUDIENCE", "OIDC_ISSUER"]),
        ({"oidc_issuer": "jobtrail-local", "oidc_jwks_url": URL}, ["OIDC_ISSUER"]),
        ({"oidc_jwks_url": URL, "oidc_secret": SECRET}, ["OIDC_JWKS_URL", "OIDC_SECRET"]),
        ({"oidc_issuer": "http://id.example.org"}, ["OIDC_ISSUER", "https"]),
        ({"oidc_issuer": "no place"}, ["OIDC_ISSUER", "https"]),
        ({"oidc_jwks_url": "http://id.example.org/keys"}, ["OIDC_JWKS_URL", "https"]),
        ({"oidc_jwks_url": "file:///etc/keys"}, ["OIDC_JWKS_URL"]),
        ({"oidc_algorithms": "HS256"}, ["OIDC_ALGORITHMS", "HS256", "public keys", "RS256"]),
        ({"oidc_algorithms": "RS256,none"}, ["OIDC_ALGORITHMS", "'none'"]),
        ({"oidc_algorithms": "RS256,"}, ["OIDC_ALGORITHMS", "''"]),
        ({"oidc_secret": SECRET, "oidc_algorithms": "HS256,RS256"}, ["OIDC_ALGORITHMS", "RS256"]),
        ({"oidc_secret": "too short"}, ["OIDC_SECRET", "32 bytes"]),
        ({"oidc_secret": SECRET, "oidc_algorithms": "HS512"}, ["OIDC_SECRET", "64 bytes"]),
    ],
)
def test_what_does_not_is_refused_by_its_names(values: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(SettingError) as refused:
        load(**GOOD | values)
    assert all(name in str(refused.value) for name in named), str(refused.value)
    for secret in (SECRET, "too short"):
        assert secret not in str(refused.value)


def test_a_wrong_combination_in_the_environment_shows_no_secret_of_it() -> None:
    os.environ["JOBTRAIL_SASL_PASSWORD"] = "a password"
    os.environ["JOBTRAIL_OIDC_SECRET"] = SECRET
    try:
        with pytest.raises(SettingError) as refused:
            load()
    finally:
        del os.environ["JOBTRAIL_SASL_PASSWORD"], os.environ["JOBTRAIL_OIDC_SECRET"]
    assert "JOBTRAIL_OIDC_SECRET" in str(refused.value)
    assert SECRET not in str(refused.value)
    assert "a password" not in str(refused.value)


def test_every_example_of_the_page_can_be_used() -> None:
    blocks = re.findall(r"```sh\n(JOBTRAIL_.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        pairs = (line.split("=", 1) for line in block.splitlines())
        settings = load(**{name.removeprefix("JOBTRAIL_").lower(): text for name, text in pairs})
        assert Provider(settings, Timeouts()).issuer == settings.oidc_issuer


def test_a_public_key_is_no_secret() -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYI\n-----END PUBLIC KEY-----\n"
    settings = load(**GOOD, oidc_secret=pem)
    with pytest.raises(SettingError) as refused:
        Provider(settings, Timeouts())
    assert refused.value.where == "JOBTRAIL_OIDC_SECRET"


def test_no_algorithm_with_public_keys_is_one_with_a_secret() -> None:
    assert not [name for name in ASYMMETRIC if name.startswith("HS") or name == "none"]


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://id.example.org", True),
        ("http://localhost:8080/x", True),
        ("http://[::1]:8080", True),
        ("http://localhost.example.org", False),
        ("http://127.0.0.1@example.org/", False),
        ("https://", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_keys_are_fetched_by_tls_or_from_this_machine(url: str, safe: bool) -> None:
    assert is_safe(url) is safe


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("scope", "a b"),
        ("realm_access.roles", ["x"]),
        ("https://example.org/roles", ["y"]),
        ("resource_access.jobs.example.roles", ["z"]),
        ("realm_access.none", None),
        ("scope.more", None),
        ("none", None),
        (".", None),
    ],
)
def test_a_claim_is_found_by_its_name_or_its_path(path: str, found: Any) -> None:
    claims = {
        "scope": "a b",
        "realm_access": {"roles": ["x"]},
        "https://example.org/roles": ["y"],
        "resource_access": {"jobs.example": {"roles": ["z"]}},
    }
    assert claim_at(claims, path) == found
