// Values as a dump stores them: float32, or the raw bits of float16 and bfloat16.
import { floatToBfloat16, floatToHalf, toFloat32 } from '../files/host_tensor.js';
import type { StoredDType } from './layout.js';

export type StoredFloats = Float32Array | Uint16Array;

export function toStored(values: Float32Array, dtype: StoredDType): StoredFloats {
  if (dtype === 'F32') return values;
  return Uint16Array.from(values, dtype === 'F16' ? floatToHalf : floatToBfloat16);
}

export function fromStored(stored: StoredFloats, dtype: StoredDType): Float32Array {
  if (stored instanceof Float32Array) return stored;
  return toFloat32({ dtype: dtype === 'F16' ? 'float16' : 'bfloat16', shape: [stored.length], data: stored });
}
