// suite() over uvu 0.5.6, which lets failures pass in several ways: it swallows errors of hooks and thrown values that
// are not Errors, exits 0 when run() was forgotten, and has no time limit and no rejects(). Here each of these fails,
// and test/support/fails proves it.
import { inspect } from 'node:util';
import { suite as uvuSuite } from 'uvu';

type Body = () => unknown;
/** A class of errors, as in `RangeError`. */
export type ErrorClass = abstract new (...args: never[]) => Error;

interface Hook {
  (body: Body): void;
  each(body: Body): void;
}

export interface Suite {
  /** limit: milliseconds this test may take. */
  (title: string, body: Body, options?: { limit?: number }): void;
  /** A test that cannot run here; the reason is printed and the test is counted as skipped. */
  skip(title: string, reason: string): void;
  /** Milliseconds each test and hook registered from here on may take; 60 000 when never called. */
  limit(ms: number): void;
  /** A hook that throws fails every test of the suite; one of `before.each`, the test that follows. */
  before: Hook;
  /** A hook that throws fails the file; one of `after.each`, the test that it follows. */
  after: Hook;
  /** Must be called once, after the last test. */
  run(): void;
}

// Sanitizers and emulators slow everything down alike: the runner then multiplies all limits.
const limitFactor = Number(process.env.TEST_LIMIT_FACTOR ?? 1);
const suites: { name: string; state: 'open' | 'running' | 'done' }[] = [];
const faults: string[] = [];

// Runs after uvu has set its own exit code.
process.on('exit', () => {
  for (const { name, state } of suites) {
    if (state === 'open') faults.push(`suite "${name}" was never run(): its tests did not run`);
    if (state === 'running') faults.push(`suite "${name}" did not finish`);
  }
  if (faults.length === 0) return;
  console.error(faults.join('\n'));
  process.exitCode = 1;
});

/** A suite of tests that run one after another, in the order they are written. */
export function suite(name: string): Suite {
  const inner = uvuSuite(name);
  const own: (typeof suites)[number] = { name, state: 'open' };
  suites.push(own);
  const hooks = { before: [] as Body[], after: [] as Body[], beforeEach: [] as Body[], afterEach: [] as Body[] };
  let limit = 60_000;
  let tests = 0;
  let broken: Error | undefined; // what a before hook threw

  const checkOpen = (what: string) => {
    if (own.state !== 'open') throw new Error(`suite "${name}": ${what} after run()`);
  };
  const hook = (all: Body[], each: Body[]): Hook => {
    const into = (list: Body[], what: string) => (body: Body) => {
      checkOpen(what);
      const ms = limit;
      list.push(() => withLimit(body, ms, what));
    };
    return Object.assign(into(all, 'a hook'), { each: into(each, 'an each hook') });
  };
  const runAll = async (bodies: Body[]) => {
    for (const body of bodies) await body();
  };

  const test = (title: string, body: Body, options: { limit?: number } = {}) => {
    checkOpen(`test "${title}"`);
    tests++;
    const ms = options.limit ?? limit;
    inner(title, async () => {
      try {
        if (broken) throw broken;
        await runAll(hooks.beforeEach);
        try {
          await withLimit(body, ms, `test "${title}"`);
        } finally {
          await runAll(hooks.afterEach);
        }
      } catch (thrown) {
        faults.push(`suite "${name}", test "${title}" failed`);
        throw asError(thrown);
      }
    });
  };
  inner.before(async () => {
    try {
      await runAll(hooks.before);
    } catch (thrown) {
      broken = asError(thrown);
      faults.push(`suite "${name}": a before hook threw: ${inspect(thrown)}`);
    }
  });
  inner.after(async () => {
    try {
      await runAll(hooks.after);
    } catch (thrown) {
      faults.push(`suite "${name}": an after hook threw: ${inspect(thrown)}`);
    }
    own.state = 'done';
  });

  return Object.assign(test, {
    skip(title: string, reason: string) {
      checkOpen(`test.skip "${title}"`);
      tests++;
      inner.skip(title);
      console.log(`skipped: ${name}: ${title}: ${reason}`);
    },
    limit(ms: number) {
      limit = ms;
    },
    before: hook(hooks.before, hooks.beforeEach),
    after: hook(hooks.after, hooks.afterEach),
    run() {
      checkOpen('run()');
      own.state = 'running';
      if (tests === 0) faults.push(`suite "${name}" has no tests`);
      inner.run();
    },
  });
}

/** Demands that the promise rejects with an Error of that class whose message matches; returns the error. */
export async function rejects(
  promise: PromiseLike<unknown> | (() => PromiseLike<unknown>),
  expected: ErrorClass | RegExp,
  pattern?: RegExp,
): Promise<Error> {
  const pending = typeof promise === 'function' ? promise() : promise;
  let value: unknown;
  try {
    value = await pending;
  } catch (thrown) {
    return expected instanceof RegExp
      ? checkError(thrown, Error, expected, 'rejects')
      : checkError(thrown, expected, pattern ?? /(?:)/, 'rejects');
  }
  throw new Error(`rejects: expected a rejection (${expected instanceof RegExp ? expected : expected.name}), \
but the promise resolved to ${inspect(value)}`);
}

/** Demands that fn throws, before it returns, an Error of that class whose message matches; returns the error. */
export function throws(fn: () => unknown, expected: ErrorClass, pattern: RegExp): Error {
  let value: unknown;
  try {
    value = fn();
  } catch (thrown) {
    return checkError(thrown, expected, pattern, 'throws');
  }
  const got = value instanceof Promise ? 'it returned a promise (use rejects)' : `it returned ${inspect(value)}`;
  if (value instanceof Promise) value.catch(() => {});
  throw new Error(`throws: expected ${expected.name} ${pattern}, but ${got}`);
}

function checkError(thrown: unknown, expected: ErrorClass, pattern: RegExp, what: string): Error {
  if (!(thrown instanceof expected)) {
    throw new Error(`${what}: expected ${expected.name} ${pattern}, but got ${inspect(thrown)}`);
  }
  if (thrown.message.search(pattern) < 0) {
    throw new Error(`${what}: expected a message that matches ${pattern}, but got: ${thrown.message}`, {
      cause: thrown,
    });
  }
  return thrown;
}

// A late body cannot be stopped; it is reported, and the suite goes on.
async function withLimit(body: Body, ms: number, what: string): Promise<void> {
  const allowed = ms * limitFactor;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      exitWhenDone();
      reject(new Error(`${what} did not finish within its limit of ${allowed / 1000} s`));
    }, allowed);
  });
  try {
    await Promise.race([body(), late]);
  } finally {
    clearTimeout(timer);
  }
}

// Handles that a late body holds open must not keep the process alive once all suites are through.
function exitWhenDone(): void {
  setInterval(() => {
    if (suites.every(({ state }) => state === 'done')) process.exit(1);
  }, 50).unref();
}

const asError = (thrown: unknown): Error =>
  thrown instanceof Error && typeof thrown.stack === 'string' && typeof thrown.name === 'string'
    ? thrown
    : new Error(`threw ${inspect(thrown)}, which is not an Error`);
