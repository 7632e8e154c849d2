// onnxruntime-node's side of the benchmarks: float32 products and passes of GPT-2, as ONNX graphs of random weights.
// ONNXRUNTIME names the folder whose node_modules holds the package; without it, the package is looked for from here.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { relativeError } from '../../test/support/close.js';
import { OnnxGraph } from './onnx_model.js';
import { type Prepared, serve } from './serve.js';
import type { Spec } from './spec.js';

type Of<Op extends Spec['op']> = Spec & { readonly op: Op };

/** What is used of the package, which is no dependency. */
interface Onnx {
  readonly InferenceSession: {
    create(model: Uint8Array, options: object): Promise<Session>;
  };
  readonly Tensor: new (type: string, data: Float32Array | BigInt64Array, shape: readonly number[]) => object;
}

interface Session {
  run(feeds: Record<string, object>, fetches: Record<string, object>): Promise<Record<string, { data: Float32Array }>>;
  release(): Promise<void>;
}

const load = createRequire(join(process.env.ONNXRUNTIME ?? import.meta.dirname, 'here.js'));
const { InferenceSession, Tensor } = load('onnxruntime-node') as Onnx;
const { version } = load('onnxruntime-node/package.json') as { version: string };
const threads = Number(process.env.BENCH_THREADS ?? 0);
const sessionOptions = {
  graphOptimizationLevel: 'all',
  executionMode: 'sequential',
  interOpNumThreads: 1,
  // otherwise its threads would go on to spin while the others are measured
  extra: { session: { force_spinning_stop: '1' } },
  ...(threads > 0 && { intraOpNumThreads: threads }),
};
// the first of ONNX's operator sets that has Attention
const operatorSet = 23;
let sessions: Session[] = [];

/** Uniform, with that standard deviation. */
function random(count: number, deviation = 1): Float32Array {
  const values = new Float32Array(count);
  const scale = 2 * deviation * Math.sqrt(3);
  for (let i = 0; i < count; i++) values[i] = (Math.random() - 0.5) * scale;
  return values;
}

async function open(graph: OnnxGraph): Promise<Session> {
  const session = await InferenceSession.create(graph.model(operatorSet), sessionOptions);
  sessions.push(session);
  return session;
}

async function prepareLinear({ dtype, rows, k, n, fused }: Of<'linear'>): Promise<Prepared> {
  if (dtype !== 'float32' || fused !== 'nothing') throw new Error('only plain float32 products are compared');
  const [x, w] = [random(rows * k), random(k * n, k ** -0.5)];
  const graph = new OnnxGraph();
  const out = graph.add('MatMul', [graph.input('x', 'float32', [rows, k]), graph.weights(w, [k, n])]);
  graph.output(out, [rows, n]);
  const session = await open(graph);
  const feeds = { x: new Tensor('float32', x, [rows, k]) };
  const result = new Float32Array(rows * n); // memory that is there already
  const fetches = { [out]: new Tensor('float32', result, [rows, n]) };
  return {
    run: () => session.run(feeds, fetches),
    ahead: 0,
    error: async () => {
      const got: number[] = [];
      const exact: number[] = [];
      for (const row of [0, rows - 1]) {
        for (let column = 0; column < n; column += Math.ceil(n / 40)) {
          got.push(result[row * n + column] as number);
          let sum = 0;
          for (let i = 0; i < k; i++) sum += (x[row * k + i] as number) * (w[i * n + column] as number);
          exact.push(sum);
        }
      }
      return relativeError(got, exact);
    },
  };
}

// vocabulary, positions, width, layers, heads: as sonde's random models
const models: Record<string, readonly [number, number, number, number, number]> = {
  'gpt2-small': [50257, 1024, 768, 12, 12],
  tiny: [50257, 128, 64, 2, 4],
};

async function prepareForward({ dtype, model, batch, length, until }: Of<'forward'>): Promise<Prepared> {
  const sizes = models[model];
  if (dtype !== 'float32' || until !== 'logits' || !sizes) throw new Error('only whole float32 passes are compared');
  const [vocabulary, , d, layers, heads] = sizes;
  const graph = new OnnxGraph();
  const weights = (...shape: number[]) =>
    graph.weights(
      random(
        shape.reduce((a, b) => a * b),
        0.02,
      ),
      shape,
    );
  const norm = (x: string) =>
    graph.add('LayerNormalization', [x, graph.weights(new Float32Array(d).fill(1), [d]), weights(d)], {
      epsilon: 1e-5,
    });
  const linear = (x: string, k: number, n: number) =>
    graph.add('Add', [graph.add('MatMul', [x, weights(k, n)]), weights(n)]);
  const tokens = graph.input('tokens', 'int64', [batch, length]);
  let x = graph.add('Add', [graph.add('Gather', [weights(vocabulary, d), tokens]), weights(length, d)]);
  for (let layer = 0; layer < layers; layer++) {
    const parts = graph.addMany(3, 'Split', [linear(norm(x), d, 3 * d)], { axis: -1, num_outputs: 3 });
    const mixed = graph.add('Attention', parts, { is_causal: 1, q_num_heads: heads, kv_num_heads: heads });
    x = graph.add('Add', [x, linear(mixed, d, d)]);
    const hidden = graph.add('Gelu', [linear(norm(x), d, 4 * d)], { approximate: 'tanh' });
    x = graph.add('Add', [x, linear(hidden, 4 * d, d)]);
  }
  const out = graph.add('MatMul', [norm(x), weights(d, vocabulary)]);
  graph.output(out, [batch, length, vocabulary]);
  const session = await open(graph);
  const ids = BigInt64Array.from({ length: batch * length }, (_, i) => BigInt((i * 7919) % vocabulary));
  const feeds = { tokens: new Tensor('int64', ids, [batch, length]) };
  const shape = [batch, length, vocabulary];
  const fetches = { [out]: new Tensor('float32', new Float32Array(batch * length * vocabulary), shape) };
  return { run: () => session.run(feeds, fetches), ahead: 0 };
}

await serve({
  describe: () => ({ text: `onnxruntime-node ${version}${threads > 0 ? `, ${threads} threads` : ''}` }),
  prepare: (spec) => {
    if (spec.op === 'linear') return prepareLinear(spec);
    if (spec.op === 'forward') return prepareForward(spec);
    throw new Error(`${spec.op} is not compared`);
  },
  drop: async () => {
    await Promise.all(sessions.map((session) => session.release()));
    sessions = [];
  },
});
