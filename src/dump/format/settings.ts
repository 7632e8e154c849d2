// The settings of a dump: what decides every byte of it, as plain data. A plan works them out (dump_plan.ts), the
// manifest keeps them, and two dumps are compared by them.
import type { TransformerConfig } from '../../transformer/weights/config.js';
import type { SourceDescription } from '../corpus/corpus.js';
import {
  checked,
  flag,
  fraction,
  integer,
  listOf,
  numberFrom0,
  object,
  oneOf,
  optional,
  orNull,
  type Read,
  type Readers,
  string,
} from './schema.js';

/**
 * The dtype of stored values. With int8, each token has a scale: a value is its integer times the scale. Latents are
 * float16 then.
 */
export type DumpDType = 'float16' | 'bfloat16' | 'float32' | 'int8';
export const dumpDTypes: readonly DumpDType[] = ['float16', 'bfloat16', 'float32', 'int8'];

/** The dtypes that hold a value by itself, without a scale. */
export type FloatDType = Exclude<DumpDType, 'int8'>;

/** The positions that can be left out: those after the end of a row's text, and those of `<|endoftext|>`. */
export type Dropped = 'padding' | 'endoftext';
export const droppable: readonly Dropped[] = ['padding', 'endoftext'];

/** What gradients can be of: the loss of each row, the mean cross-entropy of the tokens that it predicts. */
export type GradientOf = 'loss';
export const gradientScalars: readonly GradientOf[] = ['loss'];

/** Which of `count` equal parts of the shards this run makes: those whose number is `index` modulo `count`. */
export interface Part {
  readonly index: number;
  readonly count: number;
}

/** The options of dump() that become settings under the same name. */
export interface StorageOptions {
  /** Tokens per row; 128 when left out. */
  context?: number;
  /** The most tokens of the corpus that are taken; all when left out. */
  limit?: number;
  /**
   * How values are stored; float16 when left out. int8 has a scale for each token, and is off by half of that at most;
   * latents are float16 then.
   */
  dtype?: DumpDType;
  /** Tokens per shard, about; 1,048,576 when left out. */
  shardTokens?: number;
  /**
   * Positions that are not stored: padding, `<|endoftext|>`. As soon as any are left out, a shard holds what is stored
   * without gaps, and `positions` says where it belongs.
   */
  drop?: readonly Dropped[];
  /**
   * The part of the positions that is stored, above 0 and up to 1, chosen at random; padding never is. All when left
   * out.
   */
  sample?: number;
  /** The seed of that choice; 0 when left out. */
  seed?: number;
  /**
   * Counts of each feature, its mean, variance and maximum, over all positions that are not dropped, in the sample or
   * not. See `Dump.statistics`.
   */
  statistics?: boolean;
  /** Writes the latents once more, sorted by latent, as a Parquet file for each shard and autoencoder. */
  parquet?: boolean;
  /**
   * Stores gradients as well, beside each location and the latents at one: `LOCATION.gradient`, float32 whatever `dtype`
   * is, with the shape of what is there; of latents, those of the stored entries. 'loss' is the mean next-token
   * cross-entropy of the row in nats: each row has its own, and its first token and padding are not predicted. Where a
   * row has one token, its gradients are 0. On the CPU alone.
   */
  gradientOf?: GradientOf;
}

export interface DenseLocation {
  readonly location: string;
  /** One row's shape in the shard, [context, ...]. */
  readonly shape: readonly number[];
}

export interface SparseLocation {
  readonly location: string;
  /** The autoencoder's name in the request. */
  readonly name: string;
  readonly digest: string;
  readonly latents: number;
  /** Latents above the threshold are stored. */
  readonly threshold: number;
}

/** The sources of the corpus, in order. */
export type CorpusList = readonly SourceDescription[];

/**
 * Everything that decides the bytes of a dump. Two runs with equal settings and one corpus write equal folders. The
 * storage options are here with their defaults filled in.
 */
export interface DumpSettings extends Readonly<Required<Omit<StorageOptions, 'limit' | 'seed' | 'gradientOf'>>> {
  readonly model: {
    readonly name: string;
    readonly digest: string;
    readonly dtype: string;
    readonly vocabulary: number;
    readonly config: TransformerConfig;
  };
  /** The tokenizer of the model; `unknown` where the numbers of its tokens have no known texts. */
  readonly tokenizer: 'gpt2' | 'unknown';
  readonly corpus: CorpusList;
  readonly locations: readonly DenseLocation[];
  readonly autoencoders: readonly SparseLocation[];
  /** The most tokens of the corpus that are taken; null for all. */
  readonly limit: number | null;
  /** The seed of the sample; null when all positions are stored. */
  readonly seed: number | null;
  /** What the gradients are of; left out where there are none. */
  readonly gradientOf?: GradientOf;
  readonly part: Part;
}

// ---- reading settings

/** Sizes are bounded so that no header can ask for an absurd amount of memory. */
export const size = integer(1, 2 ** 31);

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

export const corpusSource = object<SourceDescription>({
  kind: oneOf('text', 'jsonl', 'tokens', 'standard input', 'iterable'),
  name: optional(string),
  bytes: optional(integer(0)),
  dtype: optional(oneOf('int32', 'uint32', 'int64')),
});

// The product of all sizes but the first one, which is the context.
const shape: Read<number[]> = (value, unknownFields) => {
  const sizes = listOf(size, { least: 1, most: 6 })(value, unknownFields);
  let width = 1;
  for (const n of sizes.slice(1)) width *= n;
  return checked<number[]>(`sizes of ${2 ** 31} values per token at most`, () => width <= 2 ** 31)(
    sizes,
    unknownFields,
  );
};

/** The allowed values of each field of the settings. Readers also check that the fields agree with one another. */
export const settingsFields: Readers<DumpSettings> = {
  model: object<DumpSettings['model']>({ name: string, digest: string, dtype: string, vocabulary: size, config }),
  tokenizer: oneOf('gpt2', 'unknown'),
  corpus: listOf(corpusSource),
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
  sample: fraction,
  seed: orNull(integer(0)),
  statistics: flag,
  parquet: flag,
  gradientOf: optional(oneOf(...gradientScalars)),
  part: object<Part>({ index: integer(0), count: integer(1) }),
};

/** A copy of the settings that holds the known fields and nothing else. @throws FieldError for an invalid value. */
export const knownSettings = (value: DumpSettings): DumpSettings =>
  object<DumpSettings>(settingsFields)(value, 'dropped');
