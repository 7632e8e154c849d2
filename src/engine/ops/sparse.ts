// Sparse autoencoder kernels: rows straight to CSR, and back, the dense latents never in memory.
import {
  checkDType,
  checkFloat,
  checkInteger,
  checkNumber,
  checkOperands,
  checkRank,
  checkShape,
  describe,
  wrong,
} from '../check.js';
import type { DType } from '../dtype.js';
import { native } from '../native.js';
import { rowCount, showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { type Precision, precisionCode } from './matmul.js';
import type { PackedMatrix } from './packed_matrix.js';
import { Tensor } from './tensor.js';

/** Rows of latents in CSR form, in host memory: row r's entries are rowPtr[r] to rowPtr[r + 1], indices ascending. */
export interface SparseLatents {
  readonly rowPtr: BigInt64Array;
  readonly indices: Int32Array;
  readonly values: Float32Array;
}

export interface SparseEncodeOptions {
  bias?: Tensor;
  /** Keep values larger than this, 0 or more. */
  threshold?: number;
  /** Only look at each row's k largest. */
  k?: number;
  /** Keep positive values only (default); without it, those whose magnitude is above the threshold. */
  relu?: boolean;
  precision?: Precision;
}

/** The values of x w + bias that pass: x [..., K], w [K, N]; a row for each of x's. */
export async function sparseEncode(
  x: Tensor,
  w: PackedMatrix,
  options: SparseEncodeOptions = {},
): Promise<SparseLatents> {
  const { bias, threshold = 0, k = 0, relu = true, precision } = options;
  const device = checkOperands('sparseEncode', { x, w, bias });
  const code = precisionCode('sparseEncode', precision);
  checkRank('sparseEncode', 'x', x, 1);
  checkFloat('sparseEncode', 'x', x);
  checkInteger('sparseEncode', 'k', k, 0, w.n);
  if (!(checkNumber('sparseEncode', 'threshold', threshold) >= 0)) {
    throw new RangeError(wrong('sparseEncode', 'threshold', '0 or more', describe(threshold)));
  }
  if (x.shape[x.shape.length - 1] !== w.k) {
    throw new RangeError(wrong('sparseEncode', 'x', `[..., ${w.k}] (w is [${w.k}, ${w.n}])`, showShape(x.shape)));
  }
  if (bias) checkShape('sparseEncode', 'bias', bias.shape, [w.n], 'the columns of w');
  const rows = rowCount(x.shape);
  const csr = native.csr(rows);
  withContiguous([x, bias], (x, bias) =>
    device.run(
      'sparseEncode',
      csr,
      x.reshape(rows, w.k).handle,
      w.handle,
      bias?.handle ?? null,
      threshold,
      k,
      relu,
      code,
    ),
  );
  return device.settled(native.readCsr(device.handle, csr));
}

/** The dense rows that CSR rows stand for, times w [K, N], plus bias: [rows, N] of `dtype` (w's by default). */
export function sparseDecode(
  sparse: SparseLatents,
  w: PackedMatrix,
  { bias, dtype = w.dtype }: { bias?: Tensor; dtype?: DType } = {},
): Tensor {
  const device = checkOperands('sparseDecode', { w, bias });
  const { rowPtr, indices, values } = sparse;
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
  if (bias) checkShape('sparseDecode', 'bias', bias.shape, [w.n], 'the columns of w');
  using pointers = Tensor.from(rowPtr, { device, dtype: 'int32' });
  using columns = Tensor.from(indices, { device });
  using kept = Tensor.from(values, { device });
  const out = Tensor.empty([rowPtr.length - 1, w.n], { device, dtype });
  withContiguous([bias], (b) =>
    device.run('sparseDecode', out.handle, pointers.handle, columns.handle, kept.handle, w.handle, b?.handle ?? null),
  );
  return out;
}

/** stats int32 [N], in place: 0 where some row of latents [..., N] is not zero in that column, then 1 added everywhere. */
export function updateLastNonzero(stats: Tensor, latents: Tensor): void {
  const device = checkOperands('updateLastNonzero', { stats, latents });
  const n = latents.shape[latents.shape.length - 1] as number;
  checkShape('updateLastNonzero', 'stats', stats.shape, [n], 'the columns of latents');
  checkDType('updateLastNonzero', 'stats', stats, 'int32');
  withContiguous([latents], (rows) =>
    device.run('updateLastNonzero', stats.handle, rows.reshape(rowCount(rows.shape), n).handle),
  );
}
