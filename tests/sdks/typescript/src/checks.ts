import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import {
  Client,
  Workflow,
  WorkflowHandleWithFirstExecutionRunId,
  WorkflowStartOptions,
  WorkflowUpdateFailedError,
} from '@temporalio/client';
import { ATTEMPTS_UNTIL_SUCCESS, RUNS_UNTIL_DONE, TIMER_DURATION_MS } from './constants';
import * as workflows from './workflows';

/** Runs checks through one client against one task queue. */
export class Suite {
  constructor(
    private readonly client: Client,
    private readonly taskQueue: string
  ) {}

  /** All checks by name, in the order in which they run. */
  readonly checks: Record<string, () => Promise<void>> = {
    hello_activity: () => this.helloActivity(),
    activity_retry: () => this.activityRetry(),
    signal: () => this.signal(),
    query: () => this.query(),
    update: () => this.update(),
    child_workflow: () => this.childWorkflow(),
    timer: () => this.timer(),
    continue_as_new: () => this.continueAsNew(),
  };

  private async start<T extends Workflow>(
    workflow: T,
    ...args: Parameters<T>
  ): Promise<WorkflowHandleWithFirstExecutionRunId<T>> {
    const options = { args, taskQueue: this.taskQueue, workflowId: `typescript-smoke-${randomUUID()}` };
    return await this.client.workflow.start(workflow, options as unknown as WorkflowStartOptions<T>);
  }

  private async statusOf(workflowId: string, runId?: string): Promise<string> {
    const description = await this.client.workflow.getHandle(workflowId, runId).describe();
    return description.status.name;
  }

  private async helloActivity(): Promise<void> {
    const handle = await this.start(workflows.helloWorkflow, 'TypeScript');
    assert.equal(await handle.result(), 'Hello, TypeScript!');
  }

  private async activityRetry(): Promise<void> {
    const handle = await this.start(workflows.retryWorkflow);
    assert.equal(await handle.result(), ATTEMPTS_UNTIL_SUCCESS);
  }

  private async signal(): Promise<void> {
    const handle = await this.start(workflows.signalWorkflow);
    for (const value of ['a', 'b', 'c']) await handle.signal(workflows.addSignal, value);
    await handle.signal(workflows.finishSignal);
    assert.deepEqual(await handle.result(), ['a', 'b', 'c']);
  }

  private async query(): Promise<void> {
    const handle = await this.start(workflows.queryWorkflow);
    assert.equal(await handle.query(workflows.stateQuery), 'waiting');
    await handle.signal(workflows.finishSignal);
    await handle.result();
    assert.equal(await handle.query(workflows.stateQuery), 'finished');
  }

  private async update(): Promise<void> {
    const handle = await this.start(workflows.updateWorkflow);
    assert.equal(await handle.executeUpdate(workflows.addUpdate, { args: [2] }), 2);
    assert.equal(await handle.executeUpdate(workflows.addUpdate, { args: [3] }), 5);
    await assert.rejects(
      handle.executeUpdate(workflows.addUpdate, { args: [-1] }),
      (error) => error instanceof WorkflowUpdateFailedError && error.cause?.message === 'amount must be positive'
    );
    await handle.signal(workflows.finishSignal);
    assert.equal(await handle.result(), 5);
  }

  private async childWorkflow(): Promise<void> {
    const childId = `typescript-smoke-child-${randomUUID()}`;
    const handle = await this.start(workflows.parentWorkflow, childId);
    assert.equal(await handle.result(), handle.workflowId);
    const child = await this.client.workflow.getHandle(childId).describe();
    assert.equal(child.parentExecution?.runId, handle.firstExecutionRunId);
    assert.equal(child.status.name, 'COMPLETED');
  }

  private async timer(): Promise<void> {
    const handle = await this.start(workflows.timerWorkflow);
    const sleptMs = await handle.result();
    assert.ok(sleptMs >= TIMER_DURATION_MS, `slept ${sleptMs} ms, want at least ${TIMER_DURATION_MS} ms`);
  }

  private async continueAsNew(): Promise<void> {
    const handle = await this.start(workflows.continueAsNewWorkflow, 1);
    assert.equal(await handle.result(), RUNS_UNTIL_DONE);
    assert.equal(await this.statusOf(handle.workflowId, handle.firstExecutionRunId), 'CONTINUED_AS_NEW');
    assert.equal(await this.statusOf(handle.workflowId), 'COMPLETED');
  }
}
