// The decoder of a sparse autoencoder: CSR rows times a matrix, the dense latents never in memory.
import { checkDTypeName, checkOperands, checkOptions, describe, wrong } from '../check.js';
import type { DType } from '../dtype.js';
import { checkNotRecorded } from '../record.js';
import { withContiguous } from './contiguous.js';
import type { PackedMatrix } from './pack_weights.js';
import { checkBias } from './product.js';
import type { SparseLatents } from './sparse_encode.js';
import { Tensor } from './tensor.js';

/** The dense rows that CSR rows stand for, times w [K, N], plus bias: [rows, N] of `dtype` (w's by default). */
export function sparseDecode(
  sparse: SparseLatents,
  w: PackedMatrix,
  options: { bias?: Tensor; dtype?: DType } = {},
): Tensor {
  checkOptions('sparseDecode', options, { bias: true, dtype: true });
  const { bias } = options;
  const device = checkOperands('sparseDecode', {}, { packed: { w }, optional: { bias } });
  const { dtype = w.dtype } = options;
  checkDTypeName('sparseDecode', dtype, { floats: true });
  const { rowPtr, indices, values } = sparse ?? ({} as Partial<SparseLatents>);
  if (!(rowPtr instanceof BigInt64Array && indices instanceof Int32Array && values instanceof Float32Array)) {
    throw new TypeError(
      wrong(
        'sparseDecode',
        'sparse',
        '{ rowPtr: BigInt64Array, indices: Int32Array, values: Float32Array }',
        describe(sparse),
      ),
    );
  }
  if (rowPtr.length === 0 || indices.length !== values.length || Number(rowPtr[rowPtr.length - 1]) !== indices.length) {
    const sizes = `${rowPtr.length}, ${indices.length} and ${values.length} long`;
    throw new RangeError(
      wrong('sparseDecode', 'sparse', 'rows + 1 pointers that end at the number of indices and values', sizes),
    );
  }
  if (rowPtr[0] !== 0n || indices.length >= 2 ** 31) {
    const expected = 'pointers that begin at 0, and fewer than 2^31 entries';
    throw new RangeError(wrong('sparseDecode', 'sparse', expected, `${rowPtr[0]}, and ${indices.length}`));
  }
  if (bias) checkBias('sparseDecode', bias, w.n);
  for (const [argument, t] of Object.entries({ w, bias })) checkNotRecorded('sparseDecode', argument, t);
  using pointers = Tensor.upload('sparseDecode', rowPtr, { device, dtype: 'int32' });
  using columns = Tensor.from(indices, { device });
  using kept = Tensor.from(values, { device });
  const out = Tensor.empty([rowPtr.length - 1, w.n], { device, dtype });
  withContiguous([bias], (b) => device.run('sparseDecode', out, pointers, columns, kept, w, b ?? null));
  return out;
}
