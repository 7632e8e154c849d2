// Contiguous copies of strided views, for kernels that need contiguous rows, for the length of a call.
import type { Tensor } from './tensor.js';

/**
 * Calls body with each tensor for which `fits` holds, and with a contiguous copy of each other one. The copies are not
 * recorded, and freed as soon as the call is queued. An undefined tensor stays undefined.
 */
export function withContiguous<const T extends readonly (Tensor | undefined)[], R>(
  tensors: T,
  body: (...rows: T) => R,
  fits: (t: Tensor) => boolean = (t) => t.isContiguous,
): R {
  if (tensors.every((t) => !t || fits(t))) return body(...tensors);
  const copies: Tensor[] = [];
  const rows = tensors.map((t) => {
    if (!t || fits(t)) return t;
    copies.push(t.detach().clone());
    return copies[copies.length - 1];
  });
  try {
    return body(...(rows as unknown as T));
  } finally {
    for (const copy of copies) copy.dispose();
  }
}
