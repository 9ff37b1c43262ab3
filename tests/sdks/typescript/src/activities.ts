import { activityInfo } from '@temporalio/activity';
import { ATTEMPTS_UNTIL_SUCCESS } from './constants';

/** Returns a greeting for the given name. */
export async function greet(name: string): Promise<string> {
  return `Hello, ${name}!`;
}

/** Fails until its third attempt and returns the number of that attempt. */
export async function failTwice(): Promise<number> {
  const { attempt } = activityInfo();
  if (attempt < ATTEMPTS_UNTIL_SUCCESS) throw new Error(`attempt ${attempt} fails on purpose`);
  return attempt;
}
