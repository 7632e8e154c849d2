// Fills a tensor with one value.
import { checkNumber, checkOperands, wrong } from '../check.js';
import { checkWritable } from './overlap.js';
import type { Tensor } from './tensor.js';

export function fill(t: Tensor, value: number): void {
  checkOperands('fill', { tensor: t });
  checkWritable('fill', 'the tensor', t);
  checkNumber('fill', 'value', value);
  const expected =
    t.dtype === 'int32' && (value | 0) !== value
      ? 'an integer of 32 bits, as the tensor is int32'
      : t.dtype === 'bool' && value !== 0 && value !== 1
        ? '0 or 1, as the tensor is bool'
        : undefined;
  if (expected) throw new RangeError(wrong('fill', 'value', expected, String(value)));
  t.device.run('fill', t.handle, value);
}
