// sonde's side of the benchmarks: prepares a case, checks a part of its result against float64, and repeats it.
// compare.ts starts it and asks. It computes on the default device (SONDE_DEVICE), with BENCH_THREADS threads if that
// is set.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  AtLayers,
  Autoencoder,
  activations,
  addLayerNorm,
  attention,
  crossEntropy,
  type Device,
  dump,
  embedding,
  gelu,
  getDefaultDevice,
  layerNorm,
  linear,
  openDevice,
  packWeights,
  softmax,
  sparseEncode,
  Tensor,
  Transformer,
  TransformerHooks,
} from '../../src/index.js';
import { relativeError } from '../../test/support/close.js';
import { biasesFor } from './biases.js';
import { attend, checkRow, parts } from './check.js';
import { type Prepared, serve } from './serve.js';
import type { Spec } from './spec.js';

type Of<Op extends Spec['op']> = Spec & { readonly op: Op };
type RowOp = Exclude<Extract<Spec, { width: number }>, Of<'embedding' | 'elementwise' | 'reduce' | 'crossEntropy'>>;

const threads = Number(process.env.BENCH_THREADS ?? 0);
const device: Device = threads > 0 ? openDevice('cpu', { threads }) : getDefaultDevice();
let owned: { dispose(): void }[] = [];
let seed = 1;

const own = <T extends { dispose(): void }>(thing: T): T => {
  owned.push(thing);
  return thing;
};
const normal = (shape: number[], dtype: Tensor['dtype'], std = 1): Tensor =>
  own(Tensor.randn(shape, { device, dtype, seed: seed++, std }));
const values = async (t: Tensor): Promise<Float64Array> => new Float64Array(await t.read());

