// compare.ts's end of a process that prepares cases and times them: a line of JSON there, a line of JSON back.
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Spec } from './spec.js';

/** What a worker is asked; it answers with a Reply. */
export type Request =
  | { readonly do: 'describe' }
  /** Makes the operands, runs once, and checks a part of the result. */
  | { readonly do: 'prepare'; readonly spec: Spec; readonly seed: number }
  /**
   * Queues so many repetitions of what was prepared under that number, and waits for the last. If `warm`, one that is
   * not timed comes first.
   */
  | { readonly do: 'time'; readonly prepared: number; readonly repetitions: number; readonly warm: boolean }
  /** Asked of a new process, on Linux: makes the operands, runs so often, and says what memory that took. */
  | { readonly do: 'memory'; readonly spec: Spec; readonly seed: number; readonly repetitions: number }
  /** Frees all that was prepared. */
  | { readonly do: 'drop' };

export interface Reply {
  readonly text?: string;
  /** Whether it computes on a real GPU. */
  readonly gpu?: boolean;
  readonly prepared?: number;
  readonly error?: number | null;
  /** Of one repetition. */
  readonly seconds?: number;
  /** Bytes of resident memory before the first run, and at the process's peak. */
  readonly memory?: { readonly before: number; readonly peak: number };
  readonly failure?: string;
  /** It failed because no answer came in time. */
  readonly late?: true;
}

export class Worker {
  readonly #command: string;
  readonly #args: readonly string[];
  readonly #env: Record<string, string>;
  #child: ChildProcess | undefined;
  #answer: ((reply: Reply) => void) | undefined;
  #starts = 0;

  constructor(command: string, args: readonly string[], env: Record<string, string> = {}) {
    this.#command = command;
    this.#args = args;
    this.#env = env;
  }

  /** Starts the process if it is not there: it may have crashed. After a failure without an answer it is ended. */
  async ask(request: Request, limit: number): Promise<Reply> {
    const child = this.#child ?? this.#start();
    const reply = new Promise<Reply>((resolve) => {
      this.#answer = resolve;
    });
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      this.#settle(child, { failure: `no answer in ${limit} s`, late: true });
    }, limit * 1000);
    child.stdin?.write(`${JSON.stringify(request)}\n`);
    try {
      return await reply;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The number of the process that runs, from 1 on; 0 when none does. What an earlier one had prepared is gone. */
  get process(): number {
    return this.#child ? this.#starts : 0;
  }

  /** The next question starts a new process. */
  end(): void {
    const child = this.#child;
    this.#child = undefined;
    child?.stdin?.end();
    setTimeout(() => child?.kill('SIGKILL'), 10_000).unref(); // one that is stuck
  }

  #start(): ChildProcess {
    const child = spawn(this.#command, this.#args, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, ...this.#env },
    });
    this.#child = child;
    this.#starts++;
    child.stdin.on('error', () => undefined); // 'exit' reports it
    child.once('error', (error) => this.#settle(child, { failure: error.message }));
    child.once('exit', (code, signal) => this.#settle(child, { failure: `ended by ${signal ?? `exit code ${code}`}` }));
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (!line.startsWith('{')) console.error(line);
      else if (this.#child === child) this.#reply(JSON.parse(line) as Reply);
    });
    return child;
  }

  // Ends a request that gets no answer, unless another process has been started since.
  #settle(child: ChildProcess, reply: Reply): void {
    if (this.#child !== child) return;
    this.#child = undefined;
    this.#reply(reply);
  }

  #reply(reply: Reply): void {
    this.#answer?.(reply);
    this.#answer = undefined;
  }
}
