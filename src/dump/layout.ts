// The bytes of a shard: a safetensors file (8 bytes with the header's length, a header of JSON, the tensors without gaps)
// whose header and positions follow from the settings, the rows and the numbers of active latents. The writer and the
// reader share this, so that a file either is exactly as it must be or is refused.
import type { DumpDType, DumpSettings } from './plan.js';

export type StoredDType = 'I64' | 'I32' | 'U16' | 'F16' | 'BF16' | 'F32';

export interface StoredTensor {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
}

export const storedWidth: Record<StoredDType, number> = { I64: 8, I32: 4, U16: 2, F16: 2, BF16: 2, F32: 4 };
export const storedFloat: Record<DumpDType, StoredDType> = { float16: 'F16', bfloat16: 'BF16', float32: 'F32' };
export const latentsName = (location: string): string => `${location}/latents`;
/** The dtype of latent numbers: two bytes as long as they fit. */
export const indexDType = (latents: number): 'U16' | 'I32' => (latents <= 65_536 ? 'U16' : 'I32');

/**
 * The tensors of a shard in the order of the file: first those whose size follows from the number of rows, then the
 * entries of the latents, whose number is known when the last batch is done. Wider elements come first, so that each
 * tensor is aligned.
 */
export function shardTensors(settings: DumpSettings, rows: number, entries: readonly number[]): StoredTensor[] {
  const { context, autoencoders, locations, dtype } = settings;
  const pointers = autoencoders.map(({ location }): StoredTensor => {
    return { name: `${latentsName(location)}.row_ptr`, dtype: 'I64', shape: [rows * context + 1] };
  });
  const dense = locations.map(({ location, shape }): StoredTensor => {
    return { name: location, dtype: storedFloat[dtype], shape: [rows, ...shape] };
  });
  const appended = autoencoders.flatMap(({ location, latents }, i): StoredTensor[] => {
    const shape = [entries[i] as number];
    return [
      { name: `${latentsName(location)}.indices`, dtype: indexDType(latents), shape },
      { name: `${latentsName(location)}.values`, dtype: storedFloat[dtype], shape },
    ];
  });
  return [
    ...pointers,
    { name: 'tokens', dtype: 'I32', shape: [rows, context] },
    { name: 'document', dtype: 'I32', shape: [rows, context] },
    ...dense,
    ...appended.sort((a, b) => storedWidth[b.dtype] - storedWidth[a.dtype]),
  ];
}

/** In bytes. */
export const sizeOfTensor = ({ dtype, shape }: StoredTensor): number =>
  shape.reduce((product, n) => product * n, storedWidth[dtype]);

const sizeOfAll = (tensors: readonly StoredTensor[]): number =>
  tensors.reduce((sum, tensor) => sum + sizeOfTensor(tensor), 0);

function offsetsOf(tensors: readonly StoredTensor[], start: number): Map<string, number> {
  let offset = start;
  return new Map(
    tensors.map((tensor) => {
      const at = offset;
      offset += sizeOfTensor(tensor);
      return [tensor.name, at];
    }),
  );
}

function headerText(tensors: readonly StoredTensor[]): string {
  const offsets = offsetsOf(tensors, 0);
  const entries = tensors.map((tensor) => {
    const from = offsets.get(tensor.name) as number;
    const { name, dtype, shape } = tensor;
    return [name, { dtype, shape, data_offsets: [from, from + sizeOfTensor(tensor)] }];
  });
  return JSON.stringify(Object.fromEntries(entries));
}

/** Where data begins: after a header as long as it would be if every latent were active everywhere. */
function dataStart(settings: DumpSettings, rows: number): number {
  const most = settings.autoencoders.map(({ latents }) => latents * rows * settings.context);
  const length = Buffer.byteLength(headerText(shardTensors(settings, rows, most)));
  return 64 * Math.ceil((8 + length) / 64);
}

/** Everything that is known of a shard of `rows` rows whose latents have so many entries, autoencoder by autoencoder. */
export class ShardLayout {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly dataStart: number;
  /** Of the whole file. */
  readonly bytes: number;
  readonly #offsets: Map<string, number>;

  constructor(settings: DumpSettings, rows: number, entries: readonly number[]) {
    const tensors = shardTensors(settings, rows, entries);
    this.tensors = new Map(tensors.map((tensor) => [tensor.name, tensor]));
    this.dataStart = dataStart(settings, rows);
    this.#offsets = offsetsOf(tensors, this.dataStart);
    this.bytes = this.dataStart + sizeOfAll(tensors);
  }

  /** With no entries yet: the positions of what does not depend on them, and the end of it. */
  static beforeLatents(settings: DumpSettings, rows: number): ShardLayout {
    return new ShardLayout(
      settings,
      rows,
      settings.autoencoders.map(() => 0),
    );
  }

  /** Byte position of a tensor in the file. */
  offset(name: string): number {
    return this.#offsets.get(name) as number;
  }

  /** The length of the header in 8 bytes, then the header, filled up with spaces. */
  header(): Buffer {
    const bytes = Buffer.alloc(this.dataStart, ' ');
    bytes.writeBigUInt64LE(BigInt(this.dataStart - 8), 0);
    bytes.write(headerText([...this.tensors.values()]), 8);
    return bytes;
  }
}
