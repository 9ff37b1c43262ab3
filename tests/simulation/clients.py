"""Clients: they start workflows, signal, query, update, reset and end them, and repeat what was not answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyExcludeType, UpdateWorkflowExecutionLifecycleStage
from temporalio.api.enums.v1 import WorkflowIdReusePolicy as REUSE
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api

from gateway.errors import ABORTED, ALREADY_EXISTS, INTERNAL, NOT_FOUND, UNAVAILABLE, ApiError
from streams.bodies import Call
from streams.runtime.records import Reply
from streams.topology import COMMANDS, workflow_key
from tests.simulation.chains import waits_in_vain
from tests.simulation.judge import require
from tests.simulation.programs import (
    NAMESPACE,
    QUEUE,
    payloads,
    random_program,
    retry_policy,
    small_program,
    value_of,
)
from tests.simulation.resets import reset

if TYPE_CHECKING:
    from tests.simulation.world import World

TIMEOUT_MS = 6_000
TRIES = 12
RESETS = 30
"""The most resets a client makes: each is followed by further calls on every open run, resets among them."""
STAGE = UpdateWorkflowExecutionLifecycleStage

SCHEDULES = ("@every 1s", "@every 3s", "* * * * *")

TASK_ENDS = (
    EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
)
CHILD_INITIATED = EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
CHILD_STARTED = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED

EXCLUDED = (
    (),
    (),
    (ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL,),
    [number for number in ResetReapplyExcludeType.values() if number],
)
"""What does not come again after a reset."""

Done = Callable[[Reply], None]


class Client:
    """One client working one workflow id after the other."""

    def __init__(self, world: World, workflow_id: str) -> None:
        self.world = world
        self.workflow_id = workflow_id
        self.busy = 0
        self._number = 0
        self._resets = 0
        world.at(world.rng.randint(0, 1_500), self._start)

    def _name(self, what: str) -> str:
        self._number += 1
        return f"{self.workflow_id}-{what}-{self._number}"

    def _ask(
        self, method: str, run_id: str, request: Any, done: Done, tries: int = TRIES, **more: Any
    ) -> None:
        """Call, and call again until there is an answer."""
        world = self.world
        body = world.with_run_id(
            Call(
                method,
                NAMESPACE,
                self.workflow_id,
                run_id,
                request.SerializeToString(),
                deadline_ms=world.now_ms + TIMEOUT_MS,
                **more,
            )
        )
        self.busy += 1

        def answered(reply: Reply | None) -> None:
            self.busy -= 1
            if reply is not None:
                done(reply)
            elif tries:
                self._ask(method, run_id, request, done, tries - 1, **more)

        key = workflow_key(NAMESPACE, self.workflow_id)
        world.rng.choice(world.gateways).call(body, COMMANDS, key, TIMEOUT_MS, answered)

    # Starting

    def _start(self) -> None:
        rng = self.world.rng
        name = self._name("start")
        kind = rng.random()
        cron = rng.choice(SCHEDULES) if kind < 0.12 else ""
        retried = kind < 0.35 and (not cron or kind < 0.04)
        program = small_program(rng, rng.choice((0, 1, 2, 5))) if cron or retried else random_program(rng)
        with_signal = rng.random() < 0.25 and not (program["again"] or cron or retried)
        self.resettable = not with_signal
        if with_signal:
            request: Any = api.SignalWithStartWorkflowExecutionRequest(signal_name=self._name("signal"))
        else:
            request = api.StartWorkflowExecutionRequest()
        request.namespace = NAMESPACE
        request.workflow_id = self.workflow_id
        request.workflow_type.name = "program"
        request.task_queue.CopyFrom(TaskQueue(name=QUEUE))
        request.input.CopyFrom(payloads(program))
        request.workflow_id_reuse_policy = REUSE.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
        request.request_id = request.identity = name
        request.cron_schedule = cron
        if retried:
            request.retry_policy.CopyFrom(retry_policy(rng))
        if not cron and rng.random() < 0.15:
            request.workflow_start_delay.seconds = rng.randint(1, 3)
        if rng.random() < 0.15:
            request.workflow_execution_timeout.seconds = rng.choice((4, 30))
        if rng.random() < 0.15:
            request.workflow_run_timeout.seconds = rng.choice((2, 20))

        def done(reply: Reply) -> None:
            if cron:
                self.world.at(rng.randint(3_000, 9_000), self._end_schedule)
            if reply.code == ALREADY_EXISTS and (with_signal or program["again"] or cron or retried):
                # A repeated start is recognised by the run it opened and not by those that follow it, with a
                # signal only while that is open.
                return
            require(not reply.code, f"start {name} was refused: {reply}")
            if with_signal:
                run_id = api.SignalWithStartWorkflowExecutionResponse.FromString(reply.body).run_id
                self.world.judge.told["signal"][request.signal_name] = True
            else:
                run_id = api.StartWorkflowExecutionResponse.FromString(reply.body).run_id
            self.world.judge.told["start"][name] = run_id
            for _ in range(rng.randint(0, 5)):
                self.busy += 1
                self.world.at(rng.randint(0, 4_000), self._do, run_id)

        method = "SignalWithStartWorkflowExecution" if with_signal else "StartWorkflowExecution"
        self._ask(method, "", request, done)

    # What follows

    def _do(self, run_id: str) -> None:
        self.busy -= 1
        pick = self.world.rng.random()
        if self.resettable and pick < 0.5 and (cut := self._points(cut=True)):
            self._reset(cut)
        elif pick < 0.44:
            self._signal(run_id)
        elif pick < 0.58:
            self._query(run_id)
        elif pick < 0.80:
            self._update(run_id)
        elif pick < 0.88:
            self._cancel(run_id)
        elif pick < 0.92:
            self._terminate(run_id)
        elif self.resettable and (points := self._points()):
            self._reset(points)

    def _end_schedule(self) -> None:
        """A schedule never ends by itself: cancel or terminate the current run.

        Whether there is one is not seen: the events of a run that is over in a second are told of with its close.
        """
        world = self.world
        if world.over:
            return
        if world.rng.random() < 0.3:
            self._cancel("")
        else:
            self._terminate("")
        world.at(2_500, self._end_schedule)

    def _execution(self, run_id: str) -> WorkflowExecution:
        return WorkflowExecution(workflow_id=self.workflow_id, run_id=run_id)

    def _signal(self, run_id: str) -> None:
        poison = self.world.rng.random() < 0.25
        name = self._name("poison" if poison else "signal")
        request = api.SignalWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_execution=self._execution(run_id),
            signal_name=name,
            request_id=name,
            input=payloads(name),
        )
        told = self.world.judge.told["signal"]
        unclear = False

        def done(reply: Reply) -> None:
            nonlocal unclear
            if not reply.code:
                told[name] = True
            elif reply.code == INTERNAL:
                require(poison, f"signal {name} was refused: {reply}")
                if not unclear:
                    told[name] = False

        def first(reply: Reply) -> None:
            done(reply)

        if poison:
            # Asked only once: whether an unanswered one took effect is anybody's guess.
            self.world.judge.poison_sent.add(name)
            self._ask("SignalWorkflowExecution", run_id, request, first, 0)
        else:
            self._ask("SignalWorkflowExecution", run_id, request, first)

    def _query(self, run_id: str) -> None:
        request = api.QueryWorkflowRequest(namespace=NAMESPACE, execution=self._execution(run_id))
        request.query.query_type = "run"

        def done(reply: Reply) -> None:
            if not reply.code:
                answer = api.QueryWorkflowResponse.FromString(reply.body)
                require(value_of(answer.query_result) == run_id, f"a query of {run_id} was answered {answer}")

        self._ask("QueryWorkflow", run_id, request, done, 2)

    def _update(self, run_id: str) -> None:
        self.world.judge.updated.add(self.workflow_id)
        update_id = self._name("reject" if self.world.rng.random() < 0.3 else "update")
        request = api.UpdateWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=self._execution(run_id)
        )
        request.wait_policy.lifecycle_stage = self.world.rng.choice(
            (
                STAGE.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED,
                STAGE.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED,
            )
        )
        request.request.meta.update_id = update_id
        request.request.input.name = update_id

        def done(reply: Reply) -> None:
            if reply.code:
                return
            answer = api.UpdateWorkflowExecutionResponse.FromString(reply.body)
            if answer.HasField("outcome"):
                if answer.outcome.HasField("success"):
                    require(value_of(answer.outcome.success) == update_id, f"update {update_id}: {answer}")
                    self.world.judge.told["update"][update_id] = True
            elif answer.stage >= STAGE.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED:
                self.world.judge.told["update"][update_id] = False

        self._ask("UpdateWorkflowExecution", run_id, request, done, 4)

    def _cancel(self, run_id: str) -> None:
        name = self._name("cancel")
        request = api.RequestCancelWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=self._execution(run_id), request_id=name
        )

        def done(reply: Reply) -> None:
            if not reply.code:
                self.world.judge.told["cancel"][name] = (self.workflow_id, run_id, self.world.now_ms)

        self._ask("RequestCancelWorkflowExecution", run_id, request, done)

    def _terminate(self, run_id: str) -> None:
        name = self._name("terminate")
        request = api.TerminateWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=self._execution(run_id), reason=name
        )

        def done(reply: Reply) -> None:
            if not reply.code:
                self.world.judge.told["terminate"][name] = (self.workflow_id, run_id)

        self._ask("TerminateWorkflowExecution", run_id, request, done)

    # Going back

    def _points(self, *, cut: bool = False) -> list[tuple[str, int]]:
        """The ends of workflow tasks of the workflow's runs; with `cut`, where a child was still to start."""
        return [
            (run.run_id, event.event_id)
            for run in self.world.judge.runs.values()
            for event in run.events
            if run.workflow_id == self.workflow_id
            and run.born
            and event.event_type in TASK_ENDS
            and (not cut or _cuts_off_a_child(run.events, event.event_id))
        ]

    def _reset(self, points: list[tuple[str, int]]) -> None:
        """Reset a run of the workflow to one of these ends of workflow tasks."""
        rng, judge = self.world.rng, self.world.judge
        self._resets += 1
        self.resettable = self._resets < RESETS
        if self._resets == 1:
            self.world.at(20_000, self._end_waiting)
        name = self._name("reset")
        run_id, point = rng.choice(points)
        request = api.ResetWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_execution=self._execution(run_id),
            workflow_task_finish_event_id=point,
            request_id=name,
            reason=name,
            reset_reapply_exclude_types=rng.choice(EXCLUDED),
        )
        self._go_back(request, TRIES)
        for current in judge.runs.values():
            if current.open and current.workflow_id == self.workflow_id:
                for _ in range(rng.randint(0, 3)):
                    self.busy += 1
                    self.world.at(rng.randint(0, 250), self._do, current.run_id)

    def _go_back(self, request: api.ResetWorkflowExecutionRequest, tries: int) -> None:
        self.busy += 1
        judge = self.world.judge

        def answered(response: api.ResetWorkflowExecutionResponse | ApiError | None) -> None:
            self.busy -= 1
            if isinstance(response, api.ResetWorkflowExecutionResponse):
                judge.told["reset"][request.request_id] = (response.run_id, request)
            elif response is None or response.code in (UNAVAILABLE, ABORTED):
                if tries:
                    self.busy += 1
                    self.world.at(300, self._again, request, tries - 1)
            else:
                require(response.code == NOT_FOUND, f"reset {request.reason} was refused: {response!r}")

        reset(self.world, self.world.rng.choice(self.world.gateways), request, TIMEOUT_MS, answered)

    def _again(self, request: api.ResetWorkflowExecutionRequest, tries: int) -> None:
        self.busy -= 1
        self._go_back(request, tries)

    def _end_waiting(self) -> None:
        """Terminate runs that wait for a child whose end they are not told of (as on the real server).

        Also those of resets that nobody was told of: what was given up may take effect late.
        """
        runs = self.world.judge.runs
        for run in list(runs.values()):
            if run.open and run.copied and run.workflow_id == self.workflow_id and waits_in_vain(runs, run):
                self._terminate(run.run_id)
        if not self.world.over:
            self.world.at(20_000, self._end_waiting)


def _cuts_off_a_child(events: Sequence[HistoryEvent], point: int) -> bool:
    """Whether a child was initiated before an event, and started after it or never."""
    initiated = {event.event_id for event in events[: point - 1] if event.event_type == CHILD_INITIATED}
    started = {
        event.child_workflow_execution_started_event_attributes.initiated_event_id
        for event in events[: point - 1]
        if event.event_type == CHILD_STARTED
    }
    return bool(initiated - started)
