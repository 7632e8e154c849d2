// Processes that a test starts, and how they end.
import type { ChildProcess } from 'node:child_process';

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** All of its standard error. */
  readonly errors: string;
}

/** Resolves when the process has ended. Must be called as soon as the process is started. */
export function endOf(child: ChildProcess): Promise<Ended> {
  let errors = '';
  child.stderr?.on('data', (text) => {
    errors += text;
  });
  return new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal, errors })));
}
