// How the command ends: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
import { CommanderError } from 'commander';
import { warn } from './terminal.js';

export const exitCodes = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** The command line asks for something that makes no sense; nothing was done. */
export class UsageError extends Error {}

/** The reason of the signal that Ctrl-C and SIGTERM set off. */
export class Interrupted extends Error {}

/** Says in one line on standard error what went wrong, and gives the exit code. */
export function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.done : exitCodes.usage; // it has spoken
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  if (process.env.SONDE_DEBUG && stack) console.error(stack);
  else warn(message);
  if (error instanceof Interrupted) return exitCodes.interrupted;
  if (!(error instanceof UsageError)) return exitCodes.failed;
  console.error('Try --help for examples.');
  return exitCodes.usage;
}

/** Runs body with a signal that SIGINT and SIGTERM abort, with `hint` as the message. A second one ends at once. */
export async function interruptible<T>(hint: string, body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) process.exit(exitCodes.interrupted);
    controller.abort(new Interrupted(hint));
  };
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, stop);
  try {
    return await body(controller.signal);
  } finally {
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, stop);
  }
}
