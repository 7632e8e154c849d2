// Copies between any strides and dtypes.
import { checkOperands } from '../check.js';
import { recordWrite } from '../record.js';
import { checkWritable, withSafeInput } from './overlap.js';
import type { Tensor } from './tensor.js';
import { broadcastTo } from './views.js';

/** out = x, converted to out's dtype; x must broadcast to out's shape. Returns out. */
export function copy(operation: string, out: Tensor, x: Tensor): Tensor {
  checkOperands(operation, { tensor: out, other: x });
  checkWritable(operation, 'the tensor', out);
  const source = broadcastTo(operation, 'other', x, out);
  recordWrite(operation, out, [source], () => (g) => [g]);
  withSafeInput(out, source, (safe) => out.device.run('copy', out, safe));
  return out;
}
