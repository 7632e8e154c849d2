// The bytes of a shard: a safetensors file whose header and offsets follow from the settings, the rows and the numbers
// of active latents. The writer and the reader share this, so that a file either is exactly as it must be or is
// refused.
import { sizeOf } from '../../engine/shape.js';
import { bytesPerElement, type HostDType } from '../../files/host_tensor.js';
import {
  type PlacedTensor,
  type PlannedTensor,
  safetensorsHeader,
} from '../../files/safetensors/safetensors_header.js';
import { isPacked } from './positions.js';
import type { DenseLocation, DumpDType, DumpSettings, FloatDType } from './settings.js';

export const latentsName = (location: string): string => `${location}/latents`;

/** Elements per token of a location's tensor. */
export const widthOf = ({ shape }: DenseLocation): number => sizeOf(shape.slice(1));

/** The dtype of the values of latents. */
export const latentDType = (dtype: DumpDType): FloatDType => (dtype === 'int8' ? 'float16' : dtype);

/** What a dump can be asked for by a name: the values of a dense location, latents, or the gradients of either. */
export interface NamedValues {
  readonly name: string;
  readonly isSparse: boolean;
  readonly isGradient: boolean;
  /** The index of the location among the dense ones or, of latents, that of the autoencoder. */
  readonly index: number;
  /** The tensor of a shard that holds the values. */
  readonly tensor: string;
  readonly dtype: DumpDType;
  /** The number of features: elements per token, or latents. */
  readonly width: number;
}

export interface DenseValues extends NamedValues {
  readonly isSparse: false;
}

export interface SparseValues extends NamedValues {
  readonly isSparse: true;
  readonly dtype: FloatDType;
}

/** The settings that say which values a dump has. */
export type ValueSettings = Pick<DumpSettings, 'locations' | 'autoencoders' | 'dtype' | 'gradientOf'>;

/** The values of the dense locations, in the order of the settings, each followed by its gradients, if there are any. */
export const denseValues = ({ locations, dtype, gradientOf }: ValueSettings): DenseValues[] =>
  locations.flatMap((entry, index): DenseValues[] => {
    const { location: name } = entry;
    const values = {
      name,
      isSparse: false,
      isGradient: false,
      index,
      tensor: name,
      dtype,
      width: widthOf(entry),
    } as const;
    return gradientOf === undefined ? [values] : [values, gradientsOf(values)];
  });

/** The same for latents. */
export const sparseValues = ({ autoencoders, dtype, gradientOf }: ValueSettings): SparseValues[] =>
  autoencoders.flatMap((entry, index): SparseValues[] => {
    const name = latentsName(entry.location);
    const what = { name, isSparse: true, isGradient: false, index, width: entry.latents } as const;
    const values = { ...what, tensor: `${name}.values`, dtype: latentDType(dtype) };
    return gradientOf === undefined ? [values] : [values, gradientsOf(values)];
  });

/** Gradients are float32 always: those of a mean are often too small for 16 bits. */
const gradientsOf = <V extends NamedValues>(values: V): V => {
  const name = `${values.name}.gradient`;
  return { ...values, name, isGradient: true, tensor: name, dtype: 'float32' };
};

/** All of these: the dense ones come first. */
export const namedValues = (settings: ValueSettings): (DenseValues | SparseValues)[] => [
  ...denseValues(settings),
  ...sparseValues(settings),
];

export const valueNames = (settings: ValueSettings): string[] => namedValues(settings).map(({ name }) => name);

/** The dtype of the indices of latents: two bytes as long as they fit. */
export const indexDType = (latents: number): HostDType => (latents <= 65_536 ? 'uint16' : 'int32');

/** The statistics that a shard holds of each feature of a location or its latents, in this order. See statistics.ts. */
export const statisticNames = ['active', 'mean', 'variance', 'maximum'] as const;

type Named = readonly [name: string, tensor: PlannedTensor];

/** Bytes of a shard's header, without the length field: more is neither written nor read. */
export const longestHeader = 2 ** 24;

export interface ShardSize {
  readonly rows: number;
  /** Positions that are stored; rows * context unless some are left out. */
  readonly positions: number;
  /** Entries of the latents, by autoencoder. */
  readonly entries: readonly number[];
}

