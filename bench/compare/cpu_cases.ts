// What the CPU benchmarks measure, and what each figure should reach.
import type { DType } from '../../src/engine/dtype.js';
import type { Case, Goal, Rival, Scale, Spec, Work } from './spec.js';

type Of<Op extends Spec['op']> = Extract<Spec, { op: Op }>;

const short: Partial<Record<DType, string>> = { float32: 'f32', bfloat16: 'bf16' };
const rival = (label: string, side: Rival['side'], spec: Spec, goal?: Goal): Rival => ({
  label,
  side,
  spec,
  ...(goal && { goal }),
});
const ceiling = (kind: Of<'ceiling'>['kind'], amount: number, goal?: Goal): Rival =>
  rival(kind === 'bandwidth' ? 'reading memory' : 'multiply-adds', 'sonde', { op: 'ceiling', kind, amount }, goal);

// ---- kernels

/** Products, attention, encoders and what lies between, the ones that matter most first. */
export function cpuKernels(scale: Scale): Case[] {
  const full = scale === 'full';
  const between = [...streams(full), ...throughMemory(full)];
  return [...products(full), ...fewRows(full), ...attentions(full), ...encoders(full), ...between];
}

const linear = (dtype: DType, rows: number, k: number, n: number): Of<'linear'> => ({
  op: 'linear',
  dtype,
  rows,
  k,
  n,
  precision: 'float32',
  fused: 'nothing',
});

function products(full: boolean): Case[] {
  const sizes: [number, number][] = full
    ? [
        [768, 768],
        [768, 2304],
        [768, 3072],
        [3072, 768],
        [768, 50257],
        [768, 32768],
        [3072, 32768],
      ]
    : [[40, 70]];
  const cases: Case[] = [];
  for (const dtype of ['float32', 'bfloat16'] as const) {
    for (const rows of full ? [512, 1024] : [33]) {
      for (const [k, n] of sizes) {
        const spec = linear(dtype, rows, k, n);
        const flops = 2 * rows * k * n;
        const least = { speed: n >= 2304 && dtype === 'float32' ? 1.05 : 1 };
        // little is left of a small product that begins and ends as one
        const ofCeiling = { speed: dtype === 'float32' && k * n > 768 ** 2 ? 0.88 : 0.85 };
        cases.push({
          group: `product ${short[dtype]}`,
          name: `product ${short[dtype]} ${rows} x ${k} -> ${n}`,
          shape: `[${rows}, ${k}] x [${k}, ${n}]`,
          spec,
          work: { unit: 'flop', amount: flops },
          bound: dtype === 'float32' ? 1e-6 : 3e-3,
          rivals: [
            ceiling(dtype, flops, ofCeiling),
            rival('PyTorch', 'torch', spec, least),
            ...(dtype === 'float32' ? [rival('OpenBLAS', 'openblas', spec, least)] : []),
            ...(dtype === 'float32' ? [rival('onnxruntime', 'onnxruntime', spec, { speed: 1 })] : []),
            ...(dtype === 'float32' ? [rival('our AVX2', 'avx2', spec)] : []),
          ],
        });
      }
    }
  }
  return cases;
}

function fewRows(full: boolean): Case[] {
  const cases: Case[] = [];
  for (const dtype of ['float32', 'bfloat16'] as const) {
    for (const rows of full ? [1, 2, 4, 8, 16] : [1]) {
      const [k, n] = full ? [768, 50257] : [40, 70];
      const spec = linear(dtype, rows, k, n);
      const bytes = k * n * (dtype === 'float32' ? 4 : 2);
      cases.push({
        group: `few rows ${short[dtype]}`,
        name: `few rows ${short[dtype]} ${rows} x ${k} -> ${n}`,
        shape: `[${rows}, ${k}] x [${k}, ${n}]`,
        spec,
        work: { unit: 'byte', amount: bytes },
        bound: dtype === 'float32' ? 1e-6 : 3e-3,
        rivals: [ceiling('bandwidth', bytes), rival('PyTorch', 'torch', spec)],
      });
    }
  }
  return cases;
}

function attentions(full: boolean): Case[] {
  const cases: Case[] = [];
  for (const dtype of ['float32', 'bfloat16'] as const) {
    for (const [batch, length] of full
      ? [
          [16, 128],
          [4, 512],
          [2, 1024],
        ]
      : [[1, 9]]) {
      const [b, s, heads, channels] = [batch as number, length as number, full ? 12 : 2, full ? 64 : 8];
      const spec: Spec = { op: 'attention', dtype, batch: b, length: s, heads, channels };
      const flops = 2 * b * heads * s * (s + 1) * channels; // causal: half of the pairs
      cases.push({
        group: `attention ${short[dtype]}`,
        name: `attention ${short[dtype]} ${b} x ${s}`,
        shape: `[${b}, ${s}, ${heads}, ${channels}]`,
        spec,
        work: { unit: 'flop', amount: flops },
        bound: dtype === 'float32' ? 2e-6 : 1e-2,
        rivals: [ceiling(dtype, flops), rival('PyTorch SDPA', 'torch', spec)],
      });
    }
  }
  return cases;
}

