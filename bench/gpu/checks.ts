// What small.ts and full_size.ts share: a line for each check as it ends, the line at the end, and the owner of what a
// check made.

type Disposable = { dispose(): void };

/** Frees what it was given, all at once. */
export class Owner {
  readonly #owned: Disposable[] = [];
  own<T extends Disposable>(thing: T): T {
    this.#owned.push(thing);
    return thing;
  }
  end(): void {
    for (const thing of this.#owned.splice(0)) thing.dispose();
  }
}

/** Runs the checks whose name contains one of the words (all of them without words), one after another. */
export class Checks {
  readonly #words: readonly string[];
  #ran = 0;
  #failed = 0;

  constructor(words: readonly string[]) {
    this.#words = words;
  }

  /** The body's figures are printed with its name and time. What it throws fails this check alone. */
  async run(name: string, body: () => Promise<string>): Promise<void> {
    if (this.#words.length > 0 && !this.#words.some((word) => name.includes(word))) return;
    this.#ran++;
    const start = performance.now();
    let failed = false;
    const text = await body().catch((error: Error) => {
      failed = true;
      return error.message;
    });
    if (failed) this.#failed++;
    const ms = (performance.now() - start).toFixed(0);
    console.log(`${failed ? 'FAIL' : 'ok  '} ${name} ${ms} ms${text && `: ${text}`}`);
  }

  /** Reports a failure that belongs to no check. */
  fail(text: string): void {
    this.#failed++;
    console.log(`FAIL ${text}`);
  }

  /** Prints the totals and sets the exit code: 0 when there were checks and none failed. */
  end(device: string): void {
    if (this.#ran === 0) this.#failed++;
    console.log(`${device}: ${this.#ran} checks, ${this.#failed} failed`);
    process.exitCode = this.#failed > 0 ? 1 : 0;
  }
}

const show = (x: number): string => (Number.isInteger(x) ? String(x) : x.toExponential(1));

/** Figures of one check and what each may be at most. NaN is never right. */
export class Figures {
  readonly #texts: string[] = [];
  #wrong = false;

  add(what: string, value: number, most = Number.POSITIVE_INFINITY): void {
    const right = value <= most;
    this.#texts.push(`${what} ${show(value)}${right ? '' : ` (at most ${show(most)})`}`);
    this.#wrong ||= !right;
  }

  /** All of them in a line. @throws Error with the same line when one is wrong. */
  line(): string {
    const line = this.#texts.join(', ');
    if (this.#wrong) throw new Error(line);
    return line;
  }
}
