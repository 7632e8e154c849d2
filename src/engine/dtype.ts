// The element types of tensors: widths, host arrays and promotion.

export type DType = 'float32' | 'bfloat16' | 'float16' | 'int32' | 'bool';

/**
 * The arrays that `read()` gives: float32, bfloat16 and float16 as Float32Array, int32 as Int32Array, bool as
 * Uint8Array.
 */
export type HostArray = Float32Array | Int32Array | Uint8Array;

// The order is that of DType in native/ops.h.
export const dtypes: readonly DType[] = ['float32', 'bfloat16', 'float16', 'int32', 'bool'];
const bytes: Record<DType, number> = { float32: 4, bfloat16: 2, float16: 2, int32: 4, bool: 1 };

export const dtypeCode = (dtype: DType): number => dtypes.indexOf(dtype);
export const byteWidth = (dtype: DType): number => bytes[dtype];
export const isFloat = (dtype: DType): boolean => dtype === 'float32' || dtype === 'bfloat16' || dtype === 'float16';

/** The dtype in which `read()` hands out values of `dtype`. */
export const hostDType = (dtype: DType): DType => (isFloat(dtype) ? 'float32' : dtype);

export function hostArray(dtype: DType, size: number): HostArray {
  if (isFloat(dtype)) return new Float32Array(size);
  return dtype === 'int32' ? new Int32Array(size) : new Uint8Array(size);
}

/** x, but every NaN as the same one: the sign of a NaN that JavaScript computes depends on the processor. */
export const canonical = (x: number): number => (Number.isNaN(x) ? Number.NaN : x);

/** The dtype of `a op b`: floats win over int32, int32 over bool, and two different floats meet in float32. */
export function promote(a: DType, b: DType): DType {
  if (a === b) return a;
  if (isFloat(a) && isFloat(b)) return 'float32';
  if (isFloat(a)) return a;
  if (isFloat(b)) return b;
  return 'int32';
}

/** `dtype` if it is a float, else float32. */
export const floatDType = (dtype: DType): DType => (isFloat(dtype) ? dtype : 'float32');
