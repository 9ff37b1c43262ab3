"""Activities: defaults, retries, time-outs and failures."""

from __future__ import annotations

from ..commands import activity, application_failure, complete, payload, payloads, retry, seconds
from ..registry import scenario
from ..world import World


async def fail_activity(
    w: World, task: object, message: str = "broken", kind: str = "BoomError", **info: object
) -> object:
    """Report an application failure of an activity."""
    return await w.call(
        "RespondActivityTaskFailed",
        task_token=task.task_token,
        failure=application_failure(message, kind, **info),
    )


@scenario()
async def minimal(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act")))
    await w.describe(record_as="scheduled")
    task = await w.activity("act", record_as="activity task")
    await w.history(record_as="while it runs")
    await w.describe(record_as="started")
    await w.try_call(
        "answer", "RespondActivityTaskCompleted", task_token=task.task_token, result=payloads("out")
    )
    await w.history(record_as="completed")
    await w.step(complete())


@scenario()
async def all_fields(w: World) -> None:
    await w.start(priority={"priority_key": 4})
    await w.step(
        activity(
            queue=w.id("elsewhere"),
            header={"fields": {"trace": payload("abc")}},
            input=payloads("in", 2),
            schedule_to_close_timeout=seconds(300),
            schedule_to_start_timeout=seconds(100),
            start_to_close_timeout=seconds(50),
            heartbeat_timeout=seconds(20),
            retry_policy=retry(7, maximum_interval=seconds(9), non_retryable_error_types=["Fatal", "Other"]),
            priority={"priority_key": 1},
            request_eager_execution=False,
        )
    )
    await w.describe(record_as="scheduled")
    await w.activity("elsewhere", record_as="activity task")
    await w.describe(record_as="started")
    await w.history()


@scenario()
async def fail_and_retry(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), retry_policy=retry(5)))
    task = await w.activity("act", record_as="attempt 1")
    await w.attempt("failure answer", fail_activity(w, task))
    await w.history(record_as="between attempts")
    task = await w.activity("act", record_as="attempt 2")
    await w.call("RespondActivityTaskCompleted", task_token=task.task_token, result=payloads("out"))
    await w.history(record_as="completed")


@scenario()
async def describe_retrying(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), retry_policy=retry(5), heartbeat_timeout=seconds(20)))
    task = await w.activity("act")
    await w.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("half"))
    await w.describe(record_as="after heartbeat")
    await fail_activity(w, task)
    await w.until(
        lambda: w.call("DescribeWorkflowExecution", execution=w.ex()),
        lambda answer: answer.pending_activities[0].attempt == 2,
        "attempt 2",
    )
    task = await w.activity("act")
    await w.describe(record_as="attempt 2 started")
    await fail_activity(w, task, next_retry_delay=seconds(60))
    await w.describe(record_as="backing off")


@scenario()
async def retry_exhausted(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), retry_policy=retry(2)))
    for attempt in (1, 2):
        await fail_activity(w, await w.activity("act"), f"broken {attempt}")
    await w.history()


@scenario()
async def non_retryable_flag(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), retry_policy=retry(5)))
    await fail_activity(w, await w.activity("act"), non_retryable=True, details=payloads("why"))
    await w.history()


@scenario()
async def non_retryable_type(w: World) -> None:
    await w.start()
    policy = retry(5, non_retryable_error_types=["Fatal"])
    await w.step(activity(queue=w.id("act"), retry_policy=policy))
    await fail_activity(w, await w.activity("act"), kind="Other")
    await fail_activity(w, await w.activity("act"), kind="Fatal")
    await w.history()


@scenario()
async def next_retry_delay(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), retry_policy=retry(5, initial_s=600, coefficient=1)))
    await fail_activity(w, await w.activity("act"), next_retry_delay=seconds(1))
    task = await w.activity("act")
    w.record("attempt", task.attempt)
    await fail_activity(w, task)
    await w.describe()


@scenario()
async def no_retry(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), retry_policy=retry(1)))
    await fail_activity(w, await w.activity("act"))
    await w.history()


