// Products of two vectors.
import { checkOperands, checkShape, wrong } from '../check.js';
import { isFloat, promote } from '../dtype.js';
import { showShape } from '../shape.js';
import { mul } from './binary.js';
import { sum } from './reduce.js';
import type { Tensor } from './tensor.js';
import { unsqueeze } from './view_operations.js';

function checkVectors(operation: string, a: Tensor, b: Tensor): void {
  checkOperands(operation, { a, b });
  for (const [argument, { shape }] of Object.entries({ a, b })) {
    if (shape.length !== 1) throw new RangeError(wrong(operation, argument, 'of one dimension', showShape(shape)));
  }
}

/**
 * The sum of a b over the dimensions from `dim` on, of two tensors of one shape: products in float32, their sum in
 * double precision, rounded once to the dtype of both together. 16-bit floats are widened before, so that their
 * products are exact. int32 is exact: a product or a sum that int32 does not hold fails the operation.
 */
export function sumOfProducts(a: Tensor, b: Tensor, dim: number): Tensor {
  const dtype = promote(a.dtype, b.dtype);
  if (!isFloat(dtype) || dtype === 'float32') {
    using products = mul(a, b);
    return sum(products.flatten(dim), -1);
  }
  using wide = a.to('float32');
  using total = sumOfProducts(wide, b, dim);
  return total.to(dtype);
}

/**
 * The sum of a[i] b[i]: a and b [N] -> []. dtypes are promoted as in mul. Products are in float32 and their sum in
 * double precision, rounded once; those of 16-bit floats are exact. int32 is exact: a product or a sum that int32 does
 * not hold fails the operation, and the next read() or synchronize() rejects.
 * @throws RangeError for other shapes.
 */
export function dot(a: Tensor, b: Tensor): Tensor {
  checkVectors('dot', a, b);
  checkShape('dot', 'b', b.shape, a.shape, 'the shape of a');
  return sumOfProducts(a, b, 0);
}

/**
 * a[i] b[j]: a [M], b [N] -> [M, N], by the rules of mul.
 * @throws RangeError unless both have one dimension.
 */
export function outer(a: Tensor, b: Tensor): Tensor {
  checkVectors('outer', a, b);
  return mul(unsqueeze(a, 1), b);
}