class Comparison {
  readonly #actual: number[] = [];
  readonly #expected: number[] = [];
  add(actual: number, expected: number): void {
    this.#actual.push(actual);
    this.#expected.push(expected);
  }
  get error(): number {
    return relativeError(this.#actual, this.#expected);
  }
}

const geluOf = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

// ---- products

function prepareLinear({ dtype, rows, k, n, precision, fused }: Of<'linear'>): Prepared {
  const x = normal([rows, k], dtype);
  const w = normal([k, n], dtype, 1 / Math.sqrt(k));
  const packed = own(packWeights(w));
  const out = own(Tensor.empty([rows, n], { device, dtype })).fill(Number.NaN);
  const bias = fused === 'nothing' ? undefined : normal([n], dtype);
  const residual = fused === 'residual' ? normal([rows, n], dtype) : undefined;
  const options = {
    out,
    precision,
    ...(bias ? { bias } : {}),
    ...(residual ? { residual } : {}),
    ...(fused === 'gelu' ? { activation: 'gelu' as const } : {}),
  };
  return {
    run: () => linear(x, packed, options),
    error: async () => {
      const compared = new Comparison();
      const biases = bias && (await values(bias));
      for (const [r0, r1] of parts(rows, 24)) {
        const left = await values(x.slice(0, r0, r1));
        for (const [c0, c1] of parts(n, 40)) {
          const right = await values(w.slice(1, c0, c1));
          const got = await values(out.slice(0, r0, r1).slice(1, c0, c1));
          const beside = residual && (await values(residual.slice(0, r0, r1).slice(1, c0, c1)));
          const width = c1 - c0;
          for (let i = 0; i < got.length; i++) {
            const [r, c] = [Math.floor(i / width), i % width];
            let sum = biases?.[c0 + c] ?? 0;
            for (let j = 0; j < k; j++) sum += (left[r * k + j] as number) * (right[j * width + c] as number);
            if (fused === 'gelu') sum = geluOf(sum);
            compared.add(got[i] as number, sum + (beside?.[i] ?? 0));
          }
        }
      }
      return compared.error;
    },
  };
}

function prepareEncode({ dtype, rows, k, n, top, threshold }: Of<'encode'>): Prepared {
  const x = normal([rows, k], dtype);
  const w = normal([k, n], dtype, 1 / Math.sqrt(k));
  const packed = own(packWeights(w));
  return {
    run: () => sparseEncode(x, packed, { threshold, k: top }),
    ahead: 4,
    error: async () => {
      const got = await sparseEncode(x, packed, { threshold, k: top });
      const compared = new Comparison();
      for (const [r0, r1] of parts(rows, 2)) {
        using dense = Tensor.empty([r1 - r0, n], { device, dtype: 'float32' });
        const latents = (await linear(x.slice(0, r0, r1), packed, { out: dense }).read()) as Float32Array;
        const inputs = await values(x.slice(0, r0, r1));
        for (let row = r0; row < r1; row++) {
          checkRow(got, row, latents.subarray((row - r0) * n, (row - r0 + 1) * n), { top, threshold });
          const [from, to] = [Number(got.rowPtr[row]), Number(got.rowPtr[row + 1])];
          for (let at = from; at < Math.min(to, from + 20); at++) {
            const index = got.indices[at] as number;
            const column = await values(w.slice(1, index, index + 1));
            const exact = column.reduce((sum, value, j) => sum + value * (inputs[(row - r0) * k + j] as number), 0);
            compared.add(got.values[at] as number, exact);
          }
        }
      }
      return compared.error;
    },
  };
}

// ---- attention

function prepareAttention({ dtype, batch, length, heads, channels }: Of<'attention'>): Prepared {
  const qkv = normal([batch, length, 3, heads, channels], dtype); // as the model's projection leaves them
  const [q, k, v] = [0, 1, 2].map((i) => qkv.select(2, i)) as [Tensor, Tensor, Tensor];
  return {
    run: () => attention(q, k, v).dispose(),
    error: async () => {
      using out = attention(q, k, v);
      const compared = new Comparison();
      const head = (t: Tensor, b: number, h: number) => values(t.select(0, b).select(1, h));
      for (const [b, h] of [
        [0, 0],
        [batch - 1, heads - 1],
      ] as const) {
        const [queries, keys, mixed, got] = await Promise.all([q, k, v, out].map((t) => head(t, b, h)));
        for (const [s0, s1] of parts(length, 8)) {
          for (let s = s0; s < s1; s++) {
            const row = attend(queries as Float64Array, keys as Float64Array, mixed as Float64Array, s, channels);
            for (const [c, exact] of row.entries()) compared.add(got?.[s * channels + c] as number, exact);
          }
        }
      }
      return compared.error;
    },
  };
}

// ---- what moves bytes

function layerNormOf(row: Float64Array, gain: Float64Array, bias: Float64Array): Float64Array {
  const mean = row.reduce((sum, x) => sum + x, 0) / row.length;
  const variance = row.reduce((sum, x) => sum + (x - mean) ** 2, 0) / row.length;
  const scale = 1 / Math.sqrt(variance + 1e-5);
  return row.map((x, i) => (x - mean) * scale * (gain[i] as number) + (bias[i] as number));
}

function softmaxOf(row: Float64Array): Float64Array {
  const most = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = row.map((x) => Math.exp(x - most));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / total);
}

/** Rows of the inputs -> the rows that an operation must give. */
type Rowwise = (...rows: Float64Array[]) => Float64Array[];

function rowwise(inputs: Tensor[], run: () => Tensor[], exact: Rowwise): Prepared {
  return {
    run: () => {
      for (const t of run()) t.dispose();
    },
    error: async () => {
      const results = run();
      const compared = new Comparison();
      for (const [r0, r1] of parts(inputs[0]?.shape[0] ?? 0, 8)) {
        for (let row = r0; row < r1; row++) {
          const expected = exact(...(await Promise.all(inputs.map((t) => values(t.select(0, row))))));
          for (const [i, t] of results.entries()) {
            for (const [j, x] of (await values(t.select(0, row))).entries())
              compared.add(x, expected[i]?.[j] as number);
          }
        }
      }
      for (const t of results) t.dispose();
      return compared.error;
    },
  };
}