@scenario()
async def unusual_failures(w: World) -> None:
    """Failures that are not application failures, as a worker may report them."""
    failures = {
        "bare": {"message": "bare"},
        "none": None,
        "canceled": {"message": "canceled", "canceled_failure_info": {"details": payloads(1)}},
        "timeout": {"message": "late", "timeout_failure_info": {"timeout_type": 1}},
        "heartbeat timeout": {"message": "late", "timeout_failure_info": {"timeout_type": 4}},
        "terminated": {"message": "ended", "terminated_failure_info": {}},
        "server": {"message": "server", "server_failure_info": {"non_retryable": True}},
        "server retryable": {"message": "server", "server_failure_info": {}},
        "chain": {**application_failure("outer"), "cause": application_failure("inner", "InnerError")},
    }
    for name, failure in failures.items():
        queue = name.replace(" ", "-")
        await w.start(queue, queue=queue)
        await w.step(activity(queue=w.id(queue), retry_policy=retry(3, initial_s=600)), queue=queue)
        task = await w.activity(queue)
        await w.try_call(name, "RespondActivityTaskFailed", task_token=task.task_token, failure=failure)
        w.record(f"{name}: events", (await w.events(queue))[5:])
        answer = await w.call("DescribeWorkflowExecution", execution=w.ex(queue))
        w.record(f"{name}: pending", list(answer.pending_activities))


@scenario()
async def retry_intervals(w: World) -> None:
    """The interval before each attempt, as describe tells it."""
    await w.start()
    policy = {"initial_interval": seconds(2), "backoff_coefficient": 2, "maximum_interval": seconds(3)}
    await w.step(activity(queue=w.id("act"), retry_policy=policy))
    for _ in range(3):
        await fail_activity(w, await w.activity("act"))
        answer = await w.call("DescribeWorkflowExecution", execution=w.ex())
        interval = answer.pending_activities[0].current_retry_interval
        w.record("tenths of a second", round(interval.ToMilliseconds() / 100))
    await w.terminate()


@scenario()
async def schedule_to_start_timeout(w: World) -> None:
    await w.start()
    await w.step(
        activity(
            queue=w.id("nobody"),
            schedule_to_start_timeout=seconds(1),
            schedule_to_close_timeout=seconds(60),
            retry_policy=retry(5),
        )
    )
    await w.wait_event("ACTIVITY_TASK_TIMED_OUT")
    await w.history()


@scenario()
async def start_to_close_timeout(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), timeout_s=1, retry_policy=retry(1)))
    await w.activity("act")
    await w.wait_event("ACTIVITY_TASK_TIMED_OUT")
    await w.history()


@scenario()
async def start_to_close_timeout_retry(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), timeout_s=2, retry_policy=retry(5)))
    await w.activity("act")
    task = await w.activity("act", record_as="attempt 2")
    await w.describe()
    await w.call("RespondActivityTaskCompleted", task_token=task.task_token)
    await w.history()


@scenario()
async def start_to_close_timeout_non_retryable(w: World) -> None:
    await w.start()
    policy = retry(5, non_retryable_error_types=["TemporalTimeout:StartToClose"])
    await w.step(activity(queue=w.id("act"), timeout_s=1, retry_policy=policy))
    await w.activity("act")
    await w.wait_event("ACTIVITY_TASK_TIMED_OUT")
    await w.history()


@scenario()
async def schedule_to_close_timeout(w: World) -> None:
    await w.start()
    await w.step(
        activity(
            queue=w.id("act"), timeout_s=None, schedule_to_close_timeout=seconds(3), retry_policy=retry(5)
        )
    )
    await fail_activity(w, await w.activity("act"))
    await w.activity("act")
    await w.wait_event("ACTIVITY_TASK_TIMED_OUT")
    await w.history()


@scenario()
async def schedule_to_close_before_start(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("nobody"), timeout_s=None, schedule_to_close_timeout=seconds(1)))
    await w.wait_event("ACTIVITY_TASK_TIMED_OUT")
    await w.history()


@scenario()
async def schedule_to_close_stops_retry(w: World) -> None:
    await w.start()
    await w.step(
        activity(
            queue=w.id("act"), schedule_to_close_timeout=seconds(30), retry_policy=retry(5, initial_s=60)
        )
    )
    await fail_activity(w, await w.activity("act"))
    await w.history()


@scenario()
async def heartbeat_timeout(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), heartbeat_timeout=seconds(1), retry_policy=retry(1)))
    task = await w.activity("act")
    await w.try_call(
        "heartbeat", "RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("half")
    )
    await w.wait_event("ACTIVITY_TASK_TIMED_OUT")
    await w.history()


@scenario()
async def heartbeat_details_carried(w: World) -> None:
    await w.start()
    await w.step(activity(queue=w.id("act"), heartbeat_timeout=seconds(20), retry_policy=retry(5)))
    task = await w.activity("act")
    await w.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("one"))
    await w.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("two"))
    await fail_activity(w, task)
    task = await w.activity("act", record_as="attempt 2")
    await w.call(
        "RespondActivityTaskFailed",
        task_token=task.task_token,
        failure=application_failure(),
        last_heartbeat_details=payloads("three"),
    )
    task = await w.activity("act", record_as="attempt 3")
    await fail_activity(w, task)
    await w.activity("act", record_as="attempt 4, details kept")


