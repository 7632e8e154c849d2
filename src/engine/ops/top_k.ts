// The k largest of each row: as values and indices, or as the row with the rest set to zero.
import { checkBoolean, checkInteger, checkOperands, checkOptions, checkRank, wrong } from '../check.js';
import { type Backward, hasHistory, type Keep, record } from '../record.js';
import { withTemporaries } from '../scope.js';
import { maxIndexed, showShape } from '../shape.js';
import { gradientOfGathered } from './gather.js';
import type { Tensor } from './tensor.js';

const width = (x: Tensor): number => x.shape[x.shape.length - 1] as number;

export function topK(x: Tensor, k: number): { values: Tensor; indices: Tensor } {
  const device = checkOperands('topk', { tensor: x });
  checkRank('topk', 'the tensor', x, 1);
  checkInteger('topk', 'k', k, 0, width(x));
  if (width(x) > maxIndexed) {
    throw new RangeError(wrong('topk', 'the tensor', `of rows of at most ${maxIndexed} elements`, showShape(x.shape)));
  }
  const shape = [...x.shape.slice(0, -1), k];
  const values = x.make(shape);
  const indices = x.make(shape, 'int32');
  device.run('topK', values, indices, x);
  if (hasHistory(x)) {
    record('topk', [values, indices], [x], (keep) => {
      const at = keep(indices);
      return (g) => [gradientOfGathered(x.shape, -1, at.tensor, g as Tensor)];
    });
  }
  return { values, indices };
}

/** The gradients of x: those of the elements that are left. */
function backwardOfMask(x: Tensor, k: number, relu: boolean, out: Tensor, keep: Keep<Tensor>): Backward<Tensor> {
  if (relu) {
    const kept = keep(out);
    return (g) => withTemporaries((own) => [own(kept.tensor.le(0)).where(0, g as Tensor)]);
  }
  const kept = keep(x);
  return (g) =>
    withTemporaries((own) => {
      const { values, indices } = topK(kept.tensor, k);
      own(values);
      const left = own((g as Tensor).gather(-1, own(indices)));
      return [gradientOfGathered(x.shape, -1, indices, left)];
    });
}

/**
 * x where it is among its row's k largest (of equals, the lower indices), else 0; with relu negative survivors become
 * 0.
 */
export function topKMask(x: Tensor, k: number, options: { relu?: boolean } = {}): Tensor {
  checkOptions('topKMask', options, { relu: true });
  const { relu = true } = options;
  checkBoolean('topKMask', 'relu', relu);
  const device = checkOperands('topKMask', { x });
  checkRank('topKMask', 'x', x, 1);
  checkInteger('topKMask', 'k', k, 0, width(x));
  const out = x.make(x.shape);
  device.run('topKMask', out, x, k, relu);
  if (hasHistory(x)) record('topKMask', [out], [x], (keep) => backwardOfMask(x, k, relu, out, keep));
  return out;
}
