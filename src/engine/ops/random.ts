// Seeded random values: Philox 4x32-10 (Salmon et al., SC'11), so that a value depends on its seed and position alone.
import { checkInteger, checkNumber, wrong } from '../check.js';
import type { Tensor } from './tensor.js';

const kinds = { normal: 0, integer: 1 } as const; // RandomKind in native/ops.h

export function randn(out: Tensor, { seed, mean = 0, std = 1 }: { seed: number; mean?: number; std?: number }): Tensor {
  checkInteger('Tensor.randn', 'seed', seed, 0);
  checkNumber('Tensor.randn', 'mean', mean);
  checkNumber('Tensor.randn', 'std', std);
  if (out.dtype === 'int32' || out.dtype === 'bool') {
    throw new TypeError(wrong('Tensor.randn', 'dtype', 'float32, bfloat16 or float16', out.dtype));
  }
  out.device.run('random', out.handle, kinds.normal, seed, mean, std);
  return out;
}

export function randint(out: Tensor, low: number, high: number, { seed }: { seed: number }): Tensor {
  checkInteger('Tensor.randint', 'seed', seed, 0);
  checkInteger('Tensor.randint', 'low', low, -(2 ** 31), 2 ** 31 - 1);
  checkInteger('Tensor.randint', 'high', high, low + 1, 2 ** 31);
  out.device.run('random', out.handle, kinds.integer, seed, low, high);
  return out;
}
