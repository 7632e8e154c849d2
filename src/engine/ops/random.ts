// Seeded random values: Philox 4x32-10 (Salmon et al., SC'11), so that a value depends on its seed and position alone.
import type { Tensor } from './tensor.js';

const kinds = { normal: 0, integer: 1 } as const; // RandomKind in native/ops.h

/** Fills `out`, of floats, with normal values. */
export function randn(out: Tensor, seed: number, mean: number, std: number): Tensor {
  out.device.run('random', out, kinds.normal, seed, mean, std);
  return out;
}

/** Fills `out`, int32, with integers in [low, high). */
export function randint(out: Tensor, seed: number, low: number, high: number): Tensor {
  out.device.run('random', out, kinds.integer, seed, low, high);
  return out;
}
