// The digests of a program's results, by name.
import { createHash, type Hash } from 'node:crypto';
import type { Device } from '../../src/engine/device.js';
import type { Tensor } from '../../src/engine/ops/tensor.js';
import type { Float } from './runs.js';
import { bytesOf, Values } from './values.js';

export class Digests extends Values {
  readonly #hashes = new Map<string, Hash>();
  readonly #anyNaN: boolean;

  /** anyNaN: every NaN of a dtype counts as the same one. */
  constructor(device: Device, dtype: Float, { anyNaN = false } = {}) {
    super(device, dtype, 1);
    this.#anyNaN = anyNaN;
  }

  /** Adds bytes to the digest of that name. */
  add(name: string, bytes: Uint8Array | string): void {
    const hash = this.#hashes.get(name) ?? createHash('sha256');
    this.#hashes.set(name, hash);
    hash.update(bytes);
  }

  /** Adds the shape, the dtype and the bits of tensors, and disposes of them. */
  async take(name: string, ...tensors: Tensor[]): Promise<void> {
    const all = await Promise.all(tensors.map(bytesOf));
    for (const [i, t] of tensors.entries()) {
      const bytes = all[i] as Uint8Array;
      if (this.#anyNaN) oneNaN(t.dtype, bytes);
      this.add(name, `${t.dtype} ${t.shape}\n`);
      this.add(name, bytes);
      t.dispose();
    }
  }

  /** The digests so far, in the order in which their names came. */
  result(): Record<string, string> {
    return Object.fromEntries([...this.#hashes].map(([name, hash]) => [name, hash.copy().digest('hex').slice(0, 12)]));
  }
}

function oneNaN(dtype: string, bytes: Uint8Array): void {
  if (dtype === 'int32' || dtype === 'bool') return;
  const [words, infinity, nan] =
    dtype === 'float32'
      ? [new Uint32Array(bytes.buffer), 0x7f800000, 0x7fc00000]
      : [new Uint16Array(bytes.buffer), dtype === 'float16' ? 0x7c00 : 0x7f80, 0x7fff];
  const size = dtype === 'float32' ? 0x7fffffff : 0x7fff;
  for (let i = 0; i < words.length; i++) if (((words[i] as number) & size) > infinity) words[i] = nan;
}