@scenario()
async def heartbeat_timeout_retry(w: World) -> None:
    await w.start()
    await w.step(
        activity(queue=w.id("act"), timeout_s=60, heartbeat_timeout=seconds(2), retry_policy=retry(2))
    )
    task = await w.activity("act")
    await w.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details=payloads("half"))
    task = await w.activity("act", record_as="attempt 2")
    await w.describe()
    await w.call("RespondActivityTaskCompleted", task_token=task.task_token)
    await w.history()


@scenario()
async def dropped_on_close(w: World) -> None:
    await w.start()
    await w.step(activity("scheduled", queue=w.id("nobody")), activity("started", queue=w.id("act")))
    await w.activity("act")
    await w.signal()
    await w.step(complete())
    await w.history()
    await w.describe()
    await w.no_task("nobody", method="PollActivityTaskQueue")


async def _eager(w: World) -> None:
    await w.start()
    task = await w.task()
    answer = await w.try_done(
        "answer",
        task,
        activity("eager", queue=w.id("tq"), request_eager_execution=True, input=payloads("in")),
        activity("other queue", queue=w.id("act"), request_eager_execution=True),
        activity("not asked for", queue=w.id("tq")),
    )
    await w.history(record_as="dispatched")
    described = await w.call("DescribeWorkflowExecution", execution=w.ex())
    w.record("pending", list(described.pending_activities))
    for eager_task in answer.activity_tasks:
        await w.call("RespondActivityTaskCompleted", task_token=eager_task.task_token)
    await w.history(record_as="completed")


@scenario(server="tight")
async def eager(w: World) -> None:
    await _eager(w)


@scenario()
async def eager_not_enabled(w: World) -> None:
    """As the real server is configured unless told otherwise, it ignores the request."""
    await _eager(w)


@scenario()
async def timeout_defaults(w: World) -> None:
    cases = {
        "start-to-close": {"start_to_close_timeout": seconds(10)},
        "schedule-to-close": {"schedule_to_close_timeout": seconds(10)},
        "both": {"start_to_close_timeout": seconds(20), "schedule_to_close_timeout": seconds(10)},
        "schedule-to-start": {
            "start_to_close_timeout": seconds(10),
            "schedule_to_start_timeout": seconds(500),
        },
        "heartbeat": {"start_to_close_timeout": seconds(10), "heartbeat_timeout": seconds(50)},
        "all large": {
            "start_to_close_timeout": seconds(5000),
            "schedule_to_close_timeout": seconds(5000),
            "schedule_to_start_timeout": seconds(5000),
            "heartbeat_timeout": seconds(5000),
        },
        "zero": {"start_to_close_timeout": seconds(10), "schedule_to_close_timeout": seconds(0)},
    }
    for workflow, fields in {"unlimited": {}, "limited": {"workflow_run_timeout": seconds(100)}}.items():
        await w.start(workflow, queue=workflow, **fields)
        await w.step(
            *(activity(name, queue=w.id("nobody"), timeout_s=None, **case) for name, case in cases.items()),
            queue=workflow,
        )
        await w.history(workflow)


@scenario()
async def retry_policy_defaults(w: World) -> None:
    policies = {
        "attempts only": {"maximum_attempts": 3},
        "interval only": {"initial_interval": seconds(5)},
        "coefficient only": {"backoff_coefficient": 3},
        "maximum only": {"maximum_interval": seconds(50)},
        "types only": {"non_retryable_error_types": ["Fatal"]},
        "empty": {},
        "one attempt": {"maximum_attempts": 1},
    }
    await w.start()
    await w.step(*(activity(n, queue=w.id("nobody"), retry_policy=p) for n, p in policies.items()))
    await w.history()


@scenario()
async def duplicate_id(w: World) -> None:
    await w.start()
    await w.try_done(
        "one task", await w.task(), activity("a", queue=w.id("x")), activity("a", queue=w.id("x"))
    )
    await w.history()
    await w.step(activity("a", queue=w.id("x")))
    await w.signal()
    await w.try_done("two tasks", await w.task(), activity("a", queue=w.id("x")))
    await w.history(record_as="at the end")


@scenario()
async def id_reuse_after_close(w: World) -> None:
    await w.start()
    for result in (1, 2):
        await w.step(activity("a", queue=w.id("act")))
        await w.act(payloads(result), queue="act")
    await w.history()


@scenario()
async def several_parallel(w: World) -> None:
    """Ends of several activities while no task runs: one task tells all that came until it is polled."""
    await w.start()
    await w.step(*(activity(f"a{n}", queue=w.id(f"act{n}")) for n in range(3)))
    for n in (2, 0, 1):
        await w.act(payloads(n), queue=f"act{n}")
    await w.task(record_as="task")
