// Chosen rows of a matrix, and chosen elements of a vector.
import { embedding } from '../engine/ops/embedding.js';
import type { Tensor } from '../engine/ops/tensor.js';

/** Rows of a table of floats [n, width] by their indices, int32 [m]: a new tensor [m, width]. */
export const gatheredRows = (table: Tensor, indices: Tensor): Tensor => embedding(indices, table);

/** Elements of a vector [n], of floats or int32, by their indices, int32 [m]: a new tensor [m] of its dtype, exact. */
export function gatheredValues(vector: Tensor, indices: Tensor): Tensor {
  if (vector.dtype !== 'int32') {
    using rows = gatheredRows(vector.reshape(-1, 1), indices);
    return rows.transferTo([indices.size]);
  }
  // A float32 holds 24 bits of an integer: the two parts are gathered by themselves. The divisor is a little above 2^16,
  // so that what is rounded up is not beyond int32 when it is multiplied again.
  using wide = vector.to('float32');
  using quotient = wide.div(2 ** 16 + 4);
  using high = quotient.to('int32');
  using product = high.mul(2 ** 16);
  using low = vector.sub(product);
  const gathered = (part: Tensor): Tensor => {
    using floats = part.to('float32');
    using some = gatheredValues(floats, indices);
    return some.to('int32');
  };
  using highs = gathered(high);
  using lows = gathered(low);
  using products = highs.mul(2 ** 16);
  return products.add(lows);
}
