export const ATTEMPTS_UNTIL_SUCCESS = 3;
export const RUNS_UNTIL_DONE = 3;
export const TIMER_DURATION_MS = 1000;
