// Row-major versions of tensors for the length of a call: kernels that want rows in one piece get a copy where it is needed.
import type { Tensor } from './tensor.js';

/**
 * Calls body with the tensors for which `fits` holds as they are, and with copies of the others, which are freed as soon as
 * the call is queued. Undefined ones stay undefined.
 */
export function withContiguous<const T extends readonly (Tensor | undefined)[], R>(
  tensors: T,
  body: (...rows: T) => R,
  fits: (t: Tensor) => boolean = (t) => t.isContiguous,
): R {
  const copies: Tensor[] = [];
  const rows = tensors.map((t) => {
    if (!t || fits(t)) return t;
    copies.push(t.clone());
    return copies[copies.length - 1];
  });
  try {
    return body(...(rows as unknown as T));
  } finally {
    for (const copy of copies) copy.dispose();
  }
}
