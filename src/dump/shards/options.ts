// The options of dump(). The command line, the plan, the workers and the jobs of a queue take parts of them.
import type { ModelContext } from '../../context/model_context.js';
import type { OptionNames } from '../../engine/check.js';
import type { Device, DeviceName } from '../../engine/device.js';
import type { DType } from '../../engine/dtype.js';
import type { BlobProgress } from '../../files/blob/blob.js';
import type { SubjectModel } from '../../transformer/subject_model.js';
import type { Corpus } from '../corpus/corpus.js';
import type { Part, StorageOptions } from '../format/settings.js';
import type { AutoencoderSource } from './autoencoders.js';
import type { DumpProgress } from './progress.js';

/** The device of a process that shares the work; `threads` as for `openDevice`. */
export interface WorkerOptions {
  readonly device: DeviceName;
  readonly threads?: number;
}

/** Options that are plain data in every interface: dump(), the command line and the jobs of a queue. */
export interface PlainOptions extends StorageOptions {
  /** The folder, or `az://account/container/prefix`: new, empty, or with the same dump begun. */
  out: string;
  /** The dtype that a model given by name computes with; float32 when left out. */
  precision?: DType;
  /**
   * Rows of the full context that are computed at a time; of shorter rows more, with as many positions. It has no
   * influence on what is written.
   */
  batch?: number;
  /** Latents above the threshold are stored; 0 when left out. */
  threshold?: number;
  /**
   * The first value that is not finite ends the dump with an error that names it: NaN, an infinity, or a value that is
   * too large for `dtype`. So do such values that the folder has already. Without it, they are stored and counted. It
   * has no influence on what is written.
   */
  finite?: boolean;
  /**
   * Goes on with a dump that was begun with another arithmetic (`Device.arithmetic`): on a GPU instead of a CPU, with
   * bfloat16 on a processor that multiplies it in another way, or before sonde's arithmetic changed. Values of some
   * shards differ then in some bits from what this machine would store. The manifest lists all arithmetics that made
   * shards.
   */
  anyArithmetic?: boolean;
}

/** Options that belong to one process, and cannot be given to another one. */
export interface LocalOptions {
  /** For a model given by name. */
  device?: Device;
  /** Called while a model or autoencoders that are given by name or address are fetched from the network. */
  onFetch?: (progress: BlobProgress) => void;
  /**
   * Stops between batches, with a folder that the same call continues. The promise rejects with the signal's reason.
   */
  signal?: AbortSignal;
}

export interface DumpOptions extends PlainOptions, LocalOptions {
  /** A transformer, another model with its members, the context of either, or what `Transformer.load` takes. */
  model: SubjectModel | ModelContext | string;
  corpus: Corpus;
  /** `5/mlp/post_act`; `*` for every layer; `5/resid/delta_mlp -> AUTOENCODER` for latents. */
  locations: string | string[];
  /** Autoencoders by the name that `locations` gives them. Files need no entry: `-> path/{layer}.pt`. */
  autoencoders?: Record<string, AutoencoderSource>;
  /**
   * For several processes that share a corpus: this one makes the shards whose number is `index` modulo `count`. They
   * have the names and the contents of an undivided dump, so the parts can be written to one folder or moved into one
   * later.
   */
  shard?: Part;
  /**
   * Processes that share the work, one for each entry, for a model and autoencoders given by name. Each takes the
   * shards that are next. The folder is, byte for byte, that of one process.
   */
  workers?: readonly WorkerOptions[];
  onProgress?: (progress: DumpProgress) => void;
}

/** The plain options, in the order in which jobs list them. */
const plainNames: OptionNames<PlainOptions> = {
  out: true,
  precision: true,
  context: true,
  batch: true,
  limit: true,
  dtype: true,
  shardTokens: true,
  threshold: true,
  finite: true,
  anyArithmetic: true,
  drop: true,
  sample: true,
  seed: true,
  statistics: true,
  parquet: true,
  gradientOf: true,
};

const plainOptionNames = Object.keys(plainNames) as (keyof PlainOptions)[];

export const dumpOptionNames: OptionNames<DumpOptions> = {
  ...plainNames,
  ...{ device: true, onFetch: true, signal: true },
  ...{ model: true, corpus: true, locations: true, autoencoders: true },
  ...{ shard: true, workers: true, onProgress: true },
};

export const partNames: OptionNames<Part> = { index: true, count: true };
export const workerOptionNames: OptionNames<WorkerOptions> = { device: true, threads: true };

/** A copy of the plain options, without other fields and without those that are undefined. */
export function plainOptions(options: PlainOptions): PlainOptions {
  const given = plainOptionNames.filter((name) => options[name] !== undefined);
  return Object.fromEntries(given.map((name) => [name, options[name]])) as unknown as PlainOptions;
}

/** A copy of the local options, without other fields and without those that are undefined. */
export const localOptions = ({ device, onFetch, signal }: LocalOptions): LocalOptions => ({
  ...(device && { device }),
  ...(onFetch && { onFetch }),
  ...(signal && { signal }),
});
