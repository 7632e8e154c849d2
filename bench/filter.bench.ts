// What the filter of sparse encoders saves: the time of sparseEncode with it, as ratios to the bare float32 product into
// memory that is there already, and to sparseEncode without it. They take turns, and the medians of the paired ratios are
// shown, with the sums that the filter left to compute.
//   node build-test/bench/filter.bench.js [--part data|fallback|few|demo]... [--size 1024x768x32768]... [--active 32]...
//       [--outlier 30]... [--rounds 7] [--threads n]
//   part: data like GPT-2's, data that a filter is no good for, few rows, and the demo's autoencoders; all when left out.
//       All sizes go through the first part, and the first of them through the others
//   size: rows x inputs x latents. active: latents of a row that are active. outlier: what three channels are larger by
// Data like GPT-2's: a row is the sum of 40 latents' directions of unit norm, each times a number from 0 to 3, with noise
// of 0.3 in each channel; a latent's bias is -(mean + c std) of its sums, with the same c for all. SONDE_FILTER=1 makes a
// filter where none would be faster: the part of the demo, whose autoencoders are tiny, is a process that has it.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { packageRoot } from '../src/engine/native.js';
import {
  Autoencoder,
  linear,
  openDevice,
  type PackedMatrix,
  type ProfileEntry,
  packWeights,
  sparseEncode,
  Tensor,
  Transformer,
} from '../src/index.js';
import { biasesFor } from './compare/biases.js';
import { median, showRatios } from './compare/summary.js';

const parts = ['data', 'fallback', 'few', 'demo'] as const;
const { values: options } = parseArgs({
  options: {
    part: { type: 'string', multiple: true, default: [...parts] },
    size: { type: 'string', multiple: true, default: ['1024x768x32768', '1024x3072x32768', '1024x768x131072'] },
    active: { type: 'string', multiple: true, default: ['32', '76', '100'] },
    outlier: { type: 'string', multiple: true, default: ['0', '30', '300'] },
    rounds: { type: 'string', default: '7' },
    threads: { type: 'string' },
  },
});
for (const part of options.part) {
  if (!parts.some((known) => known === part)) throw new Error(`--part must be ${parts.join(', ')}, but is ${part}`);
}
const sizes = options.size.map((text) => {
  const [rows = 0, inputs = 0, latents = 0] = text.split('x').map(Number);
  if (!(rows > 0 && inputs > 0 && latents > 0)) throw new Error(`--size must be like 1024x768x32768, but is ${text}`);
  return { rows, inputs, latents };
});
type Size = (typeof sizes)[number];
const rounds = Number(options.rounds);
const device = openDevice('cpu', options.threads === undefined ? {} : { threads: Number(options.threads) });
const topK = 32;

// ---- data

interface Encoder {
  readonly size: Size;
  readonly directions: Tensor; // [latents, inputs], of unit norm
  readonly weights: PackedMatrix; // [inputs, latents]
  readonly out: Tensor; // [rows, latents]
}

function makeEncoder(size: Size): Encoder {
  const { rows, inputs, latents } = size;
  const directions = Tensor.randn([latents, inputs], { device, seed: 1 });
  using norms = directions.norm(1, { keepDim: true });
  directions.div_(norms);
  const weights = packWeights(directions, { transposeB: true });
  return { size, directions, weights, out: Tensor.empty([rows, latents], { device }) };
}

/** Rows [rows, inputs] like GPT-2's; `outlier` is added to one channel, half and a quarter of it to two others. */
function makeRows({ size: { rows, inputs, latents }, directions }: Encoder, outlier: number): Tensor {
  const [summed, atOnce] = [40, 64];
  const x = Tensor.randn([rows, inputs], { device, seed: 2, std: 0.3 });
  for (let from = 0; from < rows; from += atOnce) {
    const count = Math.min(atOnce, rows - from);
    using chosen = Tensor.randint(0, latents, [count * summed], { device, seed: 3 + 2 * from });
    using integers = Tensor.randint(0, 3 * 2 ** 20, [count, summed, 1], { device, seed: 4 + 2 * from });
    using factors = integers.mul(2 ** -20);
    using found = directions.indexSelect(0, chosen);
    using terms = found.reshape(count, summed, inputs).mul(factors);
    using sums = terms.sum(1);
    x.slice(0, from, from + count).add_(sums);
  }
  for (const [channel, factor] of [0.18, 0.58, 0.49].map((at, i) => [Math.floor(at * inputs), [1, -0.5, 0.25][i]])) {
    x.slice(1, channel as number, (channel as number) + 1).add_(outlier * (factor as number));
  }
  return x;
}

