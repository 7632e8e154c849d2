// Fills a tensor with one value.
import { checkNumber, checkOperands, wrong } from '../check.js';
import type { DType } from '../dtype.js';
import { noGradients, recordWrite } from '../record.js';
import { checkWritable } from './overlap.js';
import type { Tensor } from './tensor.js';

export function fill(t: Tensor, value: number): void {
  checkOperands('fill', { tensor: t });
  checkWritable('fill', 'the tensor', t);
  checkFillValue('fill', t.dtype, value);
  recordWrite<Tensor>('fill', t, [], noGradients);
  t.device.run('fill', t, value);
}

/** Demands a number that a tensor of `dtype` can be filled with: floats are rounded, others must hold it. */
export function checkFillValue(operation: string, dtype: DType, value: unknown): number {
  const number = checkNumber(operation, 'value', value);
  const expected =
    dtype === 'int32' && (number | 0) !== number
      ? 'an integer of 32 bits, as the tensor is int32'
      : dtype === 'bool' && number !== 0 && number !== 1
        ? '0 or 1, as the tensor is bool'
        : undefined;
  if (expected) throw new RangeError(wrong(operation, 'value', expected, String(number)));
  return number;
}
