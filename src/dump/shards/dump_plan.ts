// A dump's plan: everything that is decided before the first token is read, as plain data that can be printed and
// tested. Nothing here touches a device or a file.
import { describe } from '../../engine/check.js';
import { bytesPerElement } from '../../files/host_tensor.js';
import { showBytes } from '../../files/text.js';
import { locationShape } from '../../transformer/location.js';
import type { SourceDescription } from '../corpus/corpus.js';
import { tokenBytes as widthOfToken } from '../corpus/token_layout.js';
import { inJson } from '../format/in_json.js';
import { type DenseValues, denseValues, indexDType, ShardLayout, sparseValues, widthOf } from '../format/layout.js';
import { canList, whole } from '../format/manifest.js';
import { isPacked, rowsPerShard } from '../format/positions.js';
import { object, integer as wholeFrom } from '../format/schema.js';
import {
  type DenseLocation,
  type DumpSettings,
  droppable,
  dumpDTypes,
  type GradientOf,
  gradientScalars,
  knownSettings,
  type SparseLocation,
  type StorageOptions,
  settingsFields,
} from '../format/settings.js';
import type { DumpOptions } from './options.js';

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
  /** The locations that the model is asked for, in the order in which it computes them. */
  readonly wanted: readonly string[];
  /** Whether a value that is not finite is an error. */
  readonly finite: boolean;
}

/** The options of a dump as they were given, and the properties of what was loaded for them. */
export interface PlanRequest extends StorageOptions, Pick<DumpOptions, 'batch' | 'shard' | 'finite'> {
  readonly model: DumpSettings['model'];
  /** GPT-2's when it is left out. */
  readonly tokenizer?: DumpSettings['tokenizer'];
  readonly corpus: readonly SourceDescription[];
  readonly dense: readonly string[];
  readonly autoencoders: readonly SparseLocation[];
  readonly device: 'cpu' | 'cuda';
}

const largestShard = 2 ** 27;
// The tokens of a batch: enough to keep the matrix kernels busy, and few enough for the activations to stay in the
// caches. For gradients, those of all layers are kept, and no cache holds them: fewer tokens take less memory.
const batchTokens = { cpu: 2048, cuda: 32768, gradients: 1024 };
// The most values of a batch: they are held in host memory.
const batchValues = 2 ** 27;

/** @throws RangeError for an option out of range, with the allowed range. */
export function planDump(request: PlanRequest): DumpPlan {
  const { model, tokenizer = 'gpt2', dense, autoencoders, dtype = 'float16', shard = whole } = request;
  const { ctxWindow } = model.config;
  const context = integer('context', request.context, [1, ctxWindow], Math.min(128, ctxWindow));
  const shardTokens = integer('shardTokens', request.shardTokens, [1, largestShard], 2 ** 20);
  const limit = request.limit === undefined ? null : integer('limit', request.limit, [1]);
  const count = integer('shard.count', shard.count, [1, 100_000]);
  const part = { index: integer('shard.index', shard.index, [0, count - 1]), count };
  const rowCount = rowsPerShard({ context, shardTokens });
  const filter = filterOf(request);
  if (filter.drop.includes('endoftext') && tokenizer !== 'gpt2') {
    throw new RangeError(
      `dump: drop cannot name endoftext: the tokenizer of ${model.name} is not known, nor its token of that meaning`,
    );
  }
  const { statistics = false, parquet = false, finite = false, gradientOf } = request;
  checkFormats({ dtype, dense, autoencoders, statistics, parquet });
  checkFlag('finite', finite);
  if (gradientOf !== undefined && !gradientScalars.includes(gradientOf)) {
    throw new RangeError(`dump: gradientOf must be ${gradientScalars.join(', ')}, but is ${inJson(gradientOf)}`);
  }
  const locations = dense.map((location) => ({ location, shape: rowShape(location, model, context) }));
  const rowValues = locations.reduce((sum, entry) => sum + context * widthOf(entry), 0);
  const [tokens, copies] = gradientOf ? [batchTokens.gradients, 2] : [batchTokens[request.device], 1];
  const fallback = Math.floor(Math.min(tokens / context, batchValues / Math.max(1, copies * rowValues)));
  const wanted = [...new Set([...dense, ...autoencoders.map(({ location }) => location)])];
  const settings = writable({
    model,
    tokenizer,
    corpus: request.corpus,
    locations,
    autoencoders,
    dtype,
    context,
    shardTokens,
    limit,
    ...filter,
    statistics,
    parquet,
    ...(gradientOf && { gradientOf }),
    part,
  });
  checkShard(settings, rowCount);
  checkCount(settings, rowCount);
  return {
    settings,
    rowsPerShard: rowCount,
    batch: Math.min(rowCount, integer('batch', request.batch, [1, 2 ** 20], Math.max(1, fallback))),
    fullContext: wanted.some((location) => hasKeys(location, model)),
    wanted,
    finite,
  };
}

