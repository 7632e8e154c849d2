// A side's end of the benchmarks, in TypeScript (peer.py is the same in Python): compare.ts asks, a line of JSON for a
// line of JSON.
import { createInterface } from 'node:readline';
import { ownMemory } from '../../test/support/machine.js';
import type { Spec } from './spec.js';
import type { Reply, Request } from './worker.js';

export interface Prepared {
  run(): unknown;
  /** How many repetitions may be waited for at a time, where run() gives a promise. */
  readonly ahead?: number;
  error?(): Promise<number>;
  /** Instead of timing run(). */
  seconds?(): Promise<number>;
}

interface Service {
  describe(): Pick<Reply, 'text' | 'gpu'>;
  prepare(spec: Spec, seed: number): Prepared | Promise<Prepared>;
  /** Waits for what run() queued. */
  settle?(): Promise<void>;
  /** Frees all that was prepared. */
  drop(): void | Promise<void>;
}

/** Answers until standard input ends. */
export async function serve(service: Service): Promise<void> {
  let prepared: Prepared[] = [];

  async function repeat({ run, ahead = 1 }: Prepared, repetitions: number): Promise<number> {
    const waiting: unknown[] = [];
    const start = performance.now();
    for (let i = 0; i < repetitions; i++) {
      const result = run();
      if (!(result instanceof Promise)) continue;
      waiting.push(result);
      if (waiting.length > ahead) await waiting.shift();
    }
    await Promise.all(waiting);
    await service.settle?.();
    return (performance.now() - start) / 1000 / repetitions;
  }

  async function answer(request: Request): Promise<Reply> {
    switch (request.do) {
      case 'describe':
        return service.describe();
      case 'prepare': {
        const ready = await service.prepare(request.spec, request.seed);
        await repeat(ready, 1);
        const error = await ready.error?.();
        prepared.push(ready);
        return { prepared: prepared.length - 1, ...(error === undefined ? {} : { error }) };
      }
      case 'time': {
        const ready = prepared[request.prepared] as Prepared;
        if (ready.seconds) return { seconds: await ready.seconds() };
        if (request.warm) await repeat(ready, 1); // a device that was idle has a low clock
        return { seconds: await repeat(ready, request.repetitions) };
      }
      case 'memory': {
        const ready = await service.prepare(request.spec, request.seed);
        await service.settle?.();
        const before = ownMemory('VmRSS');
        for (let i = 0; i < request.repetitions; i++) await repeat(ready, 1);
        return { memory: { before, peak: ownMemory('VmHWM') } };
      }
      case 'drop':
        prepared = [];
        await service.drop();
        return {};
    }
  }

  for await (const line of createInterface({ input: process.stdin })) {
    const reply = await answer(JSON.parse(line) as Request).catch(
      (error: Error): Reply => ({ failure: error.message }),
    );
    // JSON has no NaN: null is one
    process.stdout.write(`${JSON.stringify(reply)}\n`);
  }
}
