// What dump() is asked for.
import type { ModelContext } from '../../context/model_context.js';
import type { Device, DeviceName } from '../../engine/device.js';
import type { DType } from '../../engine/dtype.js';
import type { BlobProgress } from '../../files/blob/blob.js';
import type { SubjectModel } from '../../transformer/subject_model.js';
import type { Corpus } from '../corpus/corpus.js';
import type { Dropped, DumpDType, Part } from '../format/settings.js';
import type { AutoencoderSource } from './autoencoders.js';
import type { DumpProgress } from './progress.js';

/** The device of a process that shares the work; `threads` as for `openDevice`. */
export interface WorkerOptions {
  readonly device: DeviceName;
  readonly threads?: number;
}

export interface DumpOptions {
  /** A transformer, another model with its members, the context of either, or what `Transformer.load` takes. */
  model: SubjectModel | ModelContext | string;
  corpus: Corpus;
  /** `5/mlp/post_act`; `*` for every layer; `5/resid/delta_mlp -> AUTOENCODER` for latents. */
  locations: string | string[];
  /** Autoencoders by the name that `locations` gives them. Files need no entry: `-> path/{layer}.pt`. */
  autoencoders?: Record<string, AutoencoderSource>;
  /** Latents above it are stored; 0 when left out. */
  threshold?: number;
  /** The folder, or `az://account/container/prefix`: new, empty, or with the same dump begun. */
  out: string;
  /** Tokens per row; 128 when left out. */
  context?: number;
  /**
   * Rows of the full context that are computed at a time; of shorter rows more, with as many positions. It has no
   * influence on what is written.
   */
  batch?: number;
  /**
   * How values are stored; float16 when left out. int8 has a scale for each token, and is off by half of that at most;
   * latents are float16 then.
   */
  dtype?: DumpDType;
  /**
   * Positions that are not stored: padding, `<|endoftext|>`. As soon as any are left out, a shard holds what is stored
   * without gaps, and `positions` says where it belongs.
   */
  drop?: readonly Dropped[];
  /** The part of the positions that is stored, above 0 and up to 1, chosen by chance; padding never is. All when left out. */
  sample?: number;
  /** Of that choice; 0 when left out. */
  seed?: number;
  /**
   * Counts of each feature, its mean, variance and maximum, over all positions that are not dropped, in the sample or not.
   * See `Dump.statistics`.
   */
  statistics?: boolean;
  /** Writes the latents once more, sorted by latent, as a Parquet file for each shard and autoencoder. */
  parquet?: boolean;
  /** Tokens per shard, about; 1,048,576 when left out. */
  shardTokens?: number;
  /**
   * For several processes that share a corpus: this one makes the shards whose number is `index` modulo `count`. They
   * have the names and the contents of a dump in one piece, so the parts can be written to one folder or put into one
   * later.
   */
  shard?: Part;
  /** Tokens of the corpus to take at most. */
  limit?: number;
  /** For a model given by name. */
  device?: Device;
  /** What a model given by name computes with: float32 when left out. */
  precision?: DType;
  /**
   * Processes that share the work, one for each entry, for a model and autoencoders given by name. Each takes the shards
   * that are next. The folder is, byte for byte, that of one process.
   */
  workers?: readonly WorkerOptions[];
  onProgress?: (progress: DumpProgress) => void;
  /** Told while a model or autoencoders that are given by name or address are fetched from the network. */
  onFetch?: (progress: BlobProgress) => void;
  /**
   * Stops between batches, with a folder that the same call continues. The promise rejects with the signal's reason.
   */
  signal?: AbortSignal;
}
