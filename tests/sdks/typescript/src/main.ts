/**
 * Smoke of the official TypeScript SDK: runs every check against the server at the given address.
 *
 *     node main.js ADDRESS [NAMESPACE]
 *
 * Prints "PASS name" or "FAIL name reason" for each check; exits 1 if any failed.
 */
import { randomUUID } from 'node:crypto';
import { Client, Connection } from '@temporalio/client';
import { DefaultLogger, makeTelemetryFilterString, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import * as activities from './activities';
import { Suite } from './checks';

const CHECK_TIMEOUT_MS = 30_000;

async function main(address: string, namespace: string): Promise<number> {
  const logger = new DefaultLogger('WARN', ({ level, message, meta }) => console.error(level, message, meta ?? ''));
  Runtime.install({
    logger,
    telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'WARN' }) } },
  });
  const connection = await Connection.connect({ address });
  const nativeConnection = await NativeConnection.connect({ address });
  try {
    const taskQueue = `typescript-smoke-${randomUUID()}`;
    const worker = await Worker.create({
      connection: nativeConnection,
      namespace,
      taskQueue,
      workflowsPath: require.resolve('./workflows'),
      activities,
    });
    const suite = new Suite(new Client({ connection, namespace }), taskQueue);
    return await worker.runUntil(runChecks(suite));
  } finally {
    await connection.close();
    await nativeConnection.close();
  }
}

/** Runs the checks one after the other and returns the number of failed ones. */
async function runChecks(suite: Suite): Promise<number> {
  let failures = 0;
  for (const [name, check] of Object.entries(suite.checks)) {
    try {
      await withTimeout(check());
      console.log('PASS', name);
    } catch (error) {
      failures++;
      console.log('FAIL', name, describeError(error));
    }
  }
  return failures;
}

/** Fails if the given check takes longer than a check may. */
async function withTimeout(check: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${CHECK_TIMEOUT_MS} ms`)), CHECK_TIMEOUT_MS);
  });
  try {
    await Promise.race([check, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

function describeError(error: unknown): string {
  const causes: string[] = [];
  for (let cause = error; cause instanceof Error; cause = cause.cause) causes.push(`${cause.name}: ${cause.message}`);
  return (causes.join(' / ') || String(error)).replaceAll(/\s+/g, ' ');
}

const [address, namespace = 'default', ...rest] = process.argv.slice(2);
if (address === undefined || rest.length > 0) {
  console.error('usage: main.js ADDRESS [NAMESPACE]');
  process.exit(2);
}
main(address, namespace).then(
  (failures) => process.exit(failures > 0 ? 1 : 0),
  (error) => {
    console.error('error:', error);
    process.exit(2);
  }
);
