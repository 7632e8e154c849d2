// The bytes of a shard: a safetensors file whose header and positions follow from the settings, the rows and the
// numbers of active latents. The writer and the reader share this, so that a file either is exactly as it must be or
// is refused.
import type { HostDType } from '../files/host_tensor.js';
import { type PlacedTensor, type PlannedTensor, safetensorsHeader } from '../files/safetensors_header.js';
import type { DumpSettings } from './plan.js';

export const latentsName = (location: string): string => `${location}/latents`;

/** The dtype of latent numbers: two bytes as long as they fit. */
export const indexDType = (latents: number): HostDType => (latents <= 65_536 ? 'uint16' : 'int32');

/**
 * The tensors of a shard in the order of the file: first those whose size follows from the number of rows, then the
 * entries of the latents, whose number is known when the last batch is done. Wider elements come first, so that each
 * tensor is aligned.
 */
export function shardTensors(
  settings: DumpSettings,
  rows: number,
  entries: readonly number[],
): (readonly [name: string, tensor: PlannedTensor])[] {
  const { context, autoencoders, locations, dtype } = settings;
  const positions = { dtype: 'int32', shape: [rows, context] } as const;
  const pointers = autoencoders.map(({ location }) => {
    return [`${latentsName(location)}.row_ptr`, { dtype: 'int64', shape: [rows * context + 1] }] as const;
  });
  const dense = locations.map(({ location, shape }) => [location, { dtype, shape: [rows, ...shape] }] as const);
  const indices = autoencoders.map(({ location, latents }, i) => {
    return [`${latentsName(location)}.indices`, { dtype: indexDType(latents), shape: [entries[i] as number] }] as const;
  });
  const values = autoencoders.map(({ location }, i) => {
    return [`${latentsName(location)}.values`, { dtype, shape: [entries[i] as number] }] as const;
  });
  const wide = ([, tensor]: readonly [string, PlannedTensor]) => tensor.dtype === 'int32' || tensor.dtype === 'float32';
  const appended = [...indices, ...values];
  return [
    ...pointers,
    ['tokens', positions],
    ['document', positions],
    ...dense,
    ...appended.filter(wide),
    ...appended.filter((tensor) => !wide(tensor)),
  ];
}

/**
 * Everything that is known of a shard of `rows` rows whose latents have so many entries, autoencoder by autoencoder.
 */
export class ShardLayout {
  /** As long as it would be if every latent were active everywhere, so that it can be written last. */
  readonly header: Buffer;
  /** Of the whole file. */
  readonly bytes: number;
  readonly #placed: Map<string, PlacedTensor>;

  /** @throws RangeError or TypeError when there can be no such file: a size is too large, or a name comes twice. */
  constructor(settings: DumpSettings, rows: number, entries: readonly number[]) {
    const most = settings.autoencoders.map(({ latents }) => latents * rows * settings.context);
    const longest = safetensorsHeader(shardTensors(settings, rows, most)).header.length;
    const { header, placed, bytes } = safetensorsHeader(shardTensors(settings, rows, entries));
    this.header = Buffer.alloc(64 * Math.ceil(longest / 64), ' ');
    this.header.set(header);
    this.header.writeBigUInt64LE(BigInt(this.header.length - 8), 0);
    const shift = this.header.length - header.length;
    this.bytes = bytes + shift;
    this.#placed = new Map([...placed].map(([name, at]) => [name, { ...at, byteOffset: at.byteOffset + shift }]));
  }

  /** With no entries yet: the positions of what does not depend on them, and the end of it. */
  static beforeLatents(settings: DumpSettings, rows: number): ShardLayout {
    return new ShardLayout(
      settings,
      rows,
      settings.autoencoders.map(() => 0),
    );
  }

  tensor(name: string): PlacedTensor {
    const placed = this.#placed.get(name);
    if (placed) return placed;
    throw new Error(`a shard has no tensor ${name}`);
  }

  /** Byte position of a tensor in the file. */
  offset(name: string): number {
    return this.tensor(name).byteOffset;
  }
}
