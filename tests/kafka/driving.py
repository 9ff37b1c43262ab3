"""A gateway and a worker in a few lines: they append records, read replies, and work workflows off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api

from streams import avro, bodies, topology
from streams.kafka import wire
from streams.kafka.admin import Cluster
from streams.kafka.member import ROLES, Member
from streams.kafka.names import ALL_TOPICS, REPLIES, Names, gateway_address
from streams.kafka.settings import KafkaSettings
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.records import Correlation, Record

NAMESPACE = "ns"
QUEUE = "queue"
CODEC = Codec(BODY_TYPES)
WAIT_S = 30.0


def settings_for(brokers: str, prefix: str, state: Path, **more: Any) -> KafkaSettings:
    """Settings of a small cluster with one replica of everything."""
    return KafkaSettings(
        **{
            "brokers": brokers,
            "prefix": prefix,
            "partitions": 2,
            "replication": 1,
            "state_directory": state,
            "checkpoint_age_ms": 200,
            **more,
        }
    )


def wait_for(what: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """Wait until `what()` is true and return it."""
    deadline_s = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {seconds} s")
        threading.Event().wait(0.01)
    return found


def start_members(settings: KafkaSettings, **more: Any) -> list[Member]:
    """A member of each role, each owning all its partitions."""
    members = [Member(role, settings, **more) for role in ROLES]
    for member in members:
        member.start()
    wait_for(lambda: all(owns_all(member, settings) for member in members))
    return members


def owns_all(member: Member, settings: KafkaSettings) -> bool:
    """Whether the member owns every partition of its role."""
    return len(member.owned) == settings.partitions


def stop_members(members: list[Member], *, release: bool = True) -> None:
    """Have them leave."""
    for member in members:
        member.stop(release=release)


def read_all(settings: KafkaSettings, name: str) -> list[Message]:
    """Every record there is in a topic, partition by partition; aborted ones too."""
    topic = Names(settings.prefix).topic(name)
    consumer = Consumer(
        {
            **settings.consumer(),
            "group.id": "tests",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    try:
        count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(count)])
        found: list[Message] = []
        ended: set[int] = set()
        while len(ended) < count:
            for message in consumer.consume(1000, 0.2):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise AssertionError(str(error))
        return sorted(found, key=lambda m: (m.partition(), m.offset()))
    finally:
        consumer.close()


def counted(settings: KafkaSettings) -> dict[str, int]:
    """How many records each topic holds."""
    return {name: len(read_all(settings, name)) for name in ALL_TOPICS}


def records_of(settings: KafkaSettings, name: str) -> list[Record]:
    """The records of an internal topic."""
    return [wire.record_of(CODEC, name, message) for message in read_all(settings, name)]


class Driver:
    """Appends as a gateway does, and reads the replies. `start` prepares a namespace."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.address = gateway_address("driver", 0)
        self.replies: dict[int, bodies.ReplyRecord] = {}
        self.epoch = time.time_ns() // 1_000_000
        self._names = Names(settings.prefix)
        self._sequence = 0
        self._producer = Producer(settings.producer())
        self._consumer = Consumer({**settings.consumer(), "group.id": "driver"})
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        end = self._consumer.get_watermark_offsets(TopicPartition(self._names.topic(REPLIES), 0), timeout=10)[
            1
        ]
        self._consumer.assign([TopicPartition(self._names.topic(REPLIES), 0, end)])
        self._thread.start()

    def _read(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.take(avro.decode(bodies.ReplyRecord, message.value()))

    def take(self, reply: bodies.ReplyRecord) -> bool:
        """A reply has come."""
        if reply.gateway == self.address and reply.epoch == self.epoch:
            self.replies[reply.call_id] = reply
        return True

    def close(self) -> None:
        """Leave."""
        self._stopping.set()
        self._thread.join()
        self._consumer.close()
        self._producer.flush(10)

    # Appending

    def append(
        self, name: str, key: str, body: Any, *, awaited: bool = True, partition: int | None = None
    ) -> int:
        """Append a record, and return its call id."""
        self._sequence += 1
        if partition is None:
            partition = topology.partition_of(key, self.settings.partitions_of(name))
        record = Record(
            name,
            partition,
            key,
            body,
            source="driver",
            origin_epoch=self.epoch,
            origin_offset=self._sequence,
            correlation=Correlation(self.address, self.epoch, self._sequence) if awaited else None,
        )
        self.append_bytes(name, partition, key, wire.value_of(CODEC, record))
        return self._sequence

    def append_bytes(self, name: str, partition: int, key: str, value: bytes) -> None:
        """Append anything."""
        self._producer.produce(self._names.topic(name), value, key.encode(), partition)
        assert self._producer.flush(10) == 0

    def answer(self, call_id: int) -> bodies.ReplyRecord:
        """The reply to a call, once it is there."""
        return wait_for(lambda: self.replies.get(call_id))

    def call(
        self, method: str, workflow_id: str, request: Any, run_id: str = "", **more: Any
    ) -> bodies.ReplyRecord:
        """A call about a workflow, and its reply."""
        body = bodies.Call(method, NAMESPACE, workflow_id, run_id, request.SerializeToString(), **more)
        return self.answer(
            self.append(topology.COMMANDS, topology.workflow_key(NAMESPACE, workflow_id), body)
        )

    # What a gateway does

    def prepare(self) -> None:
        """Have the namespace in every partition."""
        request = api.RegisterNamespaceRequest(
            namespace=NAMESPACE, workflow_execution_retention_period=Duration(seconds=86_400)
        )
        call = bodies.NamespaceCall("RegisterNamespace", NAMESPACE, request.SerializeToString(), "id-of-ns")
        reply = self.answer(self.append(topology.COMMANDS, topology.REGISTRY_KEY, call))
        assert reply.code == 0, reply
        wait_for(lambda: len(self._namespaces()) == self.settings.partitions)

    def _namespaces(self) -> set[int]:
        return {
            record.partition
            for record in records_of(self.settings, topology.COMMANDS)
            if isinstance(record.body, bodies.NamespaceChanged)
        }

    def start(self, workflow_id: str) -> str:
        """Start a workflow and return its run id."""
        request = api.StartWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_id=workflow_id,
            task_queue=TaskQueue(name=QUEUE),
            request_id=workflow_id,
        )
        request.workflow_type.name = "type"
        reply = self.call("StartWorkflowExecution", workflow_id, request, new_run_id=f"run-of-{workflow_id}")
        assert reply.code == 0, reply
        return api.StartWorkflowExecutionResponse.FromString(reply.body).run_id

    def poll(self, kind: str, request: Any) -> int:
        """Begin a poll of a worker; returns its call id."""
        request.namespace = NAMESPACE
        request.task_queue.name = QUEUE
        deadline_ms = time.time_ns() // 1_000_000 + 60_000
        body = bodies.PollTask(NAMESPACE, QUEUE, kind, "worker", deadline_ms, request.SerializeToString())
        return self.append(topology.TASKS, topology.queue_key(NAMESPACE, QUEUE, kind), body)

    # What a worker does

    def workflow_task(
        self, call_id: int | None = None
    ) -> tuple[api.PollWorkflowTaskQueueResponse, bodies.ReplyRecord]:
        """The next workflow task, with the reply that brought it."""
        poll = (
            self.poll(bodies.WORKFLOW_TASK, api.PollWorkflowTaskQueueRequest())
            if call_id is None
            else call_id
        )
        reply = self.answer(poll)
        assert reply.code == 0, reply
        return api.PollWorkflowTaskQueueResponse.FromString(reply.body), reply

    def complete_task(self, task: api.PollWorkflowTaskQueueResponse, *commands: Command) -> None:
        """Answer a workflow task."""
        request = api.RespondWorkflowTaskCompletedRequest(
            namespace=NAMESPACE, task_token=task.task_token, commands=commands
        )
        execution = task.workflow_execution
        reply = self.call("RespondWorkflowTaskCompleted", execution.workflow_id, request, execution.run_id)
        assert reply.code == 0, reply

    def schedule(self) -> Command:
        """The command that schedules an activity."""
        command = Command(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
        attributes = command.schedule_activity_task_command_attributes
        attributes.activity_id = "1"
        attributes.activity_type.name = "activity"
        attributes.task_queue.name = QUEUE
        attributes.start_to_close_timeout.seconds = 60
        return command

    def finish(self) -> Command:
        """The command that completes a workflow."""
        command = Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
        command.complete_workflow_execution_command_attributes.SetInParent()
        return command

    def do_activity(self) -> None:
        """Work off the next activity task."""
        reply = self.answer(self.poll(bodies.ACTIVITY_TASK, api.PollActivityTaskQueueRequest()))
        assert reply.code == 0, reply
        task = api.PollActivityTaskQueueResponse.FromString(reply.body)
        request = api.RespondActivityTaskCompletedRequest(namespace=NAMESPACE, task_token=task.task_token)
        execution = task.workflow_execution
        done = self.call("RespondActivityTaskCompleted", execution.workflow_id, request, execution.run_id)
        assert done.code == 0, done

    def run_workflow(self, workflow_id: str) -> str:
        """Start a workflow of one activity and work it off; returns its run id."""
        run_id = self.start(workflow_id)
        task, _ = self.workflow_task()
        self.complete_task(task, self.schedule())
        self.do_activity()
        task, _ = self.workflow_task()
        self.complete_task(task, self.finish())
        return run_id

    def run_eager_workflow(self, workflow_id: str) -> None:
        """The same with the activity handed out in answer to the workflow task that schedules it."""
        self.start(workflow_id)
        task, _ = self.workflow_task()
        command = self.schedule()
        command.schedule_activity_task_command_attributes.request_eager_execution = True
        request = api.RespondWorkflowTaskCompletedRequest(
            namespace=NAMESPACE, task_token=task.task_token, commands=[command]
        )
        execution = task.workflow_execution
        reply = self.call("RespondWorkflowTaskCompleted", workflow_id, request, execution.run_id)
        (activity,) = api.RespondWorkflowTaskCompletedResponse.FromString(reply.body).activity_tasks
        done = api.RespondActivityTaskCompletedRequest(namespace=NAMESPACE, task_token=activity.task_token)
        assert self.call("RespondActivityTaskCompleted", workflow_id, done, execution.run_id).code == 0
        task, _ = self.workflow_task()
        self.complete_task(task, self.finish())


@contextmanager
def driving(settings: KafkaSettings) -> Iterator[Driver]:
    """A driver whose namespace is there; members have to run."""
    driver = Driver(settings)
    try:
        driver.prepare()
        yield driver
    finally:
        driver.close()


def apply_topics(settings: KafkaSettings) -> None:
    """Have the topics."""
    Cluster(settings).apply()
    wait_for(lambda: not Cluster(settings).differences())