function encoders(full: boolean): Case[] {
  const cases: Case[] = [];
  const sizes: [number, number][] = full
    ? [
        [768, 32768],
        [768, 131072],
        [3072, 32768],
        [3072, 131072],
      ]
    : [[40, 200]];
  for (const dtype of ['float32', 'bfloat16'] as const) {
    for (const [k, n] of sizes) {
      for (const top of [0, full ? 32 : 4]) {
        const rows = full ? (n > 100_000 ? 512 : 1024) : 9;
        const spec: Spec = { op: 'encode', dtype, rows, k, n, top, threshold: top > 0 ? 0 : 3.1 };
        const name = top > 0 ? `TopK(${top})` : 'threshold';
        cases.push({
          group: `encoder ${short[dtype]}`,
          name: `encoder ${short[dtype]} ${name} ${k} -> ${n}`,
          shape: `[${rows}, ${k}] x [${k}, ${n}]`,
          spec,
          work: { unit: 'flop', amount: 2 * rows * k * n },
          bound: dtype === 'float32' ? 1e-6 : 1e-2,
          rivals: [
            rival('our product alone', 'sonde', linear(dtype, rows, k, n), { time: top > 0 ? 1.08 : 1.02 }),
            // the largest encoder would take PyTorch gigabytes, beside ours
            ...(k * n < 2e8 ? [rival(top > 0 ? 'PyTorch, topk' : 'PyTorch, relu alone', 'torch', spec)] : []),
          ],
        });
      }
    }
  }
  return cases;
}

function streams(full: boolean): Case[] {
  const [rows, width] = full ? [2048, 3072] : [9, 33];
  return (['gelu', 'layerNorm', 'addLayerNorm', 'softmax'] as const).map((op) => {
    const spec: Spec = { op, dtype: 'float32', rows, width };
    const work: Work = { unit: 'byte', amount: (op === 'addLayerNorm' ? 16 : 8) * rows * width };
    return {
      group: 'streams',
      name: op,
      shape: `[${rows}, ${width}]`,
      spec,
      work,
      bound: 1e-6,
      rivals: [rival('PyTorch', 'torch', spec)],
    };
  });
}

function throughMemory(full: boolean): Case[] {
  const [rows, width] = full ? [1000, 10_000] : [40, 33];
  const cases: Case[] = [];
  for (const [kind, bytesOfEach] of [
    ['add', 12],
    ['exp', 8],
    ['gt', 5],
  ] as const) {
    const spec: Spec = { op: 'elementwise', dtype: 'float32', kind, rows, width };
    const bytes = bytesOfEach * rows * width;
    cases.push({
      group: 'streams',
      name: kind,
      shape: `[${rows}, ${width}]`,
      spec,
      work: { unit: 'byte', amount: bytes },
      bound: 1e-6,
      rivals: [...(full ? [ceiling('bandwidth', bytes, { speed: 0.8 })] : []), rival('PyTorch', 'torch', spec)],
    });
  }
  for (const kind of ['sum', 'max', 'var'] as const) {
    for (const over of ['all', 'first'] as const) {
      const spec: Spec = { op: 'reduce', dtype: 'float32', kind, over, rows, width };
      const bytes = 4 * rows * width;
      cases.push({
        group: 'streams',
        name: over === 'all' ? `${kind} of all` : `${kind} over the first dimension`,
        shape: `[${rows}, ${width}]`,
        spec,
        work: { unit: 'byte', amount: bytes },
        bound: 1e-6,
        rivals: [...(full ? [ceiling('bandwidth', bytes, { speed: 0.8 })] : []), rival('PyTorch', 'torch', spec)],
      });
    }
  }
  const [positions, vocabulary] = full ? [512, 50_257] : [9, 70];
  const spec: Spec = { op: 'crossEntropy', dtype: 'float32', rows: positions, width: vocabulary };
  const bytes = 4 * positions * vocabulary;
  cases.push({
    group: 'streams',
    name: 'crossEntropy',
    shape: `[${positions}, ${vocabulary}]`,
    spec,
    work: { unit: 'byte', amount: bytes },
    bound: 1e-6,
    rivals: [...(full ? [ceiling('bandwidth', bytes, { time: 1.5 })] : []), rival('PyTorch', 'torch', spec)],
  });
  return cases;
}

// ---- models

