"""What is wrong with topics: deletion from the log is a problem, most else a warning."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from jobtrail.log.kafka import DEAD_LETTER_BYTES
from jobtrail.log.topic_checks import Described, TopicFinding, findings
from jobtrail.settings import Settings

SETTINGS = Settings(topic="log", dead_topic="dead", partitions=2, bootstrap_servers="h:1")
GOOD = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "min.insync.replicas": "2",
    "max.message.bytes": str(DEAD_LETTER_BYTES),
}


def topic(
    configs: Mapping[str, str] | None = GOOD,
    *,
    leader: int = 1,
    replicas: int = 3,
    insync: int = 3,
    partitions: int = 2,
    brokers: int = 3,
) -> Described:
    parts = dict.fromkeys(range(partitions), (leader, replicas, insync))
    return Described(configs, parts, brokers)


def found(log: Described | None, dead: Described | None = None) -> list[TopicFinding]:
    topics = {"log": log, "dead": dead or topic()}
    return list(findings(SETTINGS, {name: one for name, one in topics.items() if one is not None}))


def test_topics_as_they_should_be_are_not_spoken_of() -> None:
    assert found(topic()) == []
    # One broker is all the replicas there can be.
    alone = topic({**GOOD, "min.insync.replicas": "1"}, replicas=1, insync=1, brokers=1)
    assert found(alone, alone) == []


@pytest.mark.parametrize(
    ("configs", "check", "of_log", "of_dead"),
    [
        ({"cleanup.policy": "compact"}, "compaction", True, False),
        ({"cleanup.policy": "compact,delete"}, "compaction", True, False),
        ({"retention.ms": "604800000"}, "retention", True, False),
        ({"retention.bytes": "1000"}, "retention", True, False),
        ({"max.message.bytes": "1000"}, "message-size", True, True),
        ({"min.insync.replicas": "1"}, "replicas", False, False),
        ({"min.insync.replicas": "3"}, "replicas", False, False),
        ({"min.insync.replicas": "4"}, "replicas", True, True),
    ],
)
def test_a_setting_that_loses_events_is_a_problem_in_the_log(
    configs: dict[str, str], check: str, of_log: bool, of_dead: bool
) -> None:
    (name, value) = next(iter(configs.items()))
    for one, is_problem in (
        (found(topic(GOOD | configs)), of_log),
        (found(topic(), topic(GOOD | configs)), of_dead),
    ):
        (finding,) = one
        assert (finding.check, finding.is_problem) == (check, is_problem)
        assert value in finding.found.replace(",", "") or value in finding.found
        assert name in finding.found or name == "max.message.bytes"
        assert f"--add-config {name}=" in finding.mend


@pytest.mark.parametrize(
    ("log", "check", "is_problem", "mend"),
    [
        (None, "topics", True, "python -m services.broker.topics --bootstrap-servers h:1"),
        (topic(leader=-1), "replicas", True, "Start the brokers"),
        (topic(insync=2), "replicas", False, "behind or down"),
        (topic(None), "topic-configs", False, "Grant DescribeConfigs on the topic log"),
        (topic(partitions=3), "partitions", False, "JOBTRAIL_PARTITIONS=3"),
        (
            topic({**GOOD, "min.insync.replicas": "1"}, replicas=2, insync=2),
            "replicas",
            False,
            "Give each partition 3",
        ),
    ],
)
def test_what_a_topic_lacks_is_one_sentence_with_what_to_do(
    log: Described | None, check: str, is_problem: bool, mend: str
) -> None:
    (finding,) = found(log)
    assert (finding.check, finding.is_problem) == (check, is_problem)
    assert mend in finding.mend
    assert "\n" not in finding.found + finding.mend


def test_records_of_the_largest_size_are_asked_for_of_each_topic_by_its_own() -> None:
    (finding,) = found(topic(), topic({**GOOD, "max.message.bytes": str(DEAD_LETTER_BYTES - 1)}))
    assert finding.found.startswith("dead takes records of 2,097,151 bytes at most")
