import {
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  defineUpdate,
  executeChild,
  proxyActivities,
  setHandler,
  sleep,
  workflowInfo,
} from '@temporalio/workflow';
import type * as activities from './activities';
import { ATTEMPTS_UNTIL_SUCCESS, RUNS_UNTIL_DONE, TIMER_DURATION_MS } from './constants';

const { greet, failTwice } = proxyActivities<typeof activities>({
  startToCloseTimeout: '10 seconds',
  retry: { initialInterval: '20 ms', backoffCoefficient: 1, maximumAttempts: ATTEMPTS_UNTIL_SUCCESS },
});

export const addSignal = defineSignal<[string]>('add');
export const finishSignal = defineSignal('finish');
export const stateQuery = defineQuery<string>('state');
export const addUpdate = defineUpdate<number, [number]>('add');

/** Returns what one activity returns. */
export async function helloWorkflow(name: string): Promise<string> {
  return await greet(name);
}

/** Returns the attempt on which its activity succeeded. */
export async function retryWorkflow(): Promise<number> {
  return await failTwice();
}

/** Collects the payloads of its "add" signals until a "finish" signal. */
export async function signalWorkflow(): Promise<string[]> {
  const seen: string[] = [];
  let finished = false;
  setHandler(addSignal, (value) => void seen.push(value));
  setHandler(finishSignal, () => void (finished = true));
  await condition(() => finished);
  return seen;
}

/** Answers "state" with "waiting" before its "finish" signal and "finished" after it. */
export async function queryWorkflow(): Promise<void> {
  let state = 'waiting';
  setHandler(stateQuery, () => state);
  setHandler(finishSignal, () => void (state = 'finished'));
  await condition(() => state === 'finished');
}

/** Adds positive amounts, refuses others, and returns the total on "finish". */
export async function updateWorkflow(): Promise<number> {
  let total = 0;
  let finished = false;
  setHandler(addUpdate, (amount) => (total += amount), {
    validator: (amount) => {
      if (amount <= 0) throw new Error('amount must be positive');
    },
  });
  setHandler(finishSignal, () => void (finished = true));
  await condition(() => finished);
  return total;
}

/** Returns what its child returns: the child's own view of its parent. */
export async function parentWorkflow(childId: string): Promise<string> {
  return await executeChild(childWorkflow, { workflowId: childId });
}

/** Returns the workflow id of its parent. */
export async function childWorkflow(): Promise<string> {
  const { parent } = workflowInfo();
  if (parent === undefined) throw new Error('no parent');
  return parent.workflowId;
}

/** Sleeps and returns the workflow time in milliseconds that passed meanwhile. */
export async function timerWorkflow(): Promise<number> {
  const before = Date.now();
  await sleep(TIMER_DURATION_MS);
  return Date.now() - before;
}

/** Continues as new until its third run, then returns that run's number. */
export async function continueAsNewWorkflow(run: number): Promise<number> {
  if (run < RUNS_UNTIL_DONE) await continueAsNew<typeof continueAsNewWorkflow>(run + 1);
  return run;
}