/**
 * The tensors of a shard in the order of the file: first those whose size is known before anything is computed, then
 * the entries of the latents, whose number is known when the last batch is done. In both groups, tensors with wider
 * elements come first. So tensors are aligned, except where one may follow an odd number of bytes.
 */
export function shardTensors(settings: DumpSettings, { rows, positions, entries }: ShardSize): Named[] {
  const { context, autoencoders, locations } = settings;
  const tokens = { dtype: 'int32', shape: [rows, context] } as const;
  const leading = isPacked(settings) ? [positions] : [rows, context];
  const known: Named[] = [
    ...autoencoders.map(({ location }): Named => {
      return [`${latentsName(location)}.row_ptr`, { dtype: 'int64', shape: [positions + 1] }];
    }),
    ...(settings.statistics ? statisticsTensors(settings) : []),
    ['tokens', tokens],
    ['document', tokens],
    ...(isPacked(settings) ? [['positions', { dtype: 'int32', shape: [positions, 2] }] as const] : []),
    ...denseValues(settings).flatMap(({ tensor, dtype, index }): Named[] => [
      ...(dtype === 'int8' ? [[`${tensor}.scale`, { dtype: 'float32', shape: leading }] as const] : []),
      [tensor, { dtype, shape: [...leading, ...(locations[index] as DenseLocation).shape.slice(1)] }],
    ]),
  ];
  const indices = autoencoders.map(({ location, latents }, i): Named => {
    return [`${latentsName(location)}.indices`, { dtype: indexDType(latents), shape: [entries[i] as number] }];
  });
  const values = sparseValues(settings).map(({ tensor, dtype, index }): Named => {
    return [tensor, { dtype, shape: [entries[index] as number] }];
  });
  return [...widestFirst(known), ...widestFirst([...indices, ...values])];
}

function statisticsTensors(settings: DumpSettings): Named[] {
  return namedValues(settings).flatMap(({ name, width }): Named[] => [
    [`${name}.count`, { dtype: 'int64', shape: [1] }],
    ...statisticNames.map((statistic): Named => {
      return [`${name}.${statistic}`, { dtype: statistic === 'active' ? 'int64' : 'float64', shape: [width] }];
    }),
  ]);
}

const widestFirst = (tensors: Named[]): Named[] =>
  tensors.sort(([, a], [, b]) => bytesPerElement(b.dtype) - bytesPerElement(a.dtype));

/** The header of a shard of a known size, and where its tensors lie. */
export class ShardLayout {
  /** Padded to the length that it would have if every latent were active everywhere, so that it can be written last. */
  readonly header: Buffer;
  /** The size of the whole file. */
  readonly bytes: number;
  readonly #placed: Map<string, PlacedTensor>;

  /** @throws Error when there can be no such file: a size or the header is too large, or a name comes twice. */
  constructor(settings: DumpSettings, size: ShardSize) {
    const most = settings.autoencoders.map(({ latents }) => latents * size.positions);
    const longest = safetensorsHeader(shardTensors(settings, { ...size, entries: most })).header.length;
    const length = 64 * Math.ceil(longest / 64);
    if (length - 8 > longestHeader) {
      throw new RangeError(`the header of a shard would be ${length - 8} bytes long; it may be ${longestHeader}`);
    }
    const { header, placed, bytes } = safetensorsHeader(shardTensors(settings, size));
    this.header = Buffer.alloc(length, ' ');
    this.header.set(header);
    this.header.writeBigUInt64LE(BigInt(this.header.length - 8), 0);
    const shift = this.header.length - header.length;
    this.bytes = bytes + shift;
    this.#placed = new Map([...placed].map(([name, at]) => [name, { ...at, byteOffset: at.byteOffset + shift }]));
  }

  /** The layout without entries of latents, for the tensors whose offsets do not depend on their number. */
  static beforeLatents(settings: DumpSettings, size: Omit<ShardSize, 'entries'>): ShardLayout {
    return new ShardLayout(settings, { ...size, entries: settings.autoencoders.map(() => 0) });
  }

  tensor(name: string): PlacedTensor {
    const placed = this.#placed.get(name);
    if (placed) return placed;
    throw new Error(`a shard has no tensor ${name}`);
  }

  /** The byte offset of a tensor in the file. */
  offset(name: string): number {
    return this.tensor(name).byteOffset;
  }
}
