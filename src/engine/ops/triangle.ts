// One side of a diagonal of matrices, the rest set to zero.
import { checkInteger, checkOperands, checkRank } from '../check.js';
import { hasHistory, record, recordWrite } from '../record.js';
import { checkWritable } from './overlap.js';
import type { Tensor } from './tensor.js';

function check(operation: string, x: Tensor, diagonal: number): void {
  checkOperands(operation, { tensor: x });
  checkRank(operation, 'the tensor', x, 2);
  checkInteger(operation, 'diagonal', diagonal, -(2 ** 31), 2 ** 31);
}

function outOfPlace(operation: string, x: Tensor, diagonal: number, upper: boolean): Tensor {
  check(operation, x, diagonal);
  const out = x.make(x.shape);
  x.device.run('triangle', out, x, diagonal, upper);
  if (hasHistory(x)) {
    record(operation, [out], [x], () => (g) => [outOfPlace(operation, g as Tensor, diagonal, upper)]);
  }
  return out;
}

function inPlace(operation: string, x: Tensor, diagonal: number, upper: boolean): void {
  check(operation, x, diagonal);
  checkWritable(operation, 'the tensor', x);
  recordWrite(operation, x, [x], () => (g) => [outOfPlace(operation, g as Tensor, diagonal, upper)]);
  x.device.run('triangle', x, x, diagonal, upper);
}

/**
 * x [..., M, N] where column - row <= diagonal, else 0 (false): the lower triangle of each matrix. Any dtype. Of ones
 * or of a bool tensor of ones it is a mask.
 * @throws RangeError for fewer than two dimensions, or a diagonal that is no integer of 32 bits.
 */
export const tril = (x: Tensor, diagonal = 0): Tensor => outOfPlace('tril', x, diagonal, false);
export const trilInPlace = (x: Tensor, diagonal = 0): void => inPlace('tril_', x, diagonal, false);

/** x [..., M, N] where column - row >= diagonal, else 0 (false): the upper triangle of each matrix. As tril. */
export const triu = (x: Tensor, diagonal = 0): Tensor => outOfPlace('triu', x, diagonal, true);
export const triuInPlace = (x: Tensor, diagonal = 0): void => inPlace('triu_', x, diagonal, true);
