// How the cost of a dump grows with its shards, and what the index of a corpus saves. Linux alone reports the bytes that
// a process writes and its peak memory.
//   npm run bench:dump-scaling [SHARDS...]     1000 4000 16000 when left out
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { openCorpus, readCorpus } from '../src/dump/corpus/corpus.js';
import { TokenizerThreads } from '../src/dump/corpus/tokenizer_threads.js';
import { indexCorpus } from '../src/dump/index_corpus.js';
import { dump } from '../src/dump/run.js';
import { planShards, ShardSession } from '../src/dump/workers/shard_session.js';
import { packageRoot } from '../src/engine/native.js';
import { gpt2Tokenizer } from '../src/files/tokenizer/tokenizer.js';
import { Transformer } from '../src/transformer/transformer.js';
import { ownMemory } from '../test/support/machine.js';
import { random } from '../test/support/random.js';
import { median } from './compare/summary.js';

const self = fileURLToPath(import.meta.url);
const [context, shardTokens] = [16, 128];

interface Cost {
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly bytesWritten: number;
  readonly peak: number;
}

/** The bytes that this process has written, and those that it has read, to files and pipes alike. */
async function ownBytes(name: 'wchar' | 'rchar'): Promise<number> {
  const line = (await readFile('/proc/self/io', 'utf8')).split('\n').find((text) => text.startsWith(name));
  return Number(line?.split(' ')[1]);
}

async function costOf(work: () => Promise<unknown>): Promise<Cost> {
  const [start, cpu, written] = [performance.now(), process.cpuUsage(), await ownBytes('wchar')];
  await work();
  const { user, system } = process.cpuUsage(cpu);
  return {
    seconds: (performance.now() - start) / 1000,
    cpuSeconds: (user + system) / 1e6,
    bytesWritten: (await ownBytes('wchar')) - written,
    peak: ownMemory('VmHWM') ?? Number.NaN,
  };
}

/** What a process of its own prints as JSON. */
const inProcess = <T>(...args: string[]): T =>
  JSON.parse(execFileSync(process.execPath, [self, ...args], { encoding: 'utf8', maxBuffer: 2 ** 26 }));

const children: Record<string, (...args: string[]) => Promise<unknown>> = {
  async dump(corpus, out) {
    const model = await Transformer.load('demo');
    const request = { model, corpus: corpus as string, out: out as string, locations: 'resid/post_emb' };
    return costOf(() => dump({ ...request, context, shardTokens }));
  },
  async part(corpus, out, index, count, tokens) {
    const model = await Transformer.load('demo');
    const shard = { index: Number(index), count: Number(count) };
    const request = { model, corpus: corpus as string, out: out as string, locations: 'resid/post_emb', shard };
    let bytesRead = 0;
    const onProgress = (progress: { bytesRead: number }) => {
      bytesRead = progress.bytesRead;
    };
    const before = await ownBytes('rchar');
    const result = await dump({ ...request, shardTokens: Number(tokens), onProgress });
    return { bytesRead, rchar: (await ownBytes('rchar')) - before, tokens: result.tokens };
  },
  async worker(plan) {
    const dumped = JSON.parse(await readFile(plan as string, 'utf8'));
    const session = await ShardSession.open(dumped, {});
    const before = await ownBytes('rchar');
    await session.make(dumped.count - 1);
    const rchar = (await ownBytes('rchar')) - before;
    await session.close();
    const shard = `shard-${String(dumped.count - 1).padStart(5, '0')}.safetensors`;
    const { size } = await stat(join(dumped.request.out, shard)); // it is read for its digest
    return { rchar: rchar - size };
  },
  async tokenise(corpus, count) {
    const threads = new TokenizerThreads(Number(count));
    const seconds: number[] = [];
    for (let pass = 0; pass < coldPasses + warmPasses; pass++) {
      seconds.push(await tokenise(corpus as string, threads));
    }
    await threads.close();
    return median(seconds.slice(coldPasses));
  },
  files: async (list, out) =>
    costOf(async () => {
      const corpus = (await readFile(list as string, 'utf8')).split('\n');
      await indexCorpus({ corpus, out: out as string });
      const model = await Transformer.load('demo');
      await dump({ model, corpus, out: out as string, locations: 'resid/post_emb' });
    }),
};

