"""What counts as a value of a setting of each kind, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobtrail.setting_fields import Secret, values_of
from jobtrail.settings import Settings

SECRET = "not to be shown"


@pytest.mark.parametrize("given", ["nan", "inf", float("nan"), True, 1.5, None, b"1", "", "١"])
def test_a_whole_number_is_nothing_else(given: object) -> None:
    found, faults = values_of(Settings, {"port": given})
    if given is True or given == "١":
        assert (found, faults) == ({"port": 1}, [])
    else:
        assert found == {}
        assert faults[0].startswith("setting port: Input should be a valid integer")


def test_what_is_not_a_number_is_out_of_every_bound() -> None:
    _, faults = values_of(Settings, {"max_request_rate": "nan", "read_timeout": float("nan")})
    assert faults == [
        "setting max_request_rate: Input should be greater than or equal to 0.1 (found 'nan')",
        "setting read_timeout: Input should be greater than or equal to 0.05 (found nan)",
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
        "setting topic: String should have at least 1 character (found '')",
        "setting group: Input should be a valid string (found 5)",
        "setting oidc_groups_separator: String should have at most 16 characters "
        f"(found {'x' * 17!r})",
        "setting data_dir: Input is not a valid path (found 5)",
        "setting oidc_secret: Input should be a valid string (found 1)",
    ]
    found, _ = values_of(Settings, {"data_dir": "d", "ssl_cafile": None, "oidc_secret": SECRET})
    assert found == {"data_dir": Path("d"), "ssl_cafile": None, "oidc_secret": Secret(SECRET)}


def test_a_secret_is_shown_nowhere_but_where_it_is_asked_for() -> None:
    secret = Secret(SECRET)
    assert SECRET not in f"{secret} {secret!r}"
    assert secret.get_secret_value() == SECRET
    assert {secret, Secret(SECRET)} == {secret}
    assert secret != SECRET
