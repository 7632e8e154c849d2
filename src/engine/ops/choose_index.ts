// Chooses an index from each row of probabilities or logits, where they lie.
import { checkDType, checkOperands, checkShape, wrong } from '../check.js';
import { noGradients, recordWrite } from '../record.js';
import { maxIndexed, showShape } from '../shape.js';
import { withContiguous } from './contiguous.js';
import { checkWritable, overlaps } from './overlap.js';
import type { Tensor } from './tensor.js';

/**
 * Writes to out int32 [2, rows] the index that is chosen from each row of x float32 [rows, n], and 1; or 0 and 0 where
 * there is none to choose.
 *
 * With random int32 [rows, 2], x holds probabilities. Their index is the one that draw() of sampling.ts gives for u =
 * (random[r][0] * 2^26 + random[r][1]) / 2^53; there is none where the row's first one is NaN.
 *
 * Without it, x holds logits. Their index is the one that greedy() gives: of the largest, of equals the first. There is
 * none where one is NaN or +inf, or all are -inf.
 */
export function chooseIndex(out: Tensor, x: Tensor, random?: Tensor): void {
  const device = checkOperands('chooseIndex', { out, x }, { optional: { random } });
  const [rows, n] = x.shape as [number, number];
  if (x.shape.length !== 2 || n < 1 || n > maxIndexed) {
    throw new RangeError(wrong('chooseIndex', 'x', `[rows, 1 to ${maxIndexed}]`, showShape(x.shape)));
  }
  checkDType('chooseIndex', 'x', x, 'float32');
  checkShape('chooseIndex', 'out', out.shape, [2, rows], 'an index and a flag for each row of x');
  checkDType('chooseIndex', 'out', out, 'int32');
  checkWritable('chooseIndex', 'out', out);
  if (!out.isContiguous) throw new RangeError(wrong('chooseIndex', 'out', 'contiguous', 'a strided view'));
  if (random) {
    checkShape('chooseIndex', 'random', random.shape, [rows, 2], 'two words for each row of x');
    checkDType('chooseIndex', 'random', random, 'int32');
  }
  recordWrite<Tensor>('chooseIndex', out, [x], noGradients);
  // Rows of x may lie apart, as those of the last tokens do.
  const fits = (t: Tensor) => (t === x ? n === 1 || t.strides[1] === 1 : t.isContiguous && !overlaps(out, t));
  withContiguous([x, random], (values, words) => device.run('chooseIndex', out, values as Tensor, words ?? null), fits);
}