async function sentences(path: string, bytes: number): Promise<void> {
  const text = await readFile(join(packageRoot, 'assets', 'demo', 'stories-sample.txt'), 'utf8');
  const documents = text.match(/.{1,800}/gs) ?? [];
  const rng = random(25);
  const parts: string[] = [];
  for (let length = 0; length < bytes; ) {
    const document = `${rng.pick(documents).replaceAll('Monday', `day ${rng.integer(0, 1000)}`)}<|endoftext|>`;
    parts.push(document);
    length += document.length;
  }
  await writeFile(path, parts.join(''));
}

const exponent = (costs: readonly number[], sizes: readonly number[]): string =>
  (
    Math.log((costs.at(-1) as number) / (costs[0] as number)) /
    Math.log((sizes.at(-1) as number) / (sizes[0] as number))
  ).toFixed(2);

async function growth(folder: string, shards: readonly number[]): Promise<void> {
  console.log(`\nshards of ${shardTokens} tokens, context ${context}, resid/post_emb of the demo model`);
  console.log('| shards | MB written | CPU seconds | peak MB | resume, ms a shard |\n|---|---|---|---|---|');
  const costs: Cost[] = [];
  for (const count of shards) {
    const corpus = join(folder, `${count}.bin`);
    const rng = random(count);
    await writeFile(
      corpus,
      Uint16Array.from({ length: count * shardTokens }, (_, i) => (i % 61 === 60 ? 50_256 : rng.integer(0, 50_256))),
    );
    const out = join(folder, `shards-${count}`);
    const cost = inProcess<Cost>('dump', corpus, out);
    const again = inProcess<Cost>('dump', corpus, out);
    costs.push(cost);
    const made = JSON.parse(await readFile(join(out, 'manifest.json'), 'utf8')).shards.length;
    const cells = [
      made,
      (cost.bytesWritten / 1e6).toFixed(1),
      cost.cpuSeconds.toFixed(1),
      (cost.peak / 1e6).toFixed(0),
      ((1000 * again.seconds) / made).toFixed(2),
    ];
    console.log(`| ${cells.join(' | ')} |`);
    await rm(out, { recursive: true });
  }
  const of = (what: keyof Cost) =>
    exponent(
      costs.map((cost) => cost[what]),
      shards,
    );
  console.log(`exponents: bytes ${of('bytesWritten')}, CPU ${of('cpuSeconds')}, peak memory ${of('peak')}`);
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** The seconds that tokenising a file takes. */
async function tokenise(corpus: string, threads: TokenizerThreads): Promise<number> {
  const options = { encode: gpt2Tokenizer().encode, nVocab: 50_257, threads };
  return timed(async () => {
    for await (const chunks of readCorpus(await openCorpus(corpus), options)) for (const _ of chunks);
  });
}

/** Passes until threads run and all code is compiled, each thread having its own, and passes that are timed. */
const [coldPasses, warmPasses] = [3, 4];

/** The seconds that a process of its own takes for a file that it has read before. */
async function tokenised(corpus: string, threads: number): Promise<number> {
  const { stdout } = await promisify(execFile)(process.execPath, [self, 'tokenise', corpus, String(threads)]);
  return JSON.parse(stdout) as number;
}

async function indexing(folder: string): Promise<void> {
  const corpus = join(folder, 'big.txt');
  await sentences(corpus, 1e8);
  const { size } = await stat(corpus);
  const ratios: number[] = [];
  const ceilings: number[] = [];
  const ofIndex: number[] = [];
  for (let round = 0; round < 5; round++) {
    const [one, two] = [await tokenised(corpus, 1), await tokenised(corpus, 2)];
    ceilings.push((2 * one) / Math.max(...(await Promise.all([tokenised(corpus, 1), tokenised(corpus, 1)]))));
    const out = join(folder, `index-${round}`);
    const made = await timed(() => indexCorpus({ corpus, out, shardTokens: 131_072 }));
    const reused = await indexCorpus({ corpus, out, shardTokens: 131_072 });
    ratios.push(one / two);
    ofIndex.push(made / Math.min(one, two));
    console.log(
      `${(size / 1e6).toFixed(0)} MB tokenised in ${one.toFixed(2)} s on one thread, ${two.toFixed(2)} s on two; ` +
        `index ${made.toFixed(2)} s; made again: ${reused.bytesRead} bytes read`,
    );
  }
  console.log(
    `two threads ${median(ratios).toFixed(2)} x as fast as one, two processes that share nothing ` +
      `${median(ceilings).toFixed(2)} x; the index takes ${median(ofIndex).toFixed(2)} x as long as tokenising`,
  );

  const indexed = join(folder, 'index-0');
  const part = inProcess<{ bytesRead: number; tokens: number }>('part', corpus, indexed, '15', '16', '131072');
  const { tokens } = await indexCorpus({ corpus, out: indexed, shardTokens: 131_072 });
  const [own, all] = [part.tokens / tokens, part.bytesRead / size];
  console.log(
    `--shard 15/16 reads ${(100 * all).toFixed(2)}% of the text for ${(100 * own).toFixed(2)}% of the tokens: ` +
      `${(100 * (all - own)).toFixed(2)}% in vain`,
  );
  const request = { model: 'demo', corpus: [corpus], locations: ['resid/post_emb'], out: join(folder, 'queue') };
  const planned = await planShards({ ...request, shardTokens: 131_072 });
  await writeFile(join(folder, 'plan.json'), JSON.stringify(planned));
  const { rchar } = inProcess<{ rchar: number }>('worker', join(folder, 'plan.json'));
  console.log(
    `a fresh worker at the last of ${planned.count} shards reads ${((100 * rchar) / size).toFixed(2)}%, all files together`,
  );
}

async function manyFiles(folder: string, count: number): Promise<void> {
  const texts = join(folder, 'texts');
  await mkdir(texts);
  const paths = Array.from({ length: count }, (_, i) => join(texts, `${i}.txt`));
  for (const [i, path] of paths.entries())
    await writeFile(path, `It was a windy Monday, number ${i}. The wind moved the trees.`);
  await writeFile(join(folder, 'list'), paths.join('\n'));
  const limited = 'ulimit -n 256; exec "$0" "$@"';
  const { stdout, stderr } = spawnSync(
    'bash',
    ['-c', limited, process.execPath, self, 'files', join(folder, 'list'), join(folder, 'files')],
    { encoding: 'utf8' },
  );
  if (stdout === '') throw new Error(stderr);
  const { seconds, peak } = JSON.parse(stdout) as Cost;
  console.log(
    `${count} files under ulimit -n 256: index and dump in ${seconds.toFixed(1)} s, peak ${(peak / 1e6).toFixed(0)} MB`,
  );
}

const [first = '', ...others] = process.argv.slice(2);
const child = children[first];
if (child) console.log(JSON.stringify(await child(...others)));
else {
  if (process.platform !== 'linux') throw new Error('only Linux reports what a process writes');
  const shards = first === '' ? [1000, 4000, 16_000] : [first, ...others].map(Number);
  console.log(`${cpus()[0]?.model}, ${cpus().length} processors, Node ${process.version}`);
  const folder = await mkdtemp(join(tmpdir(), 'sonde-scaling-'));
  try {
    await growth(folder, shards);
    await indexing(folder);
    await manyFiles(folder, 20_000);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
