"""Where replies go: to the newest epoch of a gateway, or nowhere (fold.md rules 18 and 19)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.api.workflowservice import v1 as api

from deploy.local.kafka import KafkaCluster
from gateway.replies import Replies
from streams import avro, bodies, topology
from streams.kafka.member import Member
from streams.kafka.names import REPLIES
from streams.kafka.settings import KafkaSettings
from streams.runtime.records import Reply
from tests.kafka.driving import (
    Driver,
    apply_topics,
    driving,
    read_all,
    settings_for,
    start_members,
    stop_members,
)


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str, tmp_path: Path) -> KafkaSettings:
    made = settings_for(broker.bootstrap_servers, topic_prefix, tmp_path / "state")
    apply_topics(made)
    return made


@pytest.fixture
def members(settings: KafkaSettings) -> Iterator[list[Member]]:
    """A member of each role."""
    started = start_members(settings)
    yield started
    stop_members(started, release=False)


def started_tasks(settings: KafkaSettings) -> list[tuple[int, int]]:
    """Epoch and call id of every poll that was given a task."""
    replies = [avro.decode(bodies.ReplyRecord, message.value()) for message in read_all(settings, REPLIES)]
    return [(reply.epoch, reply.call_id) for reply in replies if reply.attach_run and reply.kind]


def renew(driver: Driver) -> int:
    """Begin a new epoch of the gateway, which tells every queue; returns the former one."""
    former, driver.epoch = driver.epoch, driver.epoch + 1
    lease = bodies.GatewayLease(driver.address, driver.epoch, 0)
    for partition in range(driver.settings.partitions):
        driver.append(topology.TASKS, driver.address, lease, awaited=False, partition=partition)
    return former


def test_rule_18_a_gateways_new_epoch_ends_the_polls_of_the_one_before(
    settings: KafkaSettings, members: list[Member]
) -> None:
    with driving(settings) as driver:
        driver.run_workflow("before")
        given = len(started_tasks(settings))
        left = [driver.poll(bodies.WORKFLOW_TASK, api.PollWorkflowTaskQueueRequest()) for _ in range(3)]
        former = renew(driver)
        driver.run_workflow("after")
        epochs = [epoch for epoch, _ in started_tasks(settings)[given:]]
        assert epochs
        assert set(epochs) == {driver.epoch}
        assert not {(former, call_id) for call_id in left} & set(started_tasks(settings))


def test_rule_18_a_late_record_of_a_former_epoch_polls_for_nobody(
    settings: KafkaSettings, members: list[Member]
) -> None:
    with driving(settings) as driver:
        driver.run_workflow("before")
        former = renew(driver)
        newest, driver.epoch = driver.epoch, former
        late = driver.poll(bodies.WORKFLOW_TASK, api.PollWorkflowTaskQueueRequest())
        driver.epoch = newest
        driver.run_workflow("after")
        assert (former, late) not in started_tasks(settings)


@pytest.mark.parametrize("address", ["nobody", "nobody@99", "nobody@-1"])
def test_rule_18_a_reply_without_a_place_to_go_is_dropped_and_counted(
    settings: KafkaSettings, members: list[Member], address: str
) -> None:
    with driving(settings) as driver:
        known, driver.address = driver.address, address
        request = api.DescribeWorkflowExecutionRequest(namespace="ns")
        call = bodies.Call("DescribeWorkflowExecution", "ns", "wf", "", request.SerializeToString())
        driver.append(topology.COMMANDS, topology.workflow_key("ns", "wf"), call)
        driver.address = known
        driver.run_workflow("wf")
    history = members[0].status
    assert history.dropped_replies_total == 1
    assert history.failures_total == 0


async def test_rule_18_a_reply_that_nobody_awaits_is_counted() -> None:
    replies = Replies("gateway")
    replies.begin(1)
    correlation, future = replies.expect()
    replies.deliver(correlation.id, Reply(body=b"answer"))
    assert (await future).body == b"answer"
    assert replies.not_awaited_total == 0
    replies.deliver(correlation.id, Reply(body=b"again"))
    replies.deliver(99, Reply())
    assert replies.not_awaited_total == 2
