// Random cases of attention and what it computes of them, in loops of doubles.
import { Tensor } from '../../../src/engine/ops/tensor.js';
import type { Case } from './cases.js';

interface Sizes {
  readonly B: number;
  readonly S: number;
  readonly T: number;
  readonly H: number;
  readonly D: number;
  readonly E: number;
}

/** What attention gives of q [B, S, H, D], k [B, T, H, D] and v [B, T, H, E]. */
export function attentionOracle(
  { q, k, v }: Record<'q' | 'k' | 'v', Float64Array>,
  { B, S, T, H, D, E }: Sizes,
  causal: boolean,
  scale: number,
  pad?: ArrayLike<number>,
): { out: Float64Array; probs: Float64Array } {
  const out = new Float64Array(B * S * H * E);
  const probs = new Float64Array(B * S * T * H);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let i = 0; i < S; i++) {
        const query = T - S + i;
        const weights = Array.from({ length: T }, (_, j) => {
          if ((causal && j > query) || (pad && pad[b * T + j] !== pad[b * T + query])) return -Infinity;
          let sum = 0;
          for (let d = 0; d < D; d++)
            sum += (q[((b * S + i) * H + h) * D + d] as number) * (k[((b * T + j) * H + h) * D + d] as number);
          return sum * scale;
        });
        const largest = Math.max(...weights);
        const exps = weights.map((w) => Math.exp(w - largest));
        const total = exps.reduce((a, e) => a + e, 0);
        for (const [j, e] of exps.entries()) probs[((b * S + i) * T + j) * H + h] = e / total;
        for (let e = 0; e < E; e++) {
          let sum = 0;
          for (let j = 0; j < T; j++)
            if (exps[j]) sum += ((exps[j] as number) / total) * (v[((b * T + j) * H + h) * E + e] as number);
          out[((b * S + i) * H + h) * E + e] = sum;
        }
      }
    }
  }
  return { out, probs };
}

/** A random case: shapes, layouts, dtype, mask and scale, and what attention gives of it. */
export async function attentionCase(c: Case) {
  const [B, H] = [c.rng.integer(1, 4), c.rng.integer(1, 5)];
  const [D, E] = [c.rng.pick([1, 3, 8, 10, 12, 16, 33, 64]), c.rng.pick([1, 5, 12, 16, 48, 64])];
  const S = c.rng.pick([1, 2, 5, 7, 8, 9, 17, 40, 65]);
  const T = S + c.rng.pick([0, 0, 1, 3, 30]);
  const dtype = c.rng.pick(['float32', 'float32', 'bfloat16', 'float16'] as const);
  const q = await c.tensor([B, S, H, D], { dtype });
  const k = await c.tensor([B, T, H, D], { dtype });
  const v = await c.tensor([B, T, H, E], { dtype });
  const causal = c.rng.next() < 0.7;
  const padding =
    c.rng.next() < 0.5 ? Uint8Array.from({ length: B * T }, () => (c.rng.next() < 0.3 ? 1 : 0)) : undefined;
  const pad = padding ? c.own(Tensor.from(padding, { shape: [B, T], device: c.device })) : undefined;
  const scale = c.rng.pick([1 / Math.sqrt(D), 1]);
  const options = { causal, scale, ...(pad ? { pad } : {}) };
  return {
    q,
    k,
    v,
    options,
    dtype,
    probsShape: [B, S, T, H],
    expected: attentionOracle({ q: q.x, k: k.x, v: v.x }, { B, S, T, H, D, E }, causal, scale, padding),
  };
}