/** The biases [latents] with which about so many latents of a row are active, one for each of `wanted`. */
function calibrated({ weights, out }: Encoder, x: Tensor, wanted: readonly string[]): Promise<Tensor[]> {
  linear(x, weights, { out });
  return biasesFor(out, wanted.map(Number));
}

// ---- measuring

/** What the filter did in a profiled call. */
function showCounts(entries: readonly ProfileEntry[], rows: number): string[] {
  const counts = entries.find(({ filter }) => filter)?.filter;
  if (!counts) return ['no filter', ''];
  return [(counts.candidates / rows).toFixed(1), `${counts.fellBack} of ${counts.groups}`];
}

const head = [
  'data',
  'size',
  'product, GFLOP/s',
  'active',
  'kind',
  '/ product',
  '/ no filter',
  'candidates',
  'fell back',
];
const printRow = (cells: readonly string[]) => console.log(`| ${cells.join(' | ')} |`);

async function measure(name: string, { weights, out }: Encoder, x: Tensor, bias?: Tensor): Promise<void> {
  const [rows, inputs] = x.shape as [number, number];
  const encode = (k: number, filter: boolean) => sparseEncode(x, weights, { ...(bias && { bias }), k, filter });
  const dense = out.slice(0, 0, rows);
  const runs: Record<string, () => unknown> = {
    product: () => linear(x, weights, { ...(bias && { bias }), out: dense }),
    'ReLU, no filter': () => encode(0, false),
    ReLU: () => encode(0, true),
    [`TopK(${topK}), no filter`]: () => encode(topK, false),
    [`TopK(${topK})`]: () => encode(topK, true),
  };
  const times = new Map(Object.keys(runs).map((kind) => [kind, [] as number[]]));
  for (let round = 0; round <= rounds; round++) {
    for (const [kind, run] of Object.entries(runs)) {
      const start = performance.now();
      await run();
      await device.synchronize();
      if (round > 0) times.get(kind)?.push(performance.now() - start); // the first round makes filters and memory
    }
  }
  const ratios = (kind: string, to: string) =>
    (times.get(kind) as number[]).map((time, i) => time / (times.get(to)?.[i] as number));
  const active = (await encode(0, true)).indices.length / rows;
  const seconds = median(times.get('product') as number[]) / 1000;
  const speed = (2 * rows * inputs * weights.n) / seconds / 1e9;
  for (const [kind, k] of [
    ['ReLU', 0],
    [`TopK(${topK})`, topK],
  ] as const) {
    const counts = showCounts(await device.profile(() => encode(k, true)), rows);
    const to = ['product', `${kind}, no filter`].map((other) => showRatios(ratios(kind, other)));
    const size = `${rows} x ${inputs} -> ${weights.n}`;
    printRow([name, size, speed.toFixed(0), active.toFixed(1), kind, ...to, ...counts]);
  }
}

const outlierName = (outlier: number) => (outlier > 0 ? `outliers of ${outlier}` : 'no outliers');

async function measureData(encoder: Encoder): Promise<void> {
  for (const outlier of options.outlier.map(Number)) {
    using x = makeRows(encoder, outlier);
    for (const bias of await calibrated(encoder, x, options.active)) {
      await measure(outlierName(outlier), encoder, x, bias);
      bias.dispose();
    }
  }
}

async function measureFallback(encoder: Encoder): Promise<void> {
  const { rows, inputs } = encoder.size;
  using random = Tensor.randn([rows, inputs], { device, seed: 5 });
  await measure('random, half of the latents active', encoder, random);
  using x = makeRows(encoder, 0);
  const values = (await x.read()) as Float32Array;
  for (let row = 0; row < rows; row++) (values[row * inputs + ((row * 7919) % inputs)] as number) += 300;
  using apart = Tensor.from(values, { shape: [rows, inputs], device });
  for (const bias of await calibrated(encoder, apart, options.active.slice(-1))) {
    await measure('an outlier of 300 in another channel of each row', encoder, apart, bias);
    bias.dispose();
  }
}

