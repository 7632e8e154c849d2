// What the GPU benchmarks measure, and what each figure should reach.
import type { DType } from '../../src/engine/dtype.js';
import type { Case, Rival, Scale, Spec, Work } from './spec.js';

const short: Partial<Record<DType, string>> = { float32: 'f32', bfloat16: 'bf16' };
const bytesOf: Partial<Record<DType, number>> = { float32: 4, bfloat16: 2 };
const size = (dtype: DType): number => bytesOf[dtype] as number;
const floats = ['bfloat16', 'float32'] as const;
const torch = (spec: Spec, more: Partial<Rival> = {}): Rival => ({ label: 'torch', side: 'torch', spec, ...more });

/** All cases, the ones that matter most first. `tiny` is the same on the smallest shapes, for a run without a GPU. */
export function gpuCases(scale: Scale): Case[] {
  const full = scale === 'full';
  return [...linears(full), ...attentions(full), ...encoders(full), ...streams(full), ...passes(full), ...calls(full)];
}

function linears(full: boolean): Case[] {
  const rows = full ? 5632 : 33;
  const sizes: [number, number][] = full
    ? [
        [768, 2304],
        [768, 768],
        [768, 3072],
        [3072, 768],
        [768, 50257],
      ]
    : [
        [40, 70],
        [64, 131],
      ];
  type Linear = Extract<Spec, { op: 'linear' }>;
  const product = (group: string, spec: Linear, bound: number, rivals: Rival[]): Case => ({
    group,
    name: `${group} ${spec.k} -> ${spec.n}${spec.fused === 'nothing' ? '' : ` + bias + ${spec.fused}`}`,
    shape: `[${spec.rows}, ${spec.k}] x [${spec.k}, ${spec.n}]`,
    spec,
    work: { unit: 'flop', amount: 2 * spec.rows * spec.k * spec.n },
    bound,
    rivals,
  });
  const spec = (dtype: DType, [k, n]: [number, number], more: Partial<Linear> = {}): Linear => ({
    op: 'linear',
    dtype,
    rows,
    k,
    n,
    precision: 'float32',
    fused: 'nothing',
    ...more,
  });
  // GPT-2's vocabulary is odd, which cuBLAS does not like; so here is its best as well
  const padded = (own: Linear): Rival[] => {
    const n = Math.ceil(own.n / 64) * 64;
    const work: Work = { unit: 'flop', amount: 2 * own.rows * own.k * n };
    return own.n === n || !full ? [] : [torch({ ...own, n }, { label: `torch, padded to ${n}`, work })];
  };
  const [wide, narrow] = (full ? [sizes[2], sizes[3]] : sizes) as [[number, number], [number, number]];
  const out: Case[] = [];
  for (const dtype of floats) {
    const group = `linear ${short[dtype]}`;
    const exact = dtype === 'float32';
    for (const shape of sizes) {
      const own = spec(dtype, shape);
      const goal: Partial<Rival> = exact ? { goal: { speed: 3 }, asExact: true } : { goal: { speed: 0.85 } };
      out.push(product(group, own, exact ? 3e-6 : 5e-3, [torch(own, goal), ...padded(own)]));
    }
    const gelu = spec(dtype, wide, { fused: 'gelu' });
    const residual = spec(dtype, narrow, { fused: 'residual' });
    for (const own of [gelu, residual]) out.push(product(group, own, exact ? 3e-6 : 6e-3, [torch(own)]));
  }
  for (const shape of sizes) {
    const own = spec('float32', shape, { precision: 'tf32' });
    out.push(product('linear tf32', own, 1e-3, [torch(own)]));
  }
  const strict = spec('float32', wide, { precision: 'strict' });
  out.push(product('linear strict', strict, 3e-6, [torch({ ...strict, precision: 'float32' })]));
  return out;
}

function attentions(full: boolean): Case[] {
  const [heads, channels] = full ? [12, 64] : [2, 16];
  const sizes = full
    ? [
        [44, 128],
        [11, 512],
        [6, 1024],
      ]
    : [[2, 17]];
  return floats.flatMap((dtype) =>
    (sizes as [number, number][]).map(([batch, length]): Case => {
      const spec: Spec = { op: 'attention', dtype, batch, length, heads, channels };
      return {
        group: `attention ${short[dtype]}`,
        name: `attention ${short[dtype]}, ${length} positions`,
        shape: `[${batch}, ${length}, ${heads}, ${channels}]`,
        spec,
        // causal: half of the pairs
        work: { unit: 'flop', amount: 2 * batch * heads * length * (length + 1) * channels },
        bound: dtype === 'float32' ? 5e-6 : 1e-2,
        rivals: [torch(spec, { goal: { speed: 0.7 } })],
      };
    }),
  );
}

