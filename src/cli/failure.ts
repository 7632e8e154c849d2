// The exit codes of the command, its failure messages, and its interruption by Ctrl-C.
import { CommanderError } from 'commander';
import { warn } from './terminal.js';

const exitCodes = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** The command line asks for something that makes no sense. Nothing was done. */
export class UsageError extends Error {}

/** The reason of the abort signal after Ctrl-C or SIGTERM. */
class Interrupted extends Error {}

/** Writes to standard error, in one line, what went wrong. Returns the exit code. */
export function reportFailure(error: unknown): number {
  // Commander has written the message already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.done : exitCodes.usage;
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  if (process.env.SONDE_DEBUG && stack) console.error(stack);
  else warn(message);
  if (error instanceof Interrupted) return exitCodes.interrupted;
  if (!(error instanceof UsageError)) return exitCodes.failed;
  console.error('Try --help for examples.');
  return exitCodes.usage;
}

/**
 * Runs body with an abort signal, which SIGINT and SIGTERM set off with `hint` as the message. A second one ends the
 * process at once.
 */
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
