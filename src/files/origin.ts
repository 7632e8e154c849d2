// Remembers which file the bytes of a tensor came from, without a mark on the tensor: whoever copies a state dict, or
// some of its entries, keeps the origin, and who copies the numbers themselves loses it.
import type { HostTensor } from './host_tensor.js';

const origins = new WeakMap<ArrayBufferLike, string>();

/** The path (absolute) or address that bytes were read from; undefined when that is not known. */
export const originOfBytes = ({ buffer }: ArrayBufferView): string | undefined => origins.get(buffer);

/** The same of a tensor's data. */
export const originOf = ({ data }: HostTensor): string | undefined => originOfBytes(data);

/** Remembers the origin of bytes that are alone in their buffer. */
export function rememberOrigin({ buffer }: ArrayBufferView, origin: string | undefined): void {
  if (origin !== undefined) origins.set(buffer, origin);
}
