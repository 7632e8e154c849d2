// A dump's plan: everything that is decided before the first token is read. It is plain data, to be printed, tested,
// and kept in the manifest; nothing here touches a device or a file.

import { bytesPerElement } from '../files/host_tensor.js';
import type { TransformerConfig } from '../transformer/config.js';
import { locationShape } from '../transformer/location.js';
import type { SourceDescription } from './corpus.js';
import { indexDType, latentsName } from './layout.js';

export type DumpDType = 'float16' | 'bfloat16' | 'float32';
export const dumpDTypes: readonly DumpDType[] = ['float16', 'bfloat16', 'float32'];

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
  /** Of what was random in the run; null, as nothing is. */
  readonly seed: number | null;
  readonly part: Part;
}

export interface DumpPlan {
  readonly settings: DumpSettings;
  readonly rowsPerShard: number;
  /** Rows of the full context that go through the model at once; of shorter rows more, with as many positions. */
  readonly batch: number;
  /**
   * Rows are padded to the full context instead of the longest of their batch: a location has the keys as a
   * dimension.
   */
  readonly fullContext: boolean;
  /** What the model is asked for, in the order of computing. */
  readonly wanted: readonly string[];
}

export interface PlanRequest {
  readonly model: DumpSettings['model'];
  readonly corpus: readonly SourceDescription[];
  readonly dense: readonly string[];
  readonly autoencoders: readonly SparseLocation[];
  readonly context?: number | undefined;
  readonly batch?: number | undefined;
  readonly dtype?: DumpDType | undefined;
  readonly shardTokens?: number | undefined;
  readonly shard?: Part | undefined;
  readonly limit?: number | undefined;
  readonly device: 'cpu' | 'cuda';
}

const largestShard = 2 ** 27;
// Rows of 128 tokens: enough to keep the matrix kernels busy, little enough for the activations to stay near the cores.
const batchTokens = { cpu: 2048, cuda: 32768 };
// Fewer where rows are wide: their values wait in host memory, batch by batch.
const batchValues = 2 ** 27;

/** @throws RangeError for an option out of range, with what is allowed. */
export function planDump(request: PlanRequest): DumpPlan {
  const { model, dense, autoencoders, dtype = 'float16', shard = { index: 0, count: 1 } } = request;
  const { ctxWindow } = model.config;
  const context = integer('context', request.context ?? Math.min(128, ctxWindow), 1, ctxWindow);
  const shardTokens = integer('shardTokens', request.shardTokens ?? 2 ** 20, 1, largestShard);
  const limit = request.limit === undefined ? null : integer('limit', request.limit, 1);
  const count = integer('shard.count', shard.count, 1, 100_000);
  const part = { index: integer('shard.index', shard.index, 0, count - 1), count };
  if (!dumpDTypes.includes(dtype)) {
    throw new RangeError(`dump: dtype must be ${dumpDTypes.join(', ')}, but is ${JSON.stringify(dtype)}`);
  }
  const rowsPerShard = Math.max(1, Math.floor(shardTokens / context));
  const locations = dense.map((location) => ({ location, shape: rowShape(location, model, context) }));
  const rowValues = locations.reduce((sum, entry) => sum + context * widthOf(entry), 0);
  const fallback = Math.floor(Math.min(batchTokens[request.device] / context, batchValues / Math.max(1, rowValues)));
  const wanted = [...new Set([...dense, ...autoencoders.map(({ location }) => location)])];
  return {
    settings: {
      model,
      tokenizer: 'gpt2',
      corpus: request.corpus,
      locations,
      autoencoders,
      dtype,
      context,
      shardTokens,
      limit,
      seed: null,
      part,
    },
    rowsPerShard,
    batch: Math.min(rowsPerShard, integer('batch', request.batch ?? Math.max(1, fallback), 1, 2 ** 20)),
    fullContext: wanted.some((location) => hasKeys(location, model)),
    wanted,
  };
}

function integer(option: string, value: unknown, low: number, high = Number.MAX_SAFE_INTEGER): number {
  if (Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high) return value as number;
  const range = high === Number.MAX_SAFE_INTEGER ? `of ${low} or more` : `from ${low} to ${high}`;
  const hint = option === 'context' ? " (the model's context window)" : '';
  throw new RangeError(`dump: ${option} must be an integer ${range}${hint}, but is ${JSON.stringify(value)}`);
}

const rowShape = (location: string, { config, vocabulary }: DumpSettings['model'], context: number): number[] =>
  locationShape(location, config, vocabulary, 1, context).slice(1);

/** Whether a location's shape grows with the sequence in more than one dimension. */
function hasKeys(location: string, model: DumpSettings['model']): boolean {
  const [[, ...short], [, ...long]] = [rowShape(location, model, 1), rowShape(location, model, 2)] as const;
  return short.some((size, dim) => size !== long[dim]);
}

/** Elements per token of a location's tensor. */
export const widthOf = ({ shape }: DenseLocation): number => shape.slice(1).reduce((product, n) => product * n, 1);

// ---- printing

/** The plan in words, as `sonde dump --plan` prints it. */
export function describePlan(plan: DumpPlan): string {
  const { settings, rowsPerShard, batch } = plan;
  const { model, corpus, context, dtype, part, limit } = settings;
  const width = bytesPerElement(dtype);
  const dense = settings.locations.map((entry) => {
    const bytes = widthOf(entry) * width;
    return `  ${entry.location}  ${dtype} [rows, ${entry.shape.join(', ')}]  ${bytes} bytes per token`;
  });
  const sparse = settings.autoencoders.map(({ location, name, latents, threshold }) => {
    const bytes = width + bytesPerElement(indexDType(latents));
    return `  ${latentsName(location)}  of ${name}: ${latents} latents, those above ${threshold}; ${bytes} bytes each`;
  });
  const denseBytes = settings.locations.reduce((sum, entry) => sum + widthOf(entry) * width, 8);
  const source = ({ kind, name, bytes }: SourceDescription) =>
    `  ${name ?? kind}${bytes === undefined ? '' : `  ${bytes} bytes of ${kind}`}`;
  const perShard = rowsPerShard * context;
  return [
    `model      ${model.name}, ${model.dtype}, digest ${model.digest}`,
    'corpus',
    ...corpus.map(source),
    ...(limit === null ? [] : [`  at most ${limit} tokens of it`]),
    `rows       ${context} tokens each; ${batch} rows (${batch * context} tokens) at a time`,
    `shards     ${rowsPerShard} rows (${perShard} tokens), ${showBytes(perShard * denseBytes)} without the latents`,
    ...(part.count > 1
      ? [`part       shards ${part.index}, ${part.index + part.count}, … of ${part.count} parts`]
      : []),
    'tensors',
    '  tokens and document  int32 [rows, context]  8 bytes per token',
    ...dense,
    ...sparse,
    `in all     ${denseBytes} bytes per token${sparse.length > 0 ? ', and the latents' : ''}`,
  ].join('\n');
}

/** `1.5 GB`: decimal units, as disks are sold. */
export function showBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  let value = bytes;
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1000;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toPrecision(3)} ${units[unit]}`;
}