function prepareRows({ op, dtype, rows, width }: RowOp): Prepared {
  const x = normal([rows, width], dtype);
  switch (op) {
    case 'copy': {
      const out = own(Tensor.empty([rows, width], { device, dtype })).fill(Number.NaN);
      return {
        ...rowwise(
          [x],
          () => [out.copyFrom(x).slice(0)],
          (a) => [a],
        ),
        run: () => out.copyFrom(x),
      };
    }
    case 'convert':
      return rowwise(
        [x],
        () => [x.to('bfloat16')],
        (a) => [a],
      );
    case 'gelu':
      return rowwise(
        [x],
        () => [gelu(x)],
        (a) => [a.map(geluOf)],
      );
    case 'softmax':
      return rowwise(
        [x],
        () => [softmax(x)],
        (a) => [softmaxOf(a)],
      );
    case 'add': {
      const y = normal([rows, width], dtype);
      return rowwise(
        [x, y],
        () => [x.add(y)],
        (a, b) => [a.map((value, i) => value + (b[i] as number))],
      );
    }
    case 'transpose': {
      const transposed = x.permute([1, 0]);
      return rowwise(
        [transposed],
        () => [transposed.clone()],
        (a) => [a],
      );
    }
    default:
      return prepareNorm(op, x);
  }
}

function prepareNorm(op: 'layerNorm' | 'addLayerNorm', x: Tensor): Prepared {
  const width = x.shape[1] as number;
  const [gain, bias] = [normal([width], x.dtype), normal([width], x.dtype)];
  // rowwise() reads a row of each input: these have the same one for every row
  const spread = [gain, bias].map((t) =>
    own(Tensor.zeros([x.shape[0] as number, 1], { device, dtype: x.dtype }).add(t)),
  );
  if (op === 'layerNorm') {
    return rowwise(
      [x, ...spread],
      () => [layerNorm(x, gain, bias)],
      (a, g, b) => [layerNormOf(a, g as Float64Array, b as Float64Array)],
    );
  }
  const y = normal(x.shape as number[], x.dtype);
  const rounded = own(x.add(y)); // the norm is of the sum as it was stored
  const run = () => {
    const { sum, out } = addLayerNorm(x, y, gain, bias);
    return [sum, out];
  };
  return rowwise([rounded, ...spread], run, (a, g, b) => [a, layerNormOf(a, g as Float64Array, b as Float64Array)]);
}

function prepareElementwise({ dtype, kind, rows, width }: Of<'elementwise'>): Prepared {
  const [x, y] = [normal([rows, width], dtype), normal([rows, width], dtype)];
  const run = () => (kind === 'add' ? x.add(y) : kind === 'exp' ? x.exp() : x.gt(0.5));
  const exact = { add: (a: number, b: number) => a + b, exp: Math.exp, gt: (a: number) => Number(a > 0.5) }[kind];
  return {
    run: () => run().dispose(),
    error: async () => {
      using out = run();
      const compared = new Comparison();
      for (const [r0, r1] of parts(rows, 8)) {
        for (let row = r0; row < r1; row++) {
          const [a, b] = [await values(x.select(0, row)), await values(y.select(0, row))];
          const got = await values(out.select(0, row));
          for (const [i, v] of a.entries()) compared.add(got[i] as number, exact(v, b[i] as number));
        }
      }
      return compared.error;
    },
  };
}

const reductionOf: Record<Of<'reduce'>['kind'], (row: Float64Array) => number> = {
  sum: (row) => row.reduce((sum, x) => sum + x, 0),
  max: (row) => row.reduce((a, b) => Math.max(a, b)),
  var: (row) => {
    const mean = row.reduce((sum, x) => sum + x, 0) / row.length;
    return row.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (row.length - 1);
  },
};

function prepareReduce({ dtype, kind, over, rows, width }: Of<'reduce'>): Prepared {
  const x = normal([rows, width], dtype);
  x.add_(1); // a sum that is not all rounding
  const run = () => (over === 'all' ? x[kind]() : x[kind](0));
  return {
    run: () => run().dispose(),
    error: async () => {
      using out = run();
      const got = await values(out);
      const compared = new Comparison();
      if (over === 'all') compared.add(got[0] as number, reductionOf[kind](await values(x)));
      else {
        for (const [c0, c1] of parts(width, 40)) {
          for (let c = c0; c < c1; c++) {
            compared.add(got[c] as number, reductionOf[kind](await values(x.select(1, c))));
          }
        }
      }
      return compared.error;
    },
  };
}

