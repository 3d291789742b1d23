"""The containers, as far as they can be held to their word without Docker.

`compose/compose.yaml` and `compose/Dockerfile` are read and compared with what they must agree
with. What the image holds is tried in `test_compose_image.py`.

`compose/compose-spec.schema.json` is the Compose Specification's schema (Apache-2.0), byte for byte
as the PyPI package check-jsonschema 0.39.0 ships it; a newer one is taken from there.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from docker.utils.build import exclude_paths  # type: ignore[import-untyped]
from packaging.specifiers import SpecifierSet

from jobtrail.cli import command
from jobtrail.settings import ENV_PREFIX, Settings, load, names
from jobtrail.version import __version__
from services.broker.config import server_properties
from services.broker.jars import read_lock
from services.broker.topics import topic_configs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "compose"
DOCS = ROOT / "docs" / "containers.md"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("jobtrail:")]

# What of Kafka's configuration is about places, and so differs from the local broker's.
PLACES = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}
# What decides which events Kafka takes and keeps, or which topics it makes and how.
DECIDING = re.compile(r"auto\.create|retention|segment|max\.bytes|replic|isr|num\.partitions")
# As the image's entry point reads its environment.
KAFKA = {
    name.removeprefix("KAFKA_").lower().replace("_", "."): value
    for name, value in SERVICES["kafka"]["environment"].items()
    if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"
}


@cache
def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage with their arguments, without comments."""
    lines = (FOLDER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    found: list[list[tuple[str, str]]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if word:
            found[-1].append((word, rest))
    return found


def every(wanted: str, *chosen: list[tuple[str, str]]) -> list[str]:
    return [rest for stage in chosen for word, rest in stage if word == wanted]


def image_environment() -> dict[str, str]:
    pairs = [pair for rest in every("ENV", stages()[-1]) for pair in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def image_health() -> list[str]:
    (check,) = every("HEALTHCHECK", stages()[-1])
    found: list[str] = json.loads(check.partition(" CMD ")[2])
    return found


def sent_to_builder() -> list[str]:
    """Return the files that `docker build` sends, by Docker's own reading of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = exclude_paths(str(ROOT), [line for line in lines if line and not line.startswith("#")])
    return sorted(path for path in sent if (ROOT / path).is_file() and path != ".dockerignore")


def settings_of(service: str) -> dict[str, str]:
    """Return the settings of a service as its variables give them, by the settings' names."""
    given = {**image_environment(), **SERVICES[service]["environment"]}
    ours = {k: v for k, v in given.items() if k.startswith(ENV_PREFIX) and v is not None}
    return {name.removeprefix(ENV_PREFIX).lower(): value for name, value in ours.items()}


def test_compose_yaml_is_valid_and_a_slip_would_be_seen() -> None:
    schema = json.loads((FOLDER / "compose-spec.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(COMPOSE)] == []
    slip = {**COMPOSE, "services": {"api": {"image": "jobtrail:0.1.0", "comand": ["python"]}}}
    assert ["comand" in fault.message for fault in validator.iter_errors(slip)] == [True]


def test_every_image_is_pinned_and_kafka_to_the_local_brokers_version() -> None:
    bases = [rest.split()[0] for rest in every("FROM", *stages())]
    for image in bases + [service["image"] for service in SERVICES.values()]:
        assert re.fullmatch(r"[a-z/]+(:\d+\.\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})", image), image
    assert len(set(bases)) == 1
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{read_lock().kafka_version}"


def test_our_image_has_our_version_and_is_built_before_it_is_used() -> None:
    assert {SERVICES[name]["image"] for name in OURS} == {f"jobtrail:{__version__}"}
    (builder,) = [name for name, service in SERVICES.items() if "build" in service]
    build = SERVICES[builder]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).samefile(FOLDER / "Dockerfile")
    for name in OURS:
        assert SERVICES[name]["pull_policy"] == "never"
        assert name == builder or builder in SERVICES[name]["depends_on"]


def test_the_images_python_is_one_that_the_project_supports() -> None:
    version = stages()[-1][0][1].partition(":")[2].partition("-")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert SpecifierSet(project["requires-python"]).contains(version)
    minor = ".".join(version.split(".")[:2])
    assert f"/lib/python{minor}/" in image_environment()["PYTHONPATH"]


def test_the_dockerfile_copies_what_exists_and_nothing_else_is_sent() -> None:
    copies = [rest.split() for rest in every("COPY", *stages()) if not rest.startswith("--from=")]
    assert len(copies) == 5
    sent = sent_to_builder()
    assert {path.partition("/")[0] for path in sent} == {n for names in copies for n in names[:-1]}
    assert not [path for path in sent if "__pycache__" in path]


def test_packages_are_installed_by_their_hashes_only() -> None:
    steps = [step for rest in every("RUN", *stages()) for step in rest.split("&&")]
    locked, wheel = (step.split() for step in steps if re.search(r"\bpip\b.* install\b", step))
    assert {"--require-hashes", "requirements.lock"} <= set(locked)
    assert {"--no-deps", "--no-index"} <= set(wheel)
    assert not [step for step in steps if re.search(r"\b(apt|apt-get|curl|wget)\b", step)]


def test_nothing_runs_as_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", every("USER", stages()[-1])[-1])
    assert not [name for name, service in SERVICES.items() if "user" in service]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_closed(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_containers_wait_for_what_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            target = SERVICES[other]
            if how["condition"] == "service_healthy":
                assert "test" in target["healthcheck"], (name, other)
            else:
                assert how["condition"] == "service_completed_successfully"
                assert target["restart"].startswith("on-failure:"), (name, other)
    assert SERVICES["topics"]["healthcheck"] == {"disable": True}
    assert "healthcheck" not in SERVICES["api"], "the image's own check is the API's"


def test_a_projector_has_a_name_of_its_own_and_comes_back_at_the_same_address() -> None:
    projectors = [s for s in SERVICES.values() if "projector" in s.get("command", ())]
    names = [s["command"][s["command"].index("--name") + 1] for s in projectors]
    assert len(set(names)) == len(names) == 2
    assert [s["hostname"] for s in projectors] == names


def test_checks_are_valid_python() -> None:
    checks = [service.get("healthcheck", {}).get("test", [])[1:] for service in SERVICES.values()]
    python = [check for check in [image_health(), *checks] if check[:2] == ["python", "-c"]]
    assert len(python) == 3, "of the API and of two projectors"
    for check in python:
        compile(check[2], "<healthcheck>", "exec")


def test_every_setting_that_is_named_exists() -> None:
    named = {name for name in image_environment() if name.startswith(ENV_PREFIX)}
    named |= {name for service in OURS for name in SERVICES[service]["environment"]}
    assert named <= {f"{ENV_PREFIX}{name.upper()}" for name in names()}


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_a_service_fit_its_container(name: str) -> None:
    settings = load(**settings_of(name))
    service = SERVICES[name]
    assert f"PLAINTEXT://{settings.bootstrap_servers}" == KAFKA["advertised.listeners"]
    assert settings.store_folder.is_relative_to(settings.data_dir)
    assert settings.replication == 1, "there is one broker"
    assert service.get("volumes", []) == ([] if name == "topics" else [f"data:{settings.data_dir}"])
    if "ports" in service:
        assert service["ports"] == [f"127.0.0.1:{Settings().port}:{settings.port}"]
        assert settings.host == "0.0.0.0"
        assert service["ulimits"]["nofile"] > settings.max_waits


def test_kafka_is_configured_as_the_local_broker_is() -> None:
    lines = [line for line in server_properties(1, 2).splitlines() if not line.startswith("#")]
    local = dict(line.split("=", 1) for line in lines)
    assert {name for name in local if DECIDING.search(name)} <= KAFKA.keys()
    same = KAFKA.keys() - PLACES
    assert {name: KAFKA[name] for name in same} == {name: local.get(name) for name in same}


def test_our_topics_are_kept_for_ever_whoever_makes_them() -> None:
    configs = topic_configs(load(**settings_of("topics")))
    assert configs["retention.ms"] == KAFKA["log.retention.ms"] == "-1"
    assert configs["retention.bytes"] == KAFKA["log.retention.bytes"] == "-1"
    assert configs["min.insync.replicas"] == KAFKA["min.insync.replicas"]
    address = settings_of("topics")["bootstrap_servers"]
    assert SERVICES["topics"]["command"][-2:] == ["--bootstrap-servers", address]


def test_kafka_can_write_where_it_has_to() -> None:
    kafka = SERVICES["kafka"]
    assert f"kafka:{KAFKA['log.dirs']}" in kafka["volumes"]
    memory = dict(place.split(":") for place in kafka["tmpfs"])
    assert "exec" in memory["/tmp"].split(","), "libraries of compressors are loaded from there"
    assert "uid=1000" in memory["/opt/kafka/config"].split(",")
    assert kafka["environment"]["LOG_DIR"].startswith("/tmp/")
    (mounted,) = [v.split(":")[0] for v in kafka["volumes"] if v.startswith("./")]
    loggers = yaml.safe_load((FOLDER / mounted / "log4j2.yaml").read_text(encoding="utf-8"))
    assert list(loggers["Configuration"]["Appenders"]) == ["Console"], "files would fill the memory"


def test_health_is_served_on_the_port_that_is_asked() -> None:
    settings = load(**settings_of("projector"))
    assert (settings.health_host, settings.health_port) == ("0.0.0.0", 8041)
    assert {str(settings.port), str(settings.health_port)} == set(
        every("EXPOSE", stages()[-1])[-1].split()
    )
    grace = SERVICES["projector"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > 20


DOCUMENTED = re.findall(r"docker compose ([^\n<)`]+)", DOCS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("line", DOCUMENTED)
def test_a_documented_command_names_what_exists(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "--profile":
        assert any(words[1] in service.get("profiles", []) for service in SERVICES.values())
        words = words[2:]
    action, *rest = words
    if action in ("exec", "run"):
        at = next(place for place, word in enumerate(rest) if word in SERVICES)
        program, *arguments = rest[at + 1 :] or [""]
        if program == "jobtrail":
            command(arguments[0]).make_context(arguments[0], arguments[1:])
    else:
        assert action in ("up", "down", "ps", "logs", "stop")
        assert {word for word in rest if not word.startswith("-")} <= set(SERVICES)
