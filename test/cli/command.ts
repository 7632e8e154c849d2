// Runs the compiled command as a user would, in a process of its own.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** The compiled command. */
export const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  cwd?: string;
  /** The text for standard input, which is then closed. */
  input?: string;
  /**
   * Keeps standard input open, and sends the signal when standard error has text, or at once after `after`
   * milliseconds. Or else when `once` holds of what standard output has given so far: then no more of it is read before
   * standard error has text, or the command has ended.
   */
  interrupt?: { signal: NodeJS.Signals; after?: number; once?: (stdout: string) => boolean };
  env?: Record<string, string>;
}

export function run(args: string[], { cwd, input, interrupt, env }: RunOptions = {}): Promise<Outcome> {
  const child = spawn(process.execPath, [main, ...args], { cwd, env: { ...process.env, NO_COLOR: '1', ...env } });
  let [stdout, stderr, sent] = ['', '', false];
  const send = () => {
    if (interrupt && !sent) child.kill(interrupt.signal);
    sent = true;
  };
  if (interrupt?.after !== undefined) setTimeout(send, interrupt.after);
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
    if (sent || !interrupt?.once?.(stdout)) return;
    child.stdout.pause();
    send();
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
    child.stdout.resume();
    if (interrupt?.after === undefined && !interrupt?.once) send();
  });
  child.on('exit', () => child.stdout.resume());
  child.stdin.on('error', () => {}); // the command may end before it has read everything
  if (!interrupt) child.stdin.end(input ?? '');
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, stdout, stderr })));
}