function prepareCrossEntropy({ dtype, rows, width }: Of<'crossEntropy'>): Prepared {
  const logits = normal([rows, width], dtype);
  const targets = own(Tensor.randint(0, width, [rows], { device, seed: seed++ }));
  return {
    run: () => crossEntropy(logits, targets, { reduction: 'none' }).dispose(),
    error: async () => {
      using losses = crossEntropy(logits, targets, { reduction: 'none' });
      const [got, indices] = [await values(losses), await values(targets)];
      const compared = new Comparison();
      for (const [r0, r1] of parts(rows, 8)) {
        for (let row = r0; row < r1; row++) {
          const probabilities = softmaxOf(await values(logits.select(0, row)));
          compared.add(got[row] as number, -Math.log(probabilities[indices[row] as number] as number));
        }
      }
      return compared.error;
    },
  };
}

function prepareEmbedding({ dtype, rows, width, table }: Of<'embedding'>): Prepared {
  const vectors = normal([table, width], dtype);
  const indices = own(Tensor.randint(0, table, [rows], { device, seed: seed++ }));
  return {
    run: () => embedding(indices, vectors).dispose(),
    error: async () => {
      using out = embedding(indices, vectors);
      const compared = new Comparison();
      for (const [r0, r1] of parts(rows, 8)) {
        for (const [i, index] of (await values(indices.slice(0, r0, r1))).entries()) {
          const row = await values(out.select(0, r0 + i));
          for (const [j, x] of (await values(vectors.select(0, index))).entries()) compared.add(row[j] as number, x);
        }
      }
      return compared.error;
    },
  };
}

// ---- calls

function prepareRead({ bytes, fast }: Of<'read'>): Prepared {
  const x = own(Tensor.randint(-100, 100, [bytes / 4], { device, seed: seed++ }));
  const host = new Int32Array(bytes / 4);
  const read = async () => {
    if (!fast) return (await x.read()) as Int32Array;
    await x.readInto(host);
    return host;
  };
  return {
    run: read,
    ahead: 0,
    // what was read must have the sum that the device computes
    error: async () => {
      const got = await read();
      const sum = (await x.sum().read())[0] as number;
      return got.reduce((a, b) => a + b, 0) === sum ? 0 : Number.POSITIVE_INFINITY;
    },
  };
}

function prepareLaunch({ calls }: Of<'launch'>): Prepared {
  const x = own(Tensor.zeros([16], { device }));
  return {
    run: () => {
      for (let i = 0; i < calls; i++) x.add_(1);
    },
  };
}

// ---- whole passes

const tokensOf = (batch: number, length: number, vocabulary: number): number[][] =>
  Array.from({ length: batch }, (_, b) => Array.from({ length }, (_, i) => ((b * length + i) * 7919) % vocabulary));

/** The same models in float32 on the CPU, each made once: it takes seconds. */
const references = new Map<string, Promise<Transformer>>();

async function valueAt(xf: Transformer, tokens: number[][], until: string): Promise<Tensor> {
  if (until === 'logits') return (await xf.forward(tokens)).logits;
  return (await xf.activations(tokens, [until])).get(until) as Tensor;
}

async function prepareForward({ dtype, model, batch, length, until }: Of<'forward'>): Promise<Prepared> {
  const name = `random:${model}`;
  const xf = own(await Transformer.load(name, { device, dtype }));
  const tokens = tokensOf(batch, length, xf.nVocab);
  return {
    run: async () => (await valueAt(xf, tokens, until)).dispose(),
    ahead: 0,
    error: async () => {
      const known = references.get(name) ?? Transformer.load(name, { device: openDevice('cpu') });
      references.set(name, known);
      using expected = await valueAt(await known, tokens.slice(-1), until);
      using value = await valueAt(xf, tokens, until);
      return relativeError(await values(value.select(0, batch - 1)), await values(expected));
    },
  };
}

