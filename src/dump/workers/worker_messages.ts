// What the process of a dump and its workers say to each other. Blocks go one way and entries of shards the other; the
// values themselves stay in the worker, which writes the shards.
import type { BlobProgress } from '../../files/blob/blob.js';
import type { Block } from '../corpus/blocks.js';
import type { SourceDescription } from '../corpus/corpus.js';
import type { ShardEntry } from '../format/manifest.js';
import type { DumpSettings } from '../format/settings.js';
import type { DumpOptions, WorkerOptions } from '../shards/options.js';

/** Those options that are plain data. */
export type WorkerRequest = Omit<DumpOptions, 'corpus' | 'workers' | 'device' | 'signal' | 'onProgress' | 'onFetch'> & {
  readonly corpus: readonly SourceDescription[];
  readonly worker: WorkerOptions;
};

export type ToWorker =
  | { readonly kind: 'prepare'; readonly request: WorkerRequest }
  | { readonly kind: 'begin' }
  | { readonly kind: 'block'; readonly block: Block }
  /** End what is under way, and then the process. */
  | { readonly kind: 'stop' };

export type FromWorker =
  | { readonly kind: 'fetch'; readonly progress: BlobProgress }
  | { readonly kind: 'prepared'; readonly settings: DumpSettings; readonly rowsPerShard: number }
  /** Another block may be given. */
  | { readonly kind: 'next' }
  | { readonly kind: 'stored'; readonly tokens: number }
  | { readonly kind: 'shard'; readonly number: number; readonly entry: ShardEntry }
  | { readonly kind: 'failed'; readonly message: string; readonly stack: string | undefined };