function encoders(full: boolean): Case[] {
  const [rows, k, top] = full ? [5632, 768, 32] : [9, 40, 4];
  const widths = full ? [32768, 131072] : [150];
  const out: Case[] = [];
  for (const dtype of floats) {
    for (const n of widths) {
      const linear: Spec = { op: 'linear', dtype, rows, k, n, precision: 'float32', fused: 'nothing' };
      for (const kept of [0, top]) {
        // of normal latents, about as many are above it as TopK keeps
        const threshold = kept === 0 ? (n > 100_000 ? 3.49 : n > 1000 ? 3.1 : 2) : 0;
        const spec: Spec = { op: 'encode', dtype, rows, k, n, top: kept, threshold };
        const what = kept === 0 ? 'threshold' : `TopK(${kept})`;
        out.push({
          group: `sparseEncode ${short[dtype]}`,
          name: `sparseEncode ${short[dtype]} ${k} -> ${n}, ${what}`,
          shape: `[${rows}, ${k}] x [${k}, ${n}]`,
          spec,
          work: { unit: 'flop', amount: 2 * rows * k * n },
          bound: dtype === 'float32' ? 3e-6 : 5e-5,
          rivals: [
            { label: 'our dense linear', side: 'sonde', spec: linear, goal: { time: 1.15 } },
            torch(spec, { label: kept === 0 ? 'torch linear + relu' : 'torch linear + topk' }),
          ],
        });
      }
    }
  }
  return out;
}

// What moves bytes and little else, on more than the L2 cache holds.
function streams(full: boolean): Case[] {
  const [rows, width, table] = full ? [65536, 768, 50257] : [30, 40, 50];
  const out: Case[] = [];
  const add = (dtype: DType, spec: Spec, tensors: number, columns = width): void => {
    const amount = tensors * rows * columns * size(dtype);
    const half: DType = 'bfloat16';
    const copy: Spec = { op: 'copy', dtype, rows, width: columns };
    const against: Rival = {
      label: 'device copy',
      side: 'sonde',
      spec: copy,
      work: { unit: 'byte', amount: 2 * rows * columns * size(dtype) },
      goal: { speed: 0.8 },
    };
    const plain = spec.op === 'copy';
    out.push({
      group: 'bytes',
      name: spec.op === 'convert' ? `convert f32 -> ${short[half]}` : `${spec.op} ${short[dtype]}`,
      shape: `[${rows}, ${columns}]`,
      spec,
      work: { unit: 'byte', amount },
      ...(plain ? { bound: 0 } : { bound: dtype === 'float32' && spec.op !== 'convert' ? 2e-6 : 5e-3 }),
      rivals: plain ? [torch(spec, { goal: { speed: 0.8 } })] : [against, torch(spec)],
    });
  };
  for (const dtype of ['float32', 'bfloat16'] as const) {
    add(dtype, { op: 'copy', dtype, rows, width }, 2);
    add(dtype, { op: 'add', dtype, rows, width }, 3);
    add(dtype, { op: 'gelu', dtype, rows, width }, 2);
    add(dtype, { op: 'layerNorm', dtype, rows, width }, 2);
    add(dtype, { op: 'addLayerNorm', dtype, rows, width }, 4);
    const columns = full ? 1024 : 37;
    add(dtype, { op: 'softmax', dtype, rows, width: columns }, 2, columns);
    add(dtype, { op: 'embedding', dtype, rows, width, table }, 2);
  }
  add('float32', { op: 'convert', dtype: 'float32', rows, width }, 1.5);
  return out;
}

function passes(full: boolean): Case[] {
  const [model, batch, length, layer] = full ? ['gpt2-small', 44, 128, 5] : ['tiny', 2, 7, 1];
  const out: Case[] = [];
  for (const dtype of floats) {
    for (const until of ['logits', `${layer}/resid/delta_mlp`] as const) {
      const spec: Spec = { op: 'forward', dtype, model: model as string, batch, length, until };
      out.push({
        group: 'forward',
        name: `${model} ${short[dtype]} to ${until}`,
        shape: `${batch} x ${length} tokens`,
        spec,
        work: { unit: 'token', amount: batch * length },
        bound: dtype === 'float32' ? 1e-4 : 5e-2,
        rivals: [torch(spec)],
      });
    }
  }
  return out;
}

function calls(full: boolean): Case[] {
  const bytes = full ? 64 * 2 ** 20 : 4096;
  const tiny = full ? 1000 : 10;
  const launch: Spec = { op: 'launch', calls: tiny };
  const transposed: Spec = full
    ? { op: 'transpose', dtype: 'float32', rows: 16384, width: 4096 }
    : { op: 'transpose', dtype: 'float32', rows: 30, width: 40 };
  return [
    {
      group: 'calls',
      name: 'launch of a tiny operation',
      shape: `${tiny} x add_ [16]`,
      spec: launch,
      work: { unit: 'call', amount: tiny },
      rivals: [torch(launch)],
    },
    ...[false, true].map((fast): Case => {
      const spec: Spec = { op: 'read', bytes, fast };
      return {
        group: 'calls',
        name: fast ? 'readInto' : 'read',
        shape: full ? '64 MiB' : `${bytes} bytes`,
        spec,
        work: { unit: 'byte', amount: bytes },
        bound: 0,
        rivals: [torch(spec, { label: fast ? 'torch, into pinned memory' : 'torch .cpu()' })],
      };
    }),
    {
      group: 'calls',
      name: 'transpose f32',
      shape: `[${transposed.rows}, ${transposed.width}]`,
      spec: transposed,
      work: { unit: 'byte', amount: 8 * transposed.rows * transposed.width },
      bound: 0,
      rivals: [torch(transposed)],
    },
  ];
}