/** Refuses what a manifest cannot hold: models that are not the library's own may have a configuration of any kind. */
const writable = (settings: DumpSettings): DumpSettings => heldByManifest(() => knownSettings(settings));

/** The same for a model alone, before its locations are worked out. */
export const checkWritable = (model: DumpSettings['model']): DumpSettings['model'] =>
  heldByManifest(
    () => object<Pick<DumpSettings, 'model'>>({ model: settingsFields.model })({ model }, 'dropped').model,
  );

function heldByManifest<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new TypeError(`dump: no manifest can hold this: ${(cause as Error).message}`, { cause });
  }
}

/** A full shard must be readable. */
function checkShard(settings: DumpSettings, rows: number): void {
  try {
    ShardLayout.beforeLatents(settings, { rows, positions: rows * settings.context });
  } catch (cause) {
    throw new RangeError(`dump: there can be no such shards: ${(cause as Error).message}: name fewer locations`, {
      cause,
    });
  }
}

const longestToken = 128; // bytes of text

/** The known size of the corpus must not make more shards than a manifest can list. */
function checkCount(settings: DumpSettings, rows: number): void {
  const { corpus, limit, context, part, shardTokens } = settings;
  const bytesPerToken = ({ kind, dtype }: SourceDescription): number =>
    kind === 'tokens' ? widthOfToken[dtype ?? 'uint16'] : kind === 'text' ? longestToken : Infinity;
  const fewest = corpus.reduce((sum, source) => sum + (source.bytes ?? 0) / bytesPerToken(source), 0);
  const shards = Math.floor(Math.min(fewest, limit ?? Infinity) / (rows * context) / part.count);
  if (canList(settings, Math.max(1, shards))) return;
  throw new RangeError(
    `dump: shardTokens of ${shardTokens} would make ${shards} shards or more, more than a manifest can list: ` +
      'make larger shards, or several dumps',
  );
}

type Formats = Required<Pick<PlanRequest, 'dense' | 'autoencoders'>> &
  Pick<DumpSettings, 'dtype' | 'statistics' | 'parquet'>;

function checkFormats({ dtype, dense, autoencoders, statistics, parquet }: Formats): void {
  if (!dumpDTypes.includes(dtype)) {
    throw new RangeError(`dump: dtype must be ${dumpDTypes.join(', ')}, but is ${inJson(dtype)}`);
  }
  checkFlag('statistics', statistics);
  checkFlag('parquet', parquet);
  const infinite = dtype === 'int8' ? dense.find((location) => location.endsWith('attn/qk_logits')) : undefined;
  if (infinite !== undefined) {
    throw new RangeError(`dump: ${infinite} is -Infinity where a token must not look, which int8 cannot hold`);
  }
  if (parquet && autoencoders.length === 0) {
    throw new RangeError('dump: parquet is for latents: name an autoencoder for one location at least');
  }
}

function filterOf({ drop = [], sample = 1, seed }: StorageOptions): Pick<DumpSettings, 'drop' | 'sample' | 'seed'> {
  if (!Array.isArray(drop) || !drop.every((what) => droppable.includes(what))) {
    throw new RangeError(`dump: drop must be a list of ${droppable.join(' and ')}, but is ${inJson(drop)}`);
  }
  if (!(typeof sample === 'number' && sample > 0 && sample <= 1)) {
    throw new RangeError(`dump: sample must be a part of the positions, above 0 and up to 1, but is ${inJson(sample)}`);
  }
  if (seed !== undefined && sample === 1) throw new RangeError('dump: seed is for a sample of the positions');
  return {
    drop: isPacked({ drop, sample }) ? droppable.filter((what) => what === 'padding' || drop.includes(what)) : [],
    sample,
    seed: sample < 1 ? integer('seed', seed, [0], 0) : null,
  };
}

/** `fallback` stands for an option that was left out. null is not one. */
function checkFlag(option: string, value: unknown): void {
  if (typeof value === 'boolean') return;
  const actual = typeof value === 'string' ? value : describe(value);
  throw new TypeError(`dump: ${option} must be true or false, but is ${actual}`);
}

function integer(
  option: string,
  value: unknown,
  [low, high = Number.MAX_SAFE_INTEGER]: readonly [low: number, high?: number],
  fallback?: number,
): number {
  if (value === undefined && fallback !== undefined) return fallback;
  if (Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high) return value as number;
  const range = high === Number.MAX_SAFE_INTEGER ? `of ${low} or more` : `from ${low} to ${high}`;
  const hint = option === 'context' ? " (the model's context window)" : '';
  throw new RangeError(`dump: ${option} must be an integer ${range}${hint}, but is ${inJson(value)}`);
}

const rowShape = (location: string, { config, vocabulary }: DumpSettings['model'], context: number): number[] =>
  locationShape(location, config, vocabulary, 1, context).slice(1);

/**
 * Whether the keys are a dimension of a location: then its shape grows with the sequence in more than one dimension.
 */
