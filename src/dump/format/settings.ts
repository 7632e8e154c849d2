// What decides every byte of a dump, as plain data: it is planned (plan.ts), kept in the manifest, and compared.
import type { TransformerConfig } from '../../transformer/weights/config.js';
import type { SourceDescription } from '../corpus/corpus.js';
import { checked, flag, integer, listOf, object, oneOf, optional, orNull, type Read, string } from './schema.js';

/** int8 is with a scale for each token: a value is its integer times the scale. Latents are float16 then. */
export type DumpDType = 'float16' | 'bfloat16' | 'float32' | 'int8';
export const dumpDTypes: readonly DumpDType[] = ['float16', 'bfloat16', 'float32', 'int8'];

/** Those of single values. */
export type FloatDType = Exclude<DumpDType, 'int8'>;

/** What can be left out: positions after the end of a row's text, and those of `<|endoftext|>`. */
export type Dropped = 'padding' | 'endoftext';
export const droppable: readonly Dropped[] = ['padding', 'endoftext'];

/** Which of `count` equal parts of the shards this run makes: those whose number is `index` modulo `count`. */
export interface Part {
  readonly index: number;
  readonly count: number;
}

export interface DenseLocation {
  readonly location: string;
  /** One row's shape in the shard, [context, ...]. */
  readonly shape: readonly number[];
}

export interface SparseLocation {
  readonly location: string;
  /** The autoencoder, as it was asked for. */
  readonly name: string;
  readonly digest: string;
  readonly latents: number;
  /** Latents above it are stored. */
  readonly threshold: number;
}

/** What decides every byte of a dump. Two runs with equal settings and one corpus write equal folders. */
export interface DumpSettings {
  readonly model: {
    readonly name: string;
    readonly digest: string;
    readonly dtype: string;
    readonly vocabulary: number;
    readonly config: TransformerConfig;
  };
  readonly tokenizer: 'gpt2';
  readonly corpus: readonly SourceDescription[];
  readonly locations: readonly DenseLocation[];
  readonly autoencoders: readonly SparseLocation[];
  readonly dtype: DumpDType;
  readonly context: number;
  readonly shardTokens: number;
  /** Tokens of the corpus to take at most; null for all. */
  readonly limit: number | null;
  /** Positions that are not stored. As soon as any are left out, padding is. */
  readonly drop: readonly Dropped[];
  /** The part of the other positions that is stored, chosen by chance; 1 for all. */
  readonly sample: number;
  /** Of that choice; null when there is none. */
  readonly seed: number | null;
  /** Whether shards hold the statistics of their features. */
  readonly statistics: boolean;
  /** Whether there are Parquet files of the latents beside the shards. */
  readonly parquet: boolean;
  readonly part: Part;
}

// ---- reading them

const positive = (value: unknown): boolean => typeof value === 'number' && value > 0 && value < Infinity;

/** Sizes are bounded so that no header can ask for an absurd amount of memory. */
export const size = integer(1, 2 ** 31);

const numberFrom0 = checked<number>('a number of 0 or more', (value) => value === 0 || positive(value));

// A model of the user's own may be without attention, MLPs or layers.
const config = object<TransformerConfig>({
  enc: string,
  ctxWindow: size,
  dModel: size,
  nLayers: integer(0, 2 ** 31),
  mAttn: numberFrom0,
  nHeads: integer(0, 2 ** 31),
  mMlp: numberFrom0,
});

const source = object<SourceDescription>({
  kind: oneOf('text', 'jsonl', 'tokens', 'standard input', 'iterable'),
  name: optional(string),
  bytes: optional(integer(0)),
});

// The product of all sizes but the first one, which is the context.
const shape: Read<number[]> = (value, others) => {
  const sizes = listOf(size, { least: 1, most: 6 })(value, others);
  let width = 1;
  for (const n of sizes.slice(1)) width *= n;
  return checked<number[]>(`sizes of ${2 ** 31} values per token at most`, () => width <= 2 ** 31)(sizes, others);
};

/** What each field of the settings must be. Whoever reads them checks what they say together. */
export const settingsFields: { readonly [K in keyof DumpSettings]: Read<DumpSettings[K]> } = {
  model: object<DumpSettings['model']>({ name: string, digest: string, dtype: string, vocabulary: size, config }),
  tokenizer: oneOf('gpt2'),
  corpus: listOf(source),
  locations: listOf(object<DenseLocation>({ location: string, shape })),
  autoencoders: listOf(
    object<SparseLocation>({
      location: string,
      name: string,
      digest: string,
      latents: integer(1, 2 ** 26), // more than any autoencoder has by far; nothing in a shard confirms it
      threshold: numberFrom0,
    }),
  ),
  dtype: oneOf(...dumpDTypes),
  context: size,
  shardTokens: size,
  limit: orNull(integer(1)),
  drop: listOf(oneOf(...droppable)),
  sample: checked('a number above 0 and up to 1', (value) => positive(value) && (value as number) <= 1),
  seed: orNull(integer(0)),
  statistics: flag,
  parquet: flag,
  part: object<Part>({ index: integer(0), count: integer(1) }),
};

/** A copy of the settings that holds what is known of and nothing else. @throws FieldError for what cannot be. */
export const knownSettings = (value: DumpSettings): DumpSettings =>
  object<DumpSettings>(settingsFields)(value, 'dropped');
