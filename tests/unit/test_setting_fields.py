"""What counts as a value of a setting of each kind, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobtrail.setting_fields import Secret, values_of
from jobtrail.settings import Settings

SECRET = "not to be shown"


@pytest.mark.parametrize(
    "given", ["nan", "inf", float("nan"), True, 1.5, None, b"1", "", "١", "1_0", " 1"]
)
def test_a_whole_number_is_nothing_else(given: object) -> None:
    found, faults = values_of(Settings, {"port": given})
    assert found == {}
    assert faults[0].startswith("setting port: Expected `int`, got ")


def test_what_is_not_a_number_is_out_of_every_bound() -> None:
    _, faults = values_of(Settings, {"max_request_rate": "nan", "read_timeout": float("nan")})
    assert faults == [
        "setting max_request_rate: Expected `float` >= 0.1 (found 'nan')",
        "setting read_timeout: Expected `float` >= 0.05 (found nan)",
    ]


def test_texts_paths_and_secrets_are_what_they_have_to_be() -> None:
    _, faults = values_of(
        Settings,
        {
            "topic": "",
            "group": 5,
            "oidc_groups_separator": "x" * 17,
            "data_dir": 5,
            "oidc_secret": 1,
        },
    )
    assert faults == [
        "setting topic: Expected `str` of length >= 1 (found '')",
        "setting group: Expected `str`, got `int` (found 5)",
        f"setting oidc_groups_separator: Expected `str` of length <= 16 (found {'x' * 17!r})",
        "setting data_dir: Expected `path` (found 5)",
        "setting oidc_secret: Expected `str` (found 1)",
    ]
    found, _ = values_of(Settings, {"data_dir": "d", "ssl_cafile": None, "oidc_secret": SECRET})
    assert found == {"data_dir": Path("d"), "ssl_cafile": None, "oidc_secret": Secret(SECRET)}


def test_a_secret_is_shown_nowhere_but_where_it_is_asked_for() -> None:
    secret = Secret(SECRET)
    assert SECRET not in f"{secret} {secret!r}"
    assert secret.get_secret_value() == SECRET
    assert {secret, Secret(SECRET)} == {secret}
    assert secret != SECRET