function hasKeys(location: string, model: DumpSettings['model']): boolean {
  const [[, ...short], [, ...long]] = [rowShape(location, model, 1), rowShape(location, model, 2)] as const;
  return short.some((size, dim) => size !== long[dim]);
}

// ---- printing

/** What gradients are of. */
export const scalarTexts: Readonly<Record<GradientOf, string>> = {
  loss: 'the mean next-token cross-entropy of each row',
};

/** The plan as text, as `sonde dump --plan` prints it. */
export function describePlan(plan: DumpPlan): string {
  checkPlan(plan);
  const { settings, rowsPerShard, batch } = plan;
  const { model, corpus, context, part, limit, sample } = settings;
  const dense = denseValues(settings).map((values) => {
    const { name, index, dtype } = values;
    const { shape: whole } = settings.locations[index] as DenseLocation;
    const shape = (isPacked(settings) ? ['positions', ...whole.slice(1)] : ['rows', ...whole]).join(', ');
    const scale = dtype === 'int8' ? ', and a scale for each token' : '';
    return `  ${name}  ${dtype} [${shape}]${scale}  ${tokenBytes(values)} bytes per token`;
  });
  const sparse = sparseValues(settings).map(({ name, index, isGradient, dtype, width }) => {
    if (isGradient) return `  ${name}  of each of them; ${bytesPerElement(dtype)} bytes each`;
    const { name: autoencoder, latents, threshold } = settings.autoencoders[index] as SparseLocation;
    const bytes = bytesPerElement(dtype) + bytesPerElement(indexDType(width));
    return `  ${name}  of ${autoencoder}: ${latents} latents, those above ${threshold}; ${bytes} bytes each`;
  });
  const denseBytes = denseValues(settings).reduce((sum, values) => sum + tokenBytes(values), 0);
  const bytesPerToken = 8 + (isPacked(settings) ? 8 * sample : 0) + denseBytes * sample;
  const source = ({ kind, name, bytes }: SourceDescription) =>
    `  ${name ?? kind}${bytes === undefined ? '' : `  ${bytes} bytes of ${kind}`}`;
  const perShard = rowsPerShard * context;
  return [
    `model      ${model.name}, ${model.dtype}, digest ${model.digest}`,
    'corpus',
    ...corpus.map(source),
    ...(limit === null ? [] : [`  at most ${limit} tokens of it`]),
    `rows       ${context} tokens each; ${batch} rows (${batch * context} tokens) at a time`,
    ...(isPacked(settings) ? [`positions  ${describeFilter(settings)}`] : []),
    `shards     ${rowsPerShard} rows (${perShard} tokens), ${showBytes(perShard * bytesPerToken)} without the latents`,
    ...(part.count > 1
      ? [`part       shards ${part.index}, ${part.index + part.count}, … of ${part.count} parts`]
      : []),
    'tensors',
    '  tokens and document  int32 [rows, context]  8 bytes per token',
    ...(isPacked(settings) ? ['  positions  int32 [positions, 2]: the row and the position in it  8 bytes each'] : []),
    ...dense,
    ...sparse,
    ...(settings.gradientOf ? [`gradients  of ${scalarTexts[settings.gradientOf]}`] : []),
    ...(settings.statistics ? ['  count, active, mean, variance and maximum of each feature, for each shard'] : []),
    ...(plan.finite ? ['values     the first one that is not finite ends the dump'] : []),
    ...(settings.parquet ? ['files      the latents once more, sorted by latent, as Parquet'] : []),
    `in all     ${Number(bytesPerToken.toPrecision(6))} bytes per token${sparse.length > 0 ? ', and the latents' : ''}`,
  ].join('\n');
}

/** @throws TypeError for what planOf() cannot have given. */
function checkPlan(plan: DumpPlan): void {
  const { settings, rowsPerShard: rows, batch } = plan ?? {};
  try {
    object<Pick<DumpPlan, 'settings' | 'rowsPerShard' | 'batch'>>({
      settings: object<DumpSettings>(settingsFields),
      rowsPerShard: wholeFrom(1),
      batch: wholeFrom(1),
    })({ settings, rowsPerShard: rows, batch }, 'dropped');
  } catch (cause) {
    const { message } = cause as Error;
    throw new TypeError(`describePlan: plan must be what planOf gives, but is ${describe(plan)}: ${message}`, {
      cause,
    });
  }
}

const tokenBytes = ({ width, dtype }: DenseValues): number =>
  width * bytesPerElement(dtype) + (dtype === 'int8' ? bytesPerElement('float32') : 0);

/** Describes which positions are stored. */
export function describeFilter({ drop, sample, seed }: Pick<DumpSettings, 'drop' | 'sample' | 'seed'>): string {
  const without = drop.map((what) => (what === 'padding' ? 'padding' : '<|endoftext|>')).join(' and ');
  return sample < 1 ? `${sample} of them by chance (seed ${seed}), without ${without}` : `without ${without}`;
}