async function prepareGradients(spec: Of<'gradients'>): Promise<Prepared> {
  const { dtype, model, batch, length, of, timed } = spec;
  const xf = own(await Transformer.load(`random:${model}`, { device, dtype }));
  const tokens = tokensOf(batch, length, xf.nVocab);
  const last = spec.loss === 'last';
  const following = tokens.map(([first = 0, ...others]) => (last ? [first] : [...others, first]));
  const targets = own(Tensor.from(following, { device, dtype: 'int32' }));
  const ends = tokens.map((row) => row.map((_, i) => i === length - 1)); // nothing comes next
  const counted = last ? {} : { pad: own(Tensor.from(ends, { device, dtype: 'bool' })) };

  type Hook = (x: Tensor) => Tensor | undefined;
  function hooksAt(kind: 'Fwd' | 'Bwd', hook: Hook): TransformerHooks {
    const hooks = new TransformerHooks();
    if (of === 0) hooks.resid.postEmb[`append${kind}`](hook);
    else if (of !== 'parameters') hooks.resid.torso.postMlp[`append${kind}`](new AtLayers(of - 1).append(hook));
    return hooks;
  }
  async function lossOf(hooks: TransformerHooks, grad: boolean | 'parameters'): Promise<Tensor> {
    const { logits, kvCaches } = await xf.forward(tokens, { hooks, grad, ...(last && { logitsAt: 'last' }) });
    kvCaches.dispose(); // those that nobody reads would be kept for a few passes
    const loss = crossEntropy(logits, targets, counted);
    logits.dispose();
    return loss;
  }
  /** Seconds of the way back, and the stream's gradient; no gradient, if it is the parameters that have one. */
  async function both(): Promise<{ seconds: number; gradient: Tensor | undefined }> {
    let gradient: Tensor | undefined;
    const keep: Hook = (g) => {
      gradient = g.clone();
      return undefined;
    };
    using loss = await lossOf(hooksAt('Bwd', keep), of === 'parameters' ? of : true);
    if (timed === 'backward') await device.synchronize();
    const start = performance.now();
    for (const parameter of (await loss.backward()).values()) parameter.dispose();
    await device.synchronize();
    return { seconds: (performance.now() - start) / 1000, gradient };
  }
  /** Of the gradient's length, by a step to both sides along it. */
  async function error(): Promise<number> {
    using gradient = (await both()).gradient as Tensor;
    const location = of === 0 ? 'resid/post_emb' : `${(of as number) - 1}/resid/post_mlp`;
    using x = (await xf.activations(tokens, [location])).get(location) as Tensor;
    const [size, norm] = [await x.norm().item(), await gradient.norm().item()];
    const losses: number[] = [];
    for (const sign of [1, -1]) {
      using step = gradient.mul((sign * 0.002 * size) / norm).to(dtype);
      using loss = await lossOf(
        hooksAt('Fwd', (stream) => stream.add_(step)),
        false,
      );
      losses.push(await loss.item());
    }
    const [up = 0, down = 0] = losses;
    return Math.abs((up - down) / (0.004 * size * norm) - 1);
  }
  return {
    run: async () => (await both()).gradient?.dispose(),
    ahead: 0,
    ...(of !== 'parameters' && { error }),
    ...(timed === 'backward' && {
      seconds: async () => {
        const { seconds, gradient } = await both();
        gradient?.dispose();
        return seconds;
      },
    }),
  };
}

function prepareCeiling({ kind, amount }: Of<'ceiling'>): Prepared {
  return { run: () => undefined, seconds: async () => amount / (await device.ceilings())[kind] };
}

/** A random autoencoder for rows like x, with biases that make about `active` latents of a row active if that is given. */
async function autoencoderFor(x: Tensor, { latents, top, active, dtype }: Of<'dump'>): Promise<Autoencoder> {
  const activation = top > 0 ? activations.topK(top) : activations.relu();
  const sizes = { nLatents: latents, nInputs: x.shape.at(-1) as number, device, dtype };
  const ae = own(new Autoencoder({ ...sizes, activation, normalize: true, tied: active !== undefined, seed: seed++ }));
  if (active === undefined) return ae;
  using preAct = ae.encodePreAct(x);
  using sums = preAct.reshape(-1, latents).to('float32');
  const [bias] = await biasesFor(sums, [active]);
  const state = await ae.stateDict();
  const data = (await (bias as Tensor).read()) as Float32Array;
  bias?.dispose();
  ae.dispose();
  return own(
    Autoencoder.fromStateDict(
      { ...state, latent_bias: { dtype: 'float32', shape: [latents], data } },
      { device, dtype },
    ),
  );
}

