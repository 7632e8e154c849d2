// A tensor in host memory, as files hold it.
import { byteWidth, type DType, type HostArray } from '../dtype.js';
import type { Tensor } from './tensor.js';

/** A host copy that keeps 16-bit floats as their bits. */
export async function toHost(t: Tensor): Promise<{ dtype: DType; shape: number[]; data: HostArray | Uint16Array }> {
  const { dtype, shape } = t;
  if (byteWidth(dtype) !== 2) return { dtype, shape: [...shape], data: await t.read() };
  const data = new Uint16Array(t.size);
  await t.readInto(data);
  return { dtype, shape: [...shape], data };
}
