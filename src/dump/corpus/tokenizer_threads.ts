// Tokenises sections on several threads, and gives the results in order.
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { quietly } from '../../files/promises.js';
import { gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';
import type { Encoding } from './encoding.js';
import { type SectionRequest, type SectionTokens, sectionTokens } from './section_tokens.js';
import { sectionBytes } from './sections.js';

/** What a thread is asked for, and its answer. */
export interface ThreadRequest {
  readonly nVocab: number;
  readonly sections: readonly SectionRequest[];
  /** What results may lie in. */
  readonly memory: readonly ArrayBuffer[];
}

export type ThreadAnswer =
  | {
      readonly results: readonly (Omit<SectionTokens, 'problem'> & { readonly problem: ThreadProblem | undefined })[];
      /** That of the sections, and what was not needed. */
      readonly memory: readonly ArrayBuffer[];
    }
  | { readonly failed: string };

export interface ThreadProblem {
  readonly name: string;
  readonly message: string;
}

/** A section, and its tokens. */
export interface TokenisedSection<S extends SectionRequest> {
  readonly request: S;
  readonly result: SectionTokens;
  /** To be called when nobody looks at the result any more: its memory is used again. */
  readonly release?: () => void;
}

/** The most pieces of memory that are kept for each thread, and the largest of them. */
const mostSpare = 4;
const largestSpare = 4 * sectionBytes;

/** Threads that tokenise GPT-2's text. They are started when they are first needed. */
export class TokenizerThreads {
  readonly count: number;
  /** Bytes that were tokenised on the caller's thread. */
  bytesHere = 0;
  readonly #threads: Thread[] = [];
  readonly #spare: ArrayBuffer[] = [];
  #isClosed = false;

  /** `count`: as many as there are processors, but no more than four, when it is left out. */
  constructor(count = Math.min(4, availableParallelism())) {
    this.count = count;
  }

  /** Whether the threads have the tokenizer that `encode` is of. */
  canEncodeAs(encode: Encoding['encode']): boolean {
    return this.count > 1 && encode === gpt2Tokenizer().encode;
  }

  /** The tokens of sections, on the thread with the least to do. Their memory is the thread's from then on. */
  async run(nVocab: number, sections: readonly SectionRequest[]): Promise<SectionTokens[]> {
    if (this.#isClosed) throw new Error('dump: the threads that tokenise are closed');
    const isFree = this.#threads.some(({ waiting }) => waiting === 0);
    if (!isFree && this.#threads.length < this.count) this.#start();
    const [least] = [...this.#threads].sort((a, b) => a.waiting - b.waiting);
    const { results, memory } = await (least as Thread).run({
      ...{ nVocab, sections },
      memory: this.#spare.splice(0, sections.length),
    });
    for (const buffer of memory) this.reuse(buffer);
    return results;
  }

  /** Memory of so many bytes or more. */
  memory(bytes: number): ArrayBuffer {
    const at = this.#spare.findIndex(({ byteLength }) => byteLength >= bytes);
    return (at < 0 ? undefined : this.#spare.splice(at, 1)[0]) ?? Buffer.allocUnsafeSlow(bytes).buffer;
  }

  /**
   * Takes memory that nobody looks at any more, for sections and results to come. The collector of garbage does not see
   * soon how much of it there is.
   */
  reuse(memory: ArrayBuffer): void {
    if (memory.byteLength > largestSpare) return;
    this.#spare.push(memory);
    if (this.#spare.length <= mostSpare * this.count) return;
    const sizes = this.#spare.map(({ byteLength }) => byteLength);
    this.#spare.splice(sizes.indexOf(Math.min(...sizes)), 1); // small pieces are of small files, and would stay for good
  }

  /** A thread that has ended gets no more to do: it would never answer. */
  #start(): void {
    const thread = new Thread(() => {
      const at = this.#threads.indexOf(thread);
      if (at >= 0) this.#threads.splice(at, 1);
    });
    this.#threads.push(thread);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#threads.splice(0).map((thread) => thread.close()));
  }
}

interface Done {
  readonly results: SectionTokens[];
  readonly memory: readonly ArrayBuffer[];
}

class Thread {
  // Without the flags of this process: with --input-type, as in node --input-type=module -e, a thread runs no file.
  readonly #worker = new Worker(new URL('tokenizer_thread.js', import.meta.url), { execArgv: [] });
  /** Requests that have no answer yet, in order. */
  readonly #waiting: { resolve: (done: Done) => void; reject: (error: Error) => void }[] = [];

  constructor(onEnd: () => void) {
    this.#worker.unref();
    this.#worker.on('message', (answer: ThreadAnswer) => this.#receive(answer));
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('exit', () => {
      onEnd();
      this.#fail(new Error('dump: a thread that tokenises has ended'));
    });
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  run(request: ThreadRequest): Promise<Done> {
    const sections = request.sections.map((section) => ({ ...section, documents: undefined }));
    return new Promise((resolve, reject) => {
      this.#worker.postMessage({ ...request, sections }, [
        ...sections.map(({ bytes }) => bytes.buffer),
        ...request.memory,
      ]);
      this.#waiting.push({ resolve, reject }); // only what was sent gets an answer
      this.#worker.ref();
    });
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #receive(answer: ThreadAnswer): void {
    const waiting = this.#waiting.shift();
    if (this.#waiting.length === 0) this.#worker.unref();
    if ('failed' in answer) waiting?.reject(new Error(answer.failed));
    else {
      const results = answer.results.map(({ problem, ...result }) => ({ ...result, problem: errorOf(problem) }));
      waiting?.resolve({ results, memory: answer.memory });
    }
  }

  #fail(error: Error): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}

function errorOf(problem: ThreadProblem | undefined): Error | undefined {
  if (!problem) return undefined;
  const { name, message } = problem;
  return name === 'RangeError' ? new RangeError(message) : new Error(message);
}

/** Bytes that are tokenised on this thread before others are started, which takes longer than that. */
const bytesBeforeThreads = 2 ** 21;

export interface TokeniseOptions {
  readonly threads: TokenizerThreads | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Tokenises sections in order: here, one by one when they are asked for, and from the third megabyte on, on threads,
 * ahead of the caller.
 */
export async function* tokenised<S extends SectionRequest>(
  sections: AsyncGenerator<S>,
  encoding: Encoding,
  { threads, signal }: TokeniseOptions,
): AsyncGenerator<TokenisedSection<S>> {
  let isHere = true;
  try {
    while (!threads || threads.bytesHere < bytesBeforeThreads) {
      const { value: request, done } = await sections.next();
      if (done) return;
      signal?.throwIfAborted();
      if (threads && request.source.kind !== 'tokens') threads.bytesHere += request.bytes.length;
      yield { request, result: sectionTokens(request, encoding) };
    }
    isHere = false;
  } finally {
    if (isHere) await sections.return(undefined);
  }
  const queue = new Queue<S>(threads, encoding);
  quietly(queue.fill(sections)); // not awaited when the caller leaves: standard input may never give more
  try {
    for await (const section of queue.results()) {
      signal?.throwIfAborted();
      yield section;
    }
  } finally {
    queue.stop();
  }
}

/** Groups of sections that are on their way through the threads, in order. */
class Queue<S extends SectionRequest> {
  readonly #threads: TokenizerThreads;
  readonly #encoding: Encoding;
  readonly #most: number;
  readonly #groups: Promise<TokenisedSection<S>[]>[] = [];
  #isDone = false;
  readonly #waiting: (() => void)[] = [];

  constructor(threads: TokenizerThreads, encoding: Encoding) {
    this.#threads = threads;
    this.#encoding = encoding;
    this.#most = 2 * threads.count + 1;
  }

  /** Resolves when no more sections are read, for whatever reason: results() has it. */
  async fill(sections: AsyncGenerator<S>): Promise<void> {
    try {
      let group: S[] = [];
      let bytes = 0;
      const send = async () => {
        const requests = group;
        [group, bytes] = [[], 0];
        await this.#until(() => this.#isDone || this.#groups.length < this.#most);
        if (!this.#isDone && requests.length > 0) this.#add(this.#tokenise(requests));
      };
      for await (const section of sections) {
        group.push(section);
        bytes += section.bytes.length;
        const isAwaited = this.#groups.length === 0; // nothing else is under way: a stream may be slow
        if (isAwaited || bytes >= sectionBytes / 2 || section.source.kind === 'tokens') await send();
        if (this.#isDone) return;
      }
      await send();
    } catch (error) {
      this.#add(Promise.reject(error));
    } finally {
      this.#isDone = true;
      this.#changed();
    }
  }

  async #tokenise(requests: S[]): Promise<TokenisedSection<S>[]> {
    const here = requests.every(({ source }) => source.kind === 'tokens');
    const results = here
      ? requests.map((request) => sectionTokens(request, this.#encoding))
      : await this.#threads.run(this.#encoding.nVocab, requests);
    return requests.map((request, i) => {
      const result = results[i] as SectionTokens;
      return here ? { request, result } : { request, result, release: () => this.#threads.reuse(result.tokens.buffer) };
    });
  }

  #add(group: Promise<TokenisedSection<S>[]>): void {
    this.#groups.push(quietly(group));
    this.#changed();
  }

  async *results(): AsyncGenerator<TokenisedSection<S>> {
    for (;;) {
      await this.#until(() => this.#isDone || this.#groups.length > 0);
      const group = this.#groups.shift();
      if (!group) return;
      this.#changed();
      yield* await group;
    }
  }

  stop(): void {
    this.#isDone = true;
    this.#changed();
  }

  #changed(): void {
    for (const go of this.#waiting.splice(0)) go();
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}
