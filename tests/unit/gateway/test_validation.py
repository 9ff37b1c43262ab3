"""What a request is refused for without looking at any workflow."""

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Link, Priority, RetryPolicy, WorkflowExecution
from temporalio.api.taskqueue.v1 import TaskQueue

from gateway import validation
from gateway.errors import INVALID_ARGUMENT, ApiError
from streams.limits import Limits

LIMITS = Limits()
RUN = "00000000-0000-0000-0000-000000000001"


def refused(error: pytest.ExceptionInfo[ApiError]) -> str:
    assert error.value.code == INVALID_ARGUMENT
    return error.value.message


def test_retry_policy_gets_its_defaults() -> None:
    policy = RetryPolicy()
    validation.check_retry_policy(policy)
    assert policy == RetryPolicy(
        initial_interval=Duration(seconds=1), maximum_interval=Duration(seconds=100), backoff_coefficient=2
    )


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (RetryPolicy(maximum_attempts=-1), "MaximumAttempts cannot be negative on retry policy."),
        (
            RetryPolicy(backoff_coefficient=0.5),
            "BackoffCoefficient cannot be less than 1 on retry policy.",
        ),
        (
            RetryPolicy(backoff_coefficient=float("nan")),
            "BackoffCoefficient cannot be less than 1 on retry policy.",
        ),
        (
            RetryPolicy(initial_interval=Duration(seconds=-1)),
            "invalid InitialInterval set on retry policy: negative duration",
        ),
        (
            RetryPolicy(initial_interval=Duration(seconds=-(2**62))),
            "invalid InitialInterval set on retry policy: negative duration",
        ),
        (
            RetryPolicy(maximum_interval=Duration(seconds=-1)),
            "invalid MaximumInterval set on retry policy: negative duration",
        ),
        (
            RetryPolicy(initial_interval=Duration(seconds=9), maximum_interval=Duration(seconds=3)),
            "MaximumInterval cannot be less than InitialInterval on retry policy.",
        ),
        (
            RetryPolicy(non_retryable_error_types=["TemporalTimeout:Never"]),
            "Invalid timeout type value: Never.",
        ),
    ],
)
def test_bad_retry_policy(policy: RetryPolicy, message: str) -> None:
    with pytest.raises(ApiError) as error:
        validation.check_retry_policy(policy)
    assert refused(error) == message


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(maximum_attempts=1, backoff_coefficient=0.5),
        RetryPolicy(non_retryable_error_types=["Oops", "TemporalTimeout:StartToClose"]),
    ],
)
def test_good_retry_policy(policy: RetryPolicy) -> None:
    validation.check_retry_policy(policy)


@pytest.mark.parametrize(
    ("queue", "is_set", "message"),
    [
        (TaskQueue(), False, "taskQueue is not set"),
        (TaskQueue(), True, "missing task queue name"),
        (TaskQueue(name="q" * 1001), True, "taskQueue length exceeds limit"),
        (TaskQueue(name="/_sys/q/1"), True, "task queue name cannot start with reserved prefix /_sys/"),
        (TaskQueue(name="s", kind=2, normal_name="q" * 1001), True, "taskQueue length exceeds limit"),
    ],
)
def test_bad_task_queue(queue: TaskQueue, is_set: bool, message: str) -> None:
    with pytest.raises(ApiError) as error:
        validation.check_task_queue(queue, is_set, LIMITS)
    assert refused(error) == message


@pytest.mark.parametrize("name", ["q", "q" * 1000, "é" * 500])
def test_good_task_queue(name: str) -> None:
    validation.check_task_queue(TaskQueue(name=name), True, LIMITS)


def test_length_counts_bytes() -> None:
    with pytest.raises(ApiError):
        validation.check_workflow_id("é" * 501, LIMITS)


@pytest.mark.parametrize(
    ("execution", "is_set", "message"),
    [
        (WorkflowExecution(), False, "Execution is not set on request."),
        (WorkflowExecution(), True, "WorkflowId is not set on request."),
        (WorkflowExecution(workflow_id="w", run_id="r"), True, "Invalid RunId."),
    ],
)
def test_bad_execution(execution: WorkflowExecution, is_set: bool, message: str) -> None:
    with pytest.raises(ApiError) as error:
        validation.check_execution(execution, is_set)
    assert refused(error) == message


def test_id_cannot_hold_the_separator_of_keys() -> None:
    with pytest.raises(ApiError):
        validation.check_execution(WorkflowExecution(workflow_id="a\x1fb", run_id=RUN), True)


@pytest.mark.parametrize(
    ("priority", "message"),
    [
        (Priority(priority_key=-1), "PriorityKey can't be negative"),
        (Priority(fairness_key="k" * 65), "FairnessKey length exceeds limit"),
        (Priority(fairness_weight=-1), "FairnessWeight can't be negative"),
    ],
)
def test_bad_priority(priority: Priority, message: str) -> None:
    with pytest.raises(ApiError) as error:
        validation.check_priority(priority)
    assert refused(error) == message


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([Link()], "unsupported link variant"),
        ([Link(batch_job=Link.BatchJob())], "batch job link must not have an empty job ID"),
        (
            [Link(batch_job=Link.BatchJob(job_id="j"))] * 11,
            "cannot attach more than 10 links per request, got 11",
        ),
        (
            [Link(workflow_event=Link.WorkflowEvent(namespace="n", workflow_id="w"))],
            "workflow event link must not have an empty run ID field",
        ),
    ],
)
def test_bad_links(links: list[Link], message: str) -> None:
    with pytest.raises(ApiError) as error:
        validation.check_links(links, LIMITS)
    assert refused(error) == message


def test_link_too_large() -> None:
    with pytest.raises(ApiError) as error:
        validation.check_links([Link(batch_job=Link.BatchJob(job_id="j" * 4000))], LIMITS)
    assert refused(error).startswith("link exceeds allowed size of 4000, got 40")
