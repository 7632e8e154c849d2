// Values as a dump stores them: float32, the raw bits of float16 and bfloat16, or int8 with a scale for each token.
import { floatToBfloat16, floatToFloat16, toFloat32 } from '../../files/host_tensor.js';
import type { NamedValues } from './layout.js';
import type { DumpSettings, FloatDType } from './settings.js';

/** The values that a device gives. They are stored as they are or, for int8, with less accuracy. */
export type StoredFloats = Float32Array | Uint16Array;

/**
 * The dtype in which values leave the device. Statistics are of unrounded values: with them, values are rounded later.
 */
export const transferDType = (
  { dtype }: Pick<NamedValues, 'dtype'>,
  { statistics }: Pick<DumpSettings, 'statistics'>,
): FloatDType => (dtype === 'int8' || statistics ? 'float32' : dtype);

export function toStored(values: Float32Array, dtype: FloatDType): StoredFloats {
  if (dtype === 'float32') return values;
  const rounded = dtype === 'float16' ? floatToFloat16 : floatToBfloat16;
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = rounded(values[i] as number);
  return bits;
}

export function fromStored(stored: StoredFloats, dtype: FloatDType): Float32Array {
  return toFloat32({ dtype, shape: [stored.length], data: stored });
}

export interface Quantized {
  /** [vectors, width] */
  readonly integers: Int8Array;
  /** [vectors] */
  readonly scales: Float32Array;
}

/**
 * `values` [vectors, width], each vector with a scale of its own: the largest magnitude over 127. A value is off by
 * half the scale at most.
 * @throws RangeError when a value is not finite.
 */
export function quantized(values: Float32Array, width: number): Quantized {
  const vectors = values.length / width;
  const integers = new Int8Array(values.length);
  const scales = new Float32Array(vectors);
  for (let vector = 0; vector < vectors; vector++) {
    const [from, to] = [vector * width, (vector + 1) * width];
    let largest = 0;
    for (let i = from; i < to; i++) {
      const magnitude = Math.abs(values[i] as number);
      if (!(magnitude < Infinity)) throw new RangeError(`${values[i]} is not finite, which int8 cannot hold`);
      if (magnitude > largest) largest = magnitude;
    }
    scales[vector] = largest / 127;
    const scale = scales[vector] as number;
    if (scale === 0) continue; // all are 0, or too small for float32
    // a scale below the smallest normal number is not exact enough to keep within 127
    for (let i = from; i < to; i++) {
      integers[i] = Math.max(-127, Math.min(127, Math.round((values[i] as number) / scale)));
    }
  }
  return { integers, scales };
}

/** The values of quantized vectors. */
export function dequantized({ integers, scales }: Quantized): Float32Array {
  const values = new Float32Array(integers.length);
  const width = scales.length > 0 ? integers.length / scales.length : 0;
  for (let vector = 0; vector < scales.length; vector++) {
    const scale = scales[vector] as number;
    for (let i = vector * width; i < (vector + 1) * width; i++) values[i] = (integers[i] as number) * scale;
  }
  return values;
}
