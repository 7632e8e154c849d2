// What decides every byte of a dump, as plain data: it is planned (plan.ts), kept in the manifest, and compared.
import type { TransformerConfig } from '../transformer/config.js';
import type { SourceDescription } from './corpus.js';

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
