// The encoder of a sparse autoencoder: rows straight to CSR, the dense latents never in memory.
import {
  checkBoolean,
  checkDType,
  checkFloat,
  checkInteger,
  checkNumber,
  checkOperands,
  checkOptions,
  checkRank,
  checkShape,
  describe,
  type OptionNames,
  wrong,
} from '../check.js';
import { native } from '../native.js';
import { MatrixArgument } from '../native_arguments.js';
import { checkNotRecorded } from '../record.js';
import { rowCount, showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import type { PackedMatrix } from './pack_weights.js';
import { checkBias, type Precision, precisionCode } from './product.js';
import type { Tensor } from './tensor.js';

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
  /**
   * float32 [N]: a column's values must be larger than its own threshold, too; one that is NaN counts as none. Only
   * with k = 0 and relu.
   */
  thresholds?: Tensor;
  /** Only look at each row's k largest, of which NaN is one; at all of its values when k is 0, the default. */
  k?: number;
  /**
   * Keep positive values only (default); without it, the values whose magnitude is above the threshold. A NaN is kept
   * in either case.
   */
  relu?: boolean;
  precision?: Precision;
  /**
   * Leave out sums that cannot pass, which products of 8-bit integers show, where that is faster (default). At the first
   * such call, the matrix is packed once more for it: a quarter of the bytes of its float32 values. It changes no bit.
   */
  filter?: boolean;
}
const sparseEncodeOptions: OptionNames<SparseEncodeOptions> = {
  bias: true,
  threshold: true,
  thresholds: true,
  k: true,
  relu: true,
  precision: true,
  filter: true,
};

/**
 * The values of x w + bias that pass: x [..., K], w [K, N]; a row for each of x's.
 * @throws RangeError for thresholds beside a k that is not 0, or without relu.
 */
export async function sparseEncode(
  x: Tensor,
  w: PackedMatrix,
  options: SparseEncodeOptions = {},
): Promise<SparseLatents> {
  checkOptions('sparseEncode', options, sparseEncodeOptions);
  const { bias, threshold = 0, thresholds, k = 0, relu = true, precision, filter = true } = options;
  const device = checkOperands('sparseEncode', { x }, { packed: { w }, optional: { bias, thresholds } });
  checkBoolean('sparseEncode', 'relu', relu);
  checkBoolean('sparseEncode', 'filter', filter);
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
  if (bias) checkBias('sparseEncode', bias, w.n);
  if (thresholds) {
    checkDType('sparseEncode', 'thresholds', thresholds, 'float32');
    checkShape('sparseEncode', 'thresholds', thresholds.shape, [w.n], 'the width of the product');
    if (k > 0) throw new RangeError(wrong('sparseEncode', 'k', '0 where there are thresholds', String(k)));
    if (!relu) throw new RangeError(wrong('sparseEncode', 'relu', 'true where there are thresholds', String(relu)));
  }
  const operands = { x, w, bias, thresholds };
  for (const [argument, t] of Object.entries(operands)) checkNotRecorded('sparseEncode', argument, t);
  const rows = rowCount(x.shape);
  const csr = native.csr(rows);
  // without rows, or where values of both signs may pass, there is nothing to leave out
  const usesFilter = filter && rows > 0 && (relu || k > 0);
  withContiguous([x, bias, thresholds], (x, bias, thresholds) => {
    const rowsOfX = new MatrixArgument(x, rows, w.k);
    const sums = usesFilter ? w.filterFor(rows) : null;
    const columns = [bias ?? null, thresholds ?? null] as const;
    device.run('sparseEncode', csr, rowsOfX, w, sums, ...columns, threshold, k, relu, code);
  });
  return device.settled(native.readCsr(device.handle, csr));
}