async function prepareDump(spec: Of<'dump'>): Promise<Prepared> {
  const { dtype, model, rows, batch, length, until, latents, top, everyLayer, write } = spec;
  const xf = own(await Transformer.load(`random:${model}`, { device, dtype }));
  const tokens = tokensOf(rows, length, xf.nVocab);
  const [last, ...place] = until.split('/');
  const layers = Array.from({ length: Number(last) + 1 }, (_, i) => i);
  const places = everyLayer ? layers.map((layer) => [layer, ...place].join('/')) : [until];
  const encoders = new Map<string, Autoencoder>();
  if (latents > 0) {
    for (const [location, x] of await xf.activations(tokens.slice(0, batch), places)) {
      encoders.set(location, await autoencoderFor(x, spec));
      x.dispose();
    }
  }
  const threshold = top > 0 ? 0 : 3.1; // of normalised rows, about one latent in a thousand is above
  if (!write) {
    const one = async (from: number) => {
      const found = await xf.activations(tokens.slice(from, from + batch), places);
      const encoded = [...found].map(([location, x]) => {
        const sparse = encoders.get(location)?.encodeSparse(x, { threshold });
        x.dispose();
        return sparse;
      });
      await Promise.all(encoded);
    };
    return {
      run: async () => {
        for (let from = 0; from < rows; from += batch) await one(from);
      },
      ahead: 0,
    };
  }
  const folder = mkdtempSync(join(tmpdir(), 'sonde-bench-'));
  own({ dispose: () => rmSync(folder, { recursive: true, force: true }) });
  const corpus = join(folder, 'corpus.bin');
  writeFileSync(corpus, Uint16Array.from(tokens.flat()));
  let runs = 0;
  const named = [...encoders.values()].map((ae, i) => [`ae${i}`, ae] as const);
  const locations = places.map((location, i) => (latents > 0 ? `${location} -> ae${i}` : location));
  const encoding = latents > 0 ? { autoencoders: Object.fromEntries(named), threshold } : {};
  const options = { model: xf, corpus, locations, context: length, batch, dtype: 'float32' as const, ...encoding };
  return { run: () => dump({ ...options, out: join(folder, String(runs++)) }), ahead: 0 };
}

async function prepareSample({ dtype, model, tokens }: Of<'sample'>): Promise<Prepared> {
  const xf = own(await Transformer.load(`random:${model}`, { device, dtype }));
  const prompt = tokensOf(1, 8, xf.nVocab);
  return { run: () => xf.sample(prompt, { numTokens: tokens, seed: 1 }), ahead: 0 };
}

function prepare(spec: Spec): Prepared | Promise<Prepared> {
  switch (spec.op) {
    case 'ceiling':
      return prepareCeiling(spec);
    case 'dump':
      return prepareDump(spec);
    case 'sample':
      return prepareSample(spec);
    case 'linear':
      return prepareLinear(spec);
    case 'encode':
      return prepareEncode(spec);
    case 'attention':
      return prepareAttention(spec);
    case 'elementwise':
      return prepareElementwise(spec);
    case 'reduce':
      return prepareReduce(spec);
    case 'crossEntropy':
      return prepareCrossEntropy(spec);
    case 'embedding':
      return prepareEmbedding(spec);
    case 'read':
      return prepareRead(spec);
    case 'launch':
      return prepareLaunch(spec);
    case 'forward':
      return prepareForward(spec);
    case 'gradients':
      return prepareGradients(spec);
    default:
      return prepareRows(spec);
  }
}

// ---- requests

await serve({
  describe: () => ({
    text: `sonde on ${device.name}: ${device.description}; Node ${process.version}`,
    gpu: device.kind === 'cuda' && !device.description.startsWith('emulated'),
  }),
  prepare: (spec, first) => {
    seed = first;
    return prepare(spec);
  },
  settle: () => device.synchronize(),
  drop: () => {
    for (const thing of owned) thing.dispose();
    owned = [];
    return device.synchronize();
  },
});
