"""What the service keeps is its user's alone, and so is the way into its Kafka."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobtrail.core.errors import NotRunning
from jobtrail.files.private import OURS, NotPrivate, is_private, narrow, private_folder, wide
from jobtrail.local.kafka_login import login_of, new_login, properties_of, read_login
from jobtrail.processes.runtime import broker_environment
from jobtrail.settings import Settings


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o777


def test_what_others_had_rights_to_they_have_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "store" / "deep").mkdir(parents=True)
    (folder / "own").mkdir()
    files = [folder / "secret", folder / "store" / "a.db", folder / "store" / "deep" / "b"]
    for file in (*files, folder / "own" / "mine"):
        file.touch()
        file.chmod(0o666)
    outside = tmp_path / "outside"
    outside.touch()
    outside.chmod(0o644)
    (folder / "store" / "link").symlink_to(outside)
    folder.chmod(0o777)
    assert narrow(folder, OURS) == 6
    assert [mode(file) for file in files] == [0o600] * 3
    assert mode(folder) == mode(folder / "store") == mode(folder / "store" / "deep") == 0o700
    assert mode(outside) == 0o644
    assert mode(folder / "own" / "mine") == 0o666
    assert narrow(folder, OURS) == 0
    assert narrow(folder) == 2
    assert list(wide(folder)) == []


def test_a_folder_is_made_private_and_one_that_is_there_is_left(tmp_path: Path) -> None:
    assert mode(private_folder(tmp_path / "a" / "b")) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o750)
    assert mode(private_folder(shared)) == 0o750
    assert not is_private(shared)
    assert is_private(tmp_path / "not there")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(NotPrivate, match="belongs to another user"):
        narrow(tmp_path)


def test_the_password_is_written_in_kafkas_own_form_and_read_again(tmp_path: Path) -> None:
    login = new_login()
    assert len(login.password) >= 43
    assert login != new_login()
    file = tmp_path / "client.properties"
    file.write_text(properties_of(login, "127.0.0.1:1"))
    assert login_of(file) == read_login(file) == login
    lines = dict(
        line.split("=", 1) for line in file.read_text().splitlines() if not line.startswith("#")
    )
    assert lines["bootstrap.servers"] == "127.0.0.1:1"
    assert lines["sasl.mechanism"] == "SCRAM-SHA-512"


@pytest.mark.parametrize("content", [None, "", "sasl.jaas.config=", "\xff\xfe"])
def test_a_file_without_a_password_is_said(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "client.properties"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    assert read_login(file) is None
    with pytest.raises(NotRunning, match="password of the local Kafka"):
        login_of(file)


def test_kafka_gets_no_setting_that_is_a_secret() -> None:
    found = broker_environment(Settings(topic="t", sasl_username="u", sasl_password="p"))
    assert found["JOBTRAIL_TOPIC"] == "t"
    ours = {name for name in found if name.startswith("JOBTRAIL_")}
    assert ours == {"JOBTRAIL_TOPIC", "JOBTRAIL_DEAD_TOPIC", "JOBTRAIL_PARTITIONS"}