/** GPT-2 end to end: passes, dumps, sampling. */
export function cpuModels(scale: Scale): Case[] {
  const full = scale === 'full';
  const [model, layer, batch, length] = full ? ['gpt2-small', 5, 4, 512] : ['tiny', 0, 1, 8];
  const until = `${layer as number}/resid/delta_mlp` as const;
  const pass = (dtype: DType, rowsAtOnce = batch as number): Spec => {
    return {
      op: 'forward',
      dtype,
      model: model as string,
      batch: rowsAtOnce,
      length: length as number,
      until: 'logits',
    };
  };
  const rows = full ? 16 : 4;
  const dump = (dtype: DType, latents: number, top = 0, write = true): Of<'dump'> => ({
    op: 'dump',
    dtype,
    model: model as string,
    rows,
    batch: batch as number,
    length: length as number,
    until,
    latents,
    top,
    write,
  });
  const passTokens: Work = { unit: 'token', amount: (batch as number) * (length as number) };
  const dumpTokens: Work = { unit: 'token', amount: rows * (length as number) };
  const latents = full ? 32768 : 64;
  const shape = `${batch} x ${length} tokens at a time`;
  const sampled = full ? 32 : 3;
  const sampling = (dtype: DType): Case => {
    const spec: Spec = { op: 'sample', dtype, model: model as string, tokens: sampled };
    // every weight but the embeddings is read for each token
    const bytes = sampled * (12 * 12 * 768 ** 2 + 768 * 50257) * (dtype === 'float32' ? 4 : 2);
    return {
      group: 'sampling',
      name: `sampling ${short[dtype]}`,
      shape: 'one prompt',
      spec,
      work: { unit: 'token', amount: sampled },
      rivals: [
        ...(full ? [ceiling('bandwidth', bytes, { speed: dtype === 'float32' ? 0.8 : 0.75 })] : []),
        rival('PyTorch', 'torch', spec),
      ],
    };
  };
  const latentsDump = (top: number): Case => {
    // the layers' weights, and the encoder's; attention is little
    const flops = 2 * rows * (length as number) * (((layer as number) + 1) * 12 * 768 ** 2 + 768 * latents);
    return {
      group: 'dump',
      name: `dump of ${latents} latents of ${until}, ${top > 0 ? `TopK(${top})` : 'above a threshold'}`,
      shape,
      spec: dump('float32', latents, top),
      work: dumpTokens,
      rivals: [
        rival('without writing', 'sonde', dump('float32', latents, top, false)),
        ...(full ? [ceiling('float32', flops)] : []),
        rival("an expert's PyTorch", 'torch', dump('float32', latents, top), { speed: 3.5 }),
      ],
    };
  };
  /** The latents of one layer or of all, with biases like trained ones. */
  const calibratedDump = (everyLayer: boolean): Case => {
    const [top, active, lastLayer] = full ? [32, 100, 11] : [4, 16, 1];
    const last = everyLayer ? (`${lastLayer}/resid/delta_mlp` as const) : until;
    const layers = everyLayer ? lastLayer + 1 : 1;
    const rowsOfIt = everyLayer ? 2 * (batch as number) : rows;
    const spec: Of<'dump'> = { ...dump('float32', latents, top), rows: rowsOfIt, until: last, active, everyLayer };
    const tokens = rowsOfIt * (length as number);
    const flops =
      2 * tokens * (((everyLayer ? lastLayer : (layer as number)) + 1) * 12 * 768 ** 2 + layers * 768 * latents);
    const place = everyLayer ? `resid/delta_mlp of all ${layers} layers` : until;
    return {
      group: 'dump',
      name: `dump of ${latents} latents of ${place}, TopK(${top}), ${active} active`,
      shape,
      spec,
      work: { unit: 'token', amount: tokens },
      rivals: [
        rival('without writing', 'sonde', { ...spec, write: false }),
        ...(full ? [ceiling('float32', flops)] : []),
        rival("an expert's PyTorch", 'torch', spec, everyLayer ? undefined : { speed: 3.5 }),
      ],
    };
  };
  return [
    {
      group: 'pass',
      name: 'pass f32',
      shape,
      spec: pass('float32'),
      work: passTokens,
      rivals: [
        rival('the original', 'original', pass('float32'), { speed: 2.2 }),
        rival('PyTorch', 'torch', pass('float32'), { speed: 1.5 }),
        rival('onnxruntime', 'onnxruntime', pass('float32'), { speed: 1.3 }),
      ],
    },
    {
      group: 'pass',
      name: 'pass f32, one row',
      shape: `1 x ${length} tokens at a time`,
      spec: pass('float32', 1),
      work: { unit: 'token', amount: length as number },
      rivals: [
        rival('the original', 'original', pass('float32', 1), { speed: 2.2 }),
        rival('PyTorch', 'torch', pass('float32', 1), { speed: 1.5 }),
        rival('onnxruntime', 'onnxruntime', pass('float32', 1), { speed: 1.15 }),
      ],
    },
    {
      group: 'pass',
      name: 'pass bf16',
      shape,
      spec: pass('bfloat16'),
      work: passTokens,
      rivals: [rival('PyTorch', 'torch', pass('bfloat16'), { speed: 1.3 })],
    },
    {
      group: 'dump',
      name: `dump of ${until}`,
      shape,
      spec: dump('float32', 0),
      work: dumpTokens,
      rivals: [
        rival('without writing', 'sonde', dump('float32', 0, 0, false), { speed: 0.9 }),
        rival("an expert's PyTorch", 'torch', dump('float32', 0), { speed: 1.35 }),
        rival('the original', 'original', dump('float32', 0), { speed: 6 }),
      ],
    },
    ...[0, 32].map(latentsDump),
    ...[false, true].map(calibratedDump),
    sampling('float32'),
    sampling('bfloat16'),
  ];
}
