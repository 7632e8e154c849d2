// The messages between the process of a dump and its workers. Blocks go one way and entries of shards the other. The
// values themselves stay in the worker, which writes the shards.
import type { BlobProgress } from '../../files/blob/blob.js';
import type { Block } from '../corpus/blocks.js';
import type { SourceDescription } from '../corpus/corpus.js';
import type { ShardEntry } from '../format/manifest.js';
import type { DumpSettings } from '../format/settings.js';
import type { Computing } from '../shards/folder.js';
import type { DumpOptions, LocalOptions, WorkerOptions } from '../shards/options.js';

/** The options that a worker can be given, and what it needs instead of the others. */
export type WorkerRequest = Omit<DumpOptions, keyof LocalOptions | 'corpus' | 'workers' | 'onProgress'> & {
  readonly corpus: readonly SourceDescription[];
  readonly worker: WorkerOptions;
};

export type ToWorker =
  | { readonly kind: 'prepare'; readonly request: WorkerRequest }
  | { readonly kind: 'begin' }
  | { readonly kind: 'block'; readonly block: Block }
  /** The worker must end its current work, and then the process. */
  | { readonly kind: 'stop' };

export type FromWorker =
  | { readonly kind: 'fetch'; readonly progress: BlobProgress }
  | {
      readonly kind: 'prepared';
      readonly settings: DumpSettings;
      readonly computing: Computing;
      readonly rowsPerShard: number;
    }
  /** The worker is ready for another block. */
  | { readonly kind: 'next' }
  | { readonly kind: 'stored'; readonly tokens: number }
  | { readonly kind: 'shard'; readonly number: number; readonly entry: ShardEntry }
  /** `nonFinite`: the shard that has a value which must be finite, if that is the failure. */
  | {
      readonly kind: 'failed';
      readonly message: string;
      readonly stack: string | undefined;
      readonly nonFinite?: number;
    };
