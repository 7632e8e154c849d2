// Values as a dump stores them: float32, or the raw bits of float16 and bfloat16.
import { floatToBfloat16, floatToHalf, toFloat32 } from '../files/host_tensor.js';
import type { DumpDType } from './plan.js';

export type StoredFloats = Float32Array | Uint16Array;

export function toStored(values: Float32Array, dtype: DumpDType): StoredFloats {
  if (dtype === 'float32') return values;
  const rounded = dtype === 'float16' ? floatToHalf : floatToBfloat16;
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = rounded(values[i] as number);
  return bits;
}

export function fromStored(stored: StoredFloats, dtype: DumpDType): Float32Array {
  return toFloat32({ dtype, shape: [stored.length], data: stored });
}
