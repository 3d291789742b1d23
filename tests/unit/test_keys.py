"""The file of the API keys, and the commands that change it."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobtrail.access.api_keys import (
    ApiKey,
    KeysDamaged,
    add_key,
    make_key,
    read_keys,
    revoke_key,
    split_key,
)
from jobtrail.access.tokens import READ_ALL, WRITE
from jobtrail.cli import main
from jobtrail.core.errors import SettingError, UsageError
from services.api.access.auth import Gate
from services.api.access.cached_keys import ApiKeys
from services.api.problems.problems import Problem

NOW = datetime(2026, 11, 23, 13, tzinfo=UTC)


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--data-dir", str(folder), "keys", *arguments])


def created(folder: Path, *arguments: str) -> str:
    done = run(folder, "create", "--user", "alice", *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


# --- the commands


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    done = run(folder, "create", "--user", "alice", "--name", "nightly")
    key = done.stdout.removesuffix("\n")
    assert re.fullmatch(r"jobtrail_[0-9a-f]{12}\.[A-Za-z0-9_-]{43}", key)
    assert "not shown again" in done.stderr
    assert key not in done.stderr
    secret = key.split(".")[1]
    text = (folder / "keys.json").read_text(encoding="ascii")
    assert secret not in text
    assert hashlib.sha256(secret.encode()).hexdigest() in text
    assert stat.S_IMODE((folder / "keys.json").stat().st_mode) == 0o600
    assert {path.name for path in folder.iterdir()} <= {"keys.json", "keys.json.lock"}
    for arguments in (["list"], ["list", "--json"]):
        shown = run(folder, *arguments)
        assert "nightly" in shown.output
        assert secret not in shown.output
        assert hashlib.sha256(secret.encode()).hexdigest() not in shown.output


def test_the_list_says_what_each_key_may(tmp_path: Path) -> None:
    assert json.loads(run(tmp_path, "list", "--json").stdout) == []
    for_all = created(tmp_path)
    grant = ["--group", "ops", "--group", "dev", "--permission", WRITE, "--permission", READ_ALL]
    created(tmp_path, *grant, "--source", "//a", "--source", "//b", "--expires-in-days", "30")
    first, second = json.loads(run(tmp_path, "list", "--json").stdout)
    assert first["id"] == split_key(for_all)[0]  # type: ignore[index]
    assert (first["user"], first["expiresAt"], first["sources"]) == ("alice", None, [])
    assert second["groups"] == ["ops", "dev"]
    assert second["permissions"] == [WRITE, READ_ALL]
    assert second["sources"] == ["//a", "//b"]
    ends, begins = (datetime.fromisoformat(second[at]) for at in ("expiresAt", "createdAt"))
    assert ends - begins == timedelta(days=30)
    table = run(tmp_path, "list").stdout
    assert all(word in table for word in (first["id"], second["id"], "//a //b", "never"))


def test_a_revoked_key_is_gone_and_the_others_are_not(tmp_path: Path) -> None:
    first, second = created(tmp_path), created(tmp_path)
    key_id = first.split(".")[0].removeprefix("jobtrail_")
    done = run(tmp_path, "revoke", key_id)
    assert (done.exit_code, done.stdout) == (0, "")
    assert key_id in done.stderr
    (left,) = read_keys(tmp_path / "keys.json")
    assert left.id in second
    again = run(tmp_path, "revoke", key_id)
    assert again.exit_code == 2
    assert "no such API key" in again.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--user", ""],
        ["--user", "a\nb"],
        ["--user", "a", "--permission", "jobs:cook"],
        ["--user", "a", "--source", "//a"],
        ["--user", "a", "--permission", WRITE, "--source", ""],
        ["--user", "a", "--expires-in-days", "0"],
        ["--user", "a", "--name", "x" * 257],
    ],
)
def test_a_wrong_use_makes_no_key(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, "create", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert not (tmp_path / "keys.json").exists()


# --- the file


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = [make_key("alice", at=NOW)[0] for _ in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: add_key(path, key), made))
        assert {key.id for key in read_keys(path)} == {key.id for key in made}
        list(threads.map(lambda key: revoke_key(path, key.id), made[1:]))
    assert [key.id for key in read_keys(path)] == [made[0].id]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o666])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    created(tmp_path)
    path = tmp_path / "keys.json"
    path.chmod(mode)
    with pytest.raises(SettingError) as refused:
        ApiKeys(path, 1)
    assert refused.value.found == f"mode {mode:04o}"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"keys": [{"id": "x"}]}', "\x00"])
def test_a_damaged_file_is_said_and_kept_and_its_keys_are_unknown_until_it_is_mended(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    _, text = kept(path)
    whole = path.read_bytes()
    path.write_text(content, encoding="ascii")
    with pytest.raises(KeysDamaged) as refused:
        read_keys(path)
    assert refused.value.where == str(path)
    keys = ApiKeys(path, 0)
    assert f"action=keys-damaged kept=0 This file has no API keys. Where: {path}." in caplog.text
    with pytest.raises(Problem) as unknown:
        Gate(b"x" * 32, keys=keys).identify(f"Bearer {text}")
    assert unknown.value.status == 503
    assert run(tmp_path, "create", "--user", "alice").exit_code == 2
    assert path.read_text(encoding="ascii") == content
    path.write_bytes(whole)
    assert keys.find(text) is not None
    assert not keys.unknown
    path.unlink()
    assert keys.find(text) is None
    with pytest.raises(Problem) as refusal:
        Gate(b"x" * 32, keys=keys).identify(f"Bearer {text}")
    assert refusal.value.status == 401


# --- finding one


def kept(path: Path) -> tuple[ApiKey, str]:
    key, text = make_key("alice", at=NOW)
    add_key(path, key)
    return key, text


def test_a_key_is_found_by_its_whole_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    (one, text), (other, _) = kept(path), kept(path)
    keys = ApiKeys(path, 3600)
    assert keys.find(text) == one
    changed = text[:-2] + ("A" if text[-2] != "A" else "B") + text[-1]
    for wrong in (
        "",
        "jobtrail_",
        changed,
        text[:-1],
        text + "A",
        text + "\n",
        text.replace(one.id, other.id),
        text.replace(one.id, one.id.upper() + "A"),
        f"jobtrail_{one.id}.{one.digest[:43]}",
        text.replace("jobtrail_", ""),
        "jobtrail_" + "é" * 60,
    ):
        assert keys.find(wrong) is None, wrong


def test_a_change_is_seen_at_the_next_look_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    eager, patient = ApiKeys(path, 0), ApiKeys(path, 3600)
    key, text = kept(path)
    assert eager.find(text) == key
    assert patient.find(text) is None
    other, other_text = kept(path)
    revoke_key(path, key.id)
    assert eager.find(text) is None
    assert eager.find(other_text) == other
    path.unlink()
    assert eager.find(other_text) is None


def test_a_file_that_is_spoilt_later_leaves_the_keys_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    key, text = kept(path)
    keys = ApiKeys(path, 0)
    path.write_text("{", encoding="ascii")
    assert keys.find(text) == key
    assert "action=keys-not-read" in caplog.text


def test_the_file_is_where_the_setting_says(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "k"
    environment = {"JOBTRAIL_KEYS_FILE": str(path)}
    done = CliRunner().invoke(main, ["keys", "create", "--user", "a"], env=environment)
    assert done.exit_code == 0
    assert len(read_keys(path)) == 1


def test_there_are_not_too_many_keys(tmp_path: Path) -> None:
    import jobtrail.access.api_keys

    path = tmp_path / "keys.json"
    many = tuple(make_key("alice", at=NOW)[0] for _ in range(jobtrail.access.api_keys.MAX_KEYS))
    jobtrail.access.api_keys._write(path, many)
    with pytest.raises(UsageError):
        add_key(path, make_key("alice", at=NOW)[0])