async function measureFew(encoder: Encoder): Promise<void> {
  const outlier = Number(options.outlier.at(-1));
  using all = makeRows(encoder, outlier);
  const [bias] = await calibrated(encoder, all, options.active.slice(0, 1));
  for (const rows of [1, 8, 64]) {
    if (rows <= encoder.size.rows) await measure(outlierName(outlier), encoder, all.slice(0, 0, rows), bias);
  }
  bias?.dispose();
}

// ---- the demo

/** The folders of the demo's autoencoders, and what each encodes. */
const demoKinds = {
  mlp_post_act: 'mlp/post_act',
  resid_delta_attn: 'resid/delta_attn',
  resid_delta_mlp: 'resid/delta_mlp',
};

async function countDemo(): Promise<void> {
  using xf = await Transformer.load('demo', { device });
  const folder = join(packageRoot, 'assets', 'demo');
  const text = readFileSync(join(folder, 'stories-sample.txt'), 'utf8');
  const tokens = xf.enc.encode(text.slice(0, 20_000));
  const context = xf.config.ctxWindow;
  const rows = Array.from({ length: Math.floor(tokens.length / context) }, (_, i) =>
    tokens.slice(i * context, (i + 1) * context),
  );
  const count = rows.length * context;
  console.log(
    `\nThe demo's autoencoders on ${count} tokens, SONDE_FILTER=${process.env.SONDE_FILTER ?? ''}; by token:\n`,
  );
  printRow(['autoencoder', 'inputs -> latents', 'kind', 'active', 'candidates', 'fell back']);
  printRow(Array(6).fill('---'));
  for (const [kind, place] of Object.entries(demoKinds)) {
    for (const file of readdirSync(join(folder, 'autoencoders', kind)).sort()) {
      using autoencoder = await Autoencoder.load(join(folder, 'autoencoders', kind, file), { device });
      const location = `${Number.parseInt(file, 10)}/${place}`;
      using x = (await xf.activations(rows, [location])).get(location) as Tensor;
      let entryCount = 0;
      const entries = await device.profile(async () => {
        entryCount = (await autoencoder.encodeSparse(x)).indices.length;
      });
      const { nInputs, nLatents, activation } = autoencoder;
      const name = activation.name === 'TopK' ? `TopK(${activation.k})` : activation.name;
      const active = (entryCount / count).toFixed(1);
      printRow([location, `${nInputs} -> ${nLatents}`, name, active, ...showCounts(entries, count)]);
    }
  }
}

// ---- all of it

if (options.part.length === 1 && options.part[0] === 'demo' && process.env.SONDE_FILTER !== undefined) {
  await countDemo();
  process.exit();
}
console.log(`${cpus()[0]?.model}; ${device.description}; Node ${process.version}; ${rounds} rounds, in turns`);
const measured = options.part.filter((part) => part !== 'demo');
if (measured.length > 0) {
  console.log('\nRatios of times, medians and ranges; candidates of a row; groups of columns that fell back:\n');
  printRow(head);
  printRow(Array(head.length).fill('---'));
}
for (const [i, size] of sizes.entries()) {
  const run = { data: measureData, fallback: measureFallback, few: measureFew };
  const chosen = measured.filter((part) => part === 'data' || i === 0);
  if (chosen.length === 0) continue;
  const encoder = makeEncoder(size);
  for (const part of chosen) await run[part as keyof typeof run](encoder);
  for (const one of [encoder.directions, encoder.weights, encoder.out]) one.dispose();
}
if (options.part.includes('demo')) {
  const threads = options.threads === undefined ? [] : ['--threads', options.threads];
  const { status } = spawnSync(process.execPath, [fileURLToPath(import.meta.url), '--part', 'demo', ...threads], {
    env: { ...process.env, SONDE_FILTER: '1' },
    stdio: 'inherit',
  });
  if (status !== 0) process.exitCode = 1;
}
