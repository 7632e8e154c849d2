// What continuing one prefix saves: the time of its continuations from caches, the prefix included, as a ratio to that of
// each whole text from its start. Continuations one by one: each takes turns with a whole text, its part of the prefix is
// added, and the median of the ratios is shown.
//   node build-test/bench/prefixes.bench.js [model] [prefix tokens] [tokens of each continuation] [continuations] [pairs]
import { cpus } from 'node:os';
import { type KvCaches, Transformer } from '../src/index.js';
import { median } from './compare/summary.js';

const [model = 'random:gpt2-small', length = '500', more = '10', continuations = '50', pairs = '7'] =
  process.argv.slice(2);
const xf = await Transformer.load(model);
const tokensOf = (count: number, seed: number): number[] =>
  Array.from({ length: count }, (_, i) => (i * 7919 + seed * 104_729) % xf.nVocab);
const prefix = tokensOf(Number(length), 0);
const ends = Array.from({ length: Number(continuations) }, (_, i) => tokensOf(Number(more), i + 1));

async function timed(run: () => Promise<unknown>): Promise<number> {
  await xf.device.synchronize();
  const start = performance.now();
  await run();
  await xf.device.synchronize();
  return performance.now() - start;
}

async function pass(tokens: number[][], kvCaches?: KvCaches): Promise<KvCaches> {
  const result = await xf.forward(tokens, kvCaches ? { kvCaches } : {});
  result.logits.dispose();
  return result.kvCaches;
}

const whole = (end: number[]) => timed(async () => (await pass([[...prefix, ...end]])).dispose());

/** The time of one continuation, for each way to use the caches. */
const ways: Record<string, (shared: KvCaches, end: number[]) => Promise<number>> = {
  'a clone of the caches each': (shared, end) =>
    timed(async () => {
      using fork = shared.clone();
      await pass([end], fork);
    }),
  'the caches themselves, truncated after each': (shared, end) =>
    timed(async () => {
      await pass([end], shared);
      shared.truncate(prefix.length);
    }),
};

const n = ends.length;
console.log(
  `${model}, ${n} continuations of ${more} tokens of a prefix of ${length}, ${xf.device.description}, ${cpus()[0]?.model}, Node ${process.version}`,
);
await whole(ends[0] as number[]);
for (const [way, run] of Object.entries(ways)) {
  const ratios: number[] = [];
  for (let i = 0; i < Number(pairs); i++) {
    const end = ends[i % n] as number[];
    let shared: KvCaches | undefined;
    const first = await timed(async () => {
      shared = await pass([prefix]);
    });
    using caches = shared as KvCaches;
    ratios.push((first / n + (await run(caches, end))) / (await whole(end)));
  }
  console.log(`${way.padEnd(46)} x ${median(ratios).toFixed(3)} of each from its start`);
}
const ratios: number[] = [];
for (let i = 0; i < Math.max(1, Number(pairs) >> 1); i++) {
  const together = await timed(async () => {
    using shared = await pass([prefix]);
    using rows = shared.select(ends.map(() => 0));
    await pass(ends, rows);
  });
  ratios.push(together / (n * (await whole(ends[i % n] as number[]))));
}
console.log(
  `${'all at once, in rows that are selected'.padEnd(46)} x ${median(ratios).toFixed(3)} of each from its start`,
);
