"""Versioning by patches, and values that stay the same on replay."""

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import WorkflowHandle

from tests.api.sdk_environment import SdkEnvironment, event_types_of, wait_for_event


@workflow.defn(name="Patched")
class BeforePatch:
    def __init__(self) -> None:
        self.finished = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.finished)
        return "old"

    @workflow.signal
    def finish(self) -> None:
        self.finished = True


@workflow.defn(name="Patched")
class WithPatch:
    def __init__(self) -> None:
        self.finished = False

    @workflow.run
    async def run(self) -> str:
        result = "new" if workflow.patched("better") else "old"
        await workflow.wait_condition(lambda: self.finished)
        return result

    @workflow.signal
    def finish(self) -> None:
        self.finished = True


@workflow.defn(name="Patched")
class WithDeprecatedPatch:
    def __init__(self) -> None:
        self.finished = False

    @workflow.run
    async def run(self) -> str:
        workflow.deprecate_patch("better")
        await workflow.wait_condition(lambda: self.finished)
        return "new"

    @workflow.signal
    def finish(self) -> None:
        self.finished = True


@workflow.defn(name="Patched")
class WithIncompatibleChange:
    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(3600)
        return "incompatible"


@workflow.defn
class DrawValues:
    """Draws values that must not change on replay, before and after a signal."""

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.signalled = False

    @workflow.run
    async def run(self) -> list[str]:
        self.draw()
        await workflow.wait_condition(lambda: self.signalled)
        self.draw()
        return self.drawn

    def draw(self) -> None:
        self.drawn += [str(workflow.uuid4()), str(workflow.random().random()), str(workflow.now())]

    @workflow.signal
    def go_on(self) -> None:
        self.signalled = True

    @workflow.query
    def values(self) -> list[str]:
        return self.drawn


async def started_by(env: SdkEnvironment, first: type) -> WorkflowHandle[object, str]:
    """A workflow whose first task was done by a worker with the given code."""
    handle = await env.start("Patched")
    async with env.worker([first]):
        await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    return handle


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (BeforePatch, WithPatch, "old"),
        (WithPatch, WithPatch, "new"),
        (WithPatch, WithDeprecatedPatch, "new"),
    ],
)
async def test_patch_decides_by_what_the_run_began_with(
    env: SdkEnvironment, first: type, second: type, expected: str
) -> None:
    handle = await started_by(env, first)
    async with env.worker([second]):
        await handle.signal("finish")
        assert await handle.result() == expected
    assert ("MARKER_RECORDED" in await event_types_of(handle)) == (first is WithPatch)


async def test_incompatible_change_fails_the_task_as_non_deterministic(env: SdkEnvironment) -> None:
    handle = await started_by(env, WithPatch)
    async with env.worker([WithIncompatibleChange]):
        await handle.signal("finish")
        failed = await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
    cause = failed.workflow_task_failed_event_attributes.cause
    assert cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
    await handle.terminate()


async def test_drawn_values_are_the_same_on_replay(env: SdkEnvironment) -> None:
    async with env.worker([DrawValues]):
        handle = await env.start(DrawValues.run)
        before = await handle.query(DrawValues.values)
    async with env.worker([DrawValues]):
        assert await handle.query(DrawValues.values) == before
        await handle.signal(DrawValues.go_on)
        result = await handle.result()
    assert result[:3] == before
    assert len(set(result)) == 6
