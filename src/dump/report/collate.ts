// collate(): makes one file per neuron or latent of a dump, with its moments, the texts where it is strongest, and some
// random texts. Memory depends on what is chosen, within fixed bounds, and never on the size of the dump: a first pass
// sees every row and remembers which ones matter, and a second pass reads those.
import { dirname, join } from 'node:path';
import { checkCallback, checkOptions, checkSignal, describe, type OptionNames, wrong } from '../../engine/check.js';
import { type ActivationRecord, type NeuronRecord, saveRecord } from '../../files/neuron_record/neuron_record.js';
import { makeFolder, writing, writingFor } from '../../files/write_failure.js';
import { inJson } from '../format/in_json.js';
import { textOf } from '../format/token_text.js';
import { Dump } from '../read/reader.js';
import { type FetchedRow, fetchRows } from './collate_fetch.js';
import { type Scan, scanDump } from './collate_scan.js';
import { type FeatureTensor, featureTensorOf, rowsWithin } from './features.js';
import { randomRows } from './row_choice.js';
import { type CollateProgress, ScanMeter } from './scan_progress.js';

export interface CollateSelection {
  /** One of the dump's `names`: `1/mlp/post_act`, `1/resid/delta_mlp/latents`. */
  readonly name: string;
  /**
   * Neurons or latents. In a location with heads, an index is the head times the size of a head, plus the index within
   * it.
   */
  readonly indices: readonly number[] | 'all';
}

export interface CollateOptions {
  selections: readonly CollateSelection[];
  /** The folder to write to. It may exist. */
  out: string;
  /** The number of rows with the largest activations, for each neuron; 20 when left out. */
  top?: number;
  /** The number of rows chosen at random, for each neuron; 20 when left out. */
  random?: number;
  /** The seed of the random choice; 0 when left out. */
  seed?: number;
  onProgress?: (progress: CollateProgress) => void;
  /** Stops the work between two steps; files that exist are whole. The promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

const optionNames: OptionNames<CollateOptions> = {
  ...{ selections: true, out: true, top: true, random: true, seed: true },
  ...{ onProgress: true, signal: true },
};

const selectionNames: OptionNames<CollateSelection> = { name: true, indices: true };

export interface CollateResult {
  readonly out: string;
  readonly records: number;
  /** The rows of the dump, all of which were read. */
  readonly rows: number;
}

/** The limits that decide how much memory is used. */
export interface CollateLimits {
  /** For the rows of a chunk; there are two chunks at a time. One row may take more. */
  readonly chunkBytes: number;
  /** For activations and tokens that wait to be written. */
  readonly fetchBytes: number;
  /** The number of rows that are remembered in one pass, over all neurons. */
  readonly choices: number;
}

const usualLimits: CollateLimits = { chunkBytes: 2 ** 25, fetchBytes: 2 ** 26, choices: 2 ** 22 };
const mostRows = 1000; // in a record
const mostChosen = 2 ** 22; // features of one location, each of which becomes a file
const filesAtOnce = 8;

/**
 * Writes a record (see `loadNeuronRecord`) for each chosen neuron or latent: `OUT/LOCATION/LAYER/INDEX.json`, for
 * instance `OUT/mlp_post_act/1/300.json` and `OUT/resid_delta_mlp_latents/1/7.json`; the layer of a location outside
 * the layers is 0. The moments are those of all tokens, with the variance of the population; the most positive records
 * are the rows with the largest activations (of equal ones, the earlier rows; NaN ranks below all others), the
 * strongest first; the random sample is drawn for each neuron by itself, and is the same for the same dump and seed.
 * Quantiles are not tracked: they are null. Moments of a feature that is NaN somewhere are NaN, which files have as null.
 * Each file appears whole or not at all; a second call writes them again. Where the neurons do not fit into
 * memory, the dump is read several times.
 * @throws RangeError or TypeError before anything is read when an option is out of range, the dump lacks a location or
 *   an index, or a location has a value for each pair of tokens; Error for an empty or broken dump or a disk.
 */
export const collate = (dump: Dump, options: CollateOptions): Promise<CollateResult> =>
  collateWithin(usualLimits, dump, options);

/** collate() with other limits on memory, which have no influence on what is written. */
export async function collateWithin(
  limits: CollateLimits,
  dump: Dump,
  options: CollateOptions,
): Promise<CollateResult> {
  checkDump('collate', dump);
  checkOptions('collate', options, optionNames);
  checkSignal('collate', options.signal);
  checkCallback('collate', 'onProgress', options.onProgress);
  options.signal?.throwIfAborted();
  const work = planOf(limits, dump, options);
  const { rounds } = work;
  await dump.check(); // before memory is taken for what the manifest says
  const records = rounds.reduce((sum, { chosen }) => sum + chosen.length, 0);
  const meter = new ScanMeter(dump.tokenCount * rounds.length, records, options.onProgress);
  const undo = await makeFolders(work);
  try {
    for (const round of rounds) await collateRound(work, round, meter);
  } finally {
    await undo();
  }
  return { out: work.out, records: meter.records, rows: dump.rowCount };
}

/** Features of one location that are collated in one pass. */
interface Round {
  readonly tensor: FeatureTensor;
  readonly chosen: Int32Array;
}

interface Work {
  readonly dump: Dump;
  readonly limits: CollateLimits;
  readonly out: string;
  readonly top: number;
  readonly random: number;
  readonly seed: number;
  readonly signal: AbortSignal | undefined;
  readonly rounds: readonly Round[];
}

// ---- what is asked for

function planOf(limits: CollateLimits, dump: Dump, options: CollateOptions): Work {
  const { selections, out, signal } = options;
  if (typeof out !== 'string' || out === '') throw new TypeError('collate: out must be the path of a folder');
  const top = wholeNumber('collate', 'top', options.top, 20, [0, mostRows]);
  const random = wholeNumber('collate', 'random', options.random, 20, [0, mostRows]);
  const seed = wholeNumber('collate', 'seed', options.seed, 0, [0, Number.MAX_SAFE_INTEGER]);
  if (!Array.isArray(selections) || selections.length === 0) {
    throw new RangeError(
      "collate: selections must name one at least, such as { name: '1/mlp/post_act', indices: [300] }",
    );
  }
  if (dump.rowCount === 0) throw new Error(`collate: ${dump.folder} has no rows`);
  const perRound = Math.max(1, Math.floor(limits.choices / (top + 8))); // the moments take as much as some rows
  const rounds = [...chosenOf('collate', dump, selections)].flatMap(([name, indices]) => {
    const chosen = Int32Array.from(indices);
    const tensor = featureTensorOf(dump, name);
    return chunksOf(chosen, perRound).map((chunk): Round => ({ tensor, chosen: chunk }));
  });
  return { dump, limits, out, top, random, seed, signal, rounds };
}

/** @throws TypeError unless a value is what openDump() gives. */
export function checkDump(operation: string, dump: unknown): void {
  if (dump instanceof Dump) return;
  throw new TypeError(wrong(operation, 'dump', 'what openDump gives', describe(dump)));
}

/**
 * The value of an option, or `fallback` for one that was left out.
 * @throws RangeError when it is not a whole number from `low` to `high`.
 */
export function wholeNumber(
  operation: string,
  option: string,
  given: unknown,
  fallback: number,
  [low, high]: readonly [number, number],
): number {
  const value = given === undefined ? fallback : given;
  if (Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high) return value as number;
  throw new RangeError(
    `${operation}: ${option} must be a whole number from ${low} to ${high}, but is ${inJson(value)}`,
  );
}

/** The chosen indices by the name of their location, each once. */
export function chosenOf(
  operation: string,
  dump: Dump,
  selections: readonly CollateSelection[],
): Map<string, Set<number>> {
  if (!Array.isArray(selections)) {
    throw new TypeError(wrong(operation, 'selections', 'a list of { name, indices }', describe(selections)));
  }
  const chosen = new Map<string, Set<number>>();
  for (const [i, selection] of selections.entries()) {
    checkOptions(operation, selection, selectionNames, `selections[${i}]`);
    const { name, indices } = selection;
    const { width } = featureTensorOf(dump, name);
    if (indices === 'all' && width > mostChosen) {
      throw new RangeError(`${dump.folder}: ${name} has ${width} indices: choose ${mostChosen} at a time, and not all`);
    }
    const known = chosen.get(name) ?? new Set();
    chosen.set(name, known);
    if (indices === 'all') for (let i = 0; i < width; i++) known.add(i);
    else for (const index of checkedIndices(name, indices, width)) known.add(index);
  }
  return chosen;
}

function checkedIndices(name: string, indices: unknown, width: number): readonly number[] {
  if (!Array.isArray(indices) || indices.length === 0) {
    throw new TypeError(`the indices of ${name} must be a list of one number at least, or 'all'`);
  }
  for (const index of indices) {
    if (Number.isSafeInteger(index) && index >= 0 && index < width) continue;
    throw new RangeError(`${name} has indices from 0 to ${width - 1}, but ${inJson(index)} is asked for`);
  }
  return indices;
}

function chunksOf(list: Int32Array, most: number): Int32Array[] {
  return Array.from({ length: Math.ceil(list.length / most) }, (_, i) => list.subarray(i * most, (i + 1) * most));
}

// ---- the work

async function collateRound(work: Work, round: Round, meter: ScanMeter): Promise<void> {
  const { dump, limits, top, random, signal } = work;
  const { chunkBytes } = limits;
  const scan = await scanDump(dump, round.tensor, round.chosen, { top, chunkBytes, meter, signal });
  const choices = Math.max(1, Math.min(top + random, 2 * dump.rowCount));
  const perGroup = Math.max(1, Math.floor(limits.fetchBytes / (choices * (dump.manifest.context * 8 + 128))));
  for (let from = 0; from < round.chosen.length; from += perGroup) {
    await writeGroup(work, round, scan, [from, Math.min(from + perGroup, round.chosen.length)], meter);
  }
}

async function writeGroup(
  work: Work,
  { tensor, chosen }: Round,
  scan: Scan,
  [from, to]: [from: number, to: number],
  meter: ScanMeter,
): Promise<void> {
  const { dump, limits, random, seed, signal } = work;
  const choices = Array.from(chosen.subarray(from, to), (index, i) => ({
    index,
    slot: from + i,
    top: scan.top.rowsOf(from + i),
    random: randomRows(`${seed}/${tensor.name}/${index}`, random, dump.rowCount),
  }));
  const wanted = new Map(choices.map((choice) => [choice.index, [...choice.top, ...choice.random]]));
  const rowsAtOnce = rowsWithin(dump, tensor, limits.chunkBytes);
  const fetched = await fetchRows(dump, tensor, wanted, { rowsAtOnce, signal });
  for (let i = 0; i < choices.length; i += filesAtOnce) {
    signal?.throwIfAborted();
    const records = choices.slice(i, i + filesAtOnce).map(({ index, slot, top, random }): NeuronRecord => {
      const record = (row: number) => recordOf(dump, row, fetched(index, row));
      return {
        neuronId: { layerIndex: tensor.layerIndex, neuronIndex: index },
        randomSample: random.map(record),
        randomSampleByQuantile: null,
        quantileBoundaries: null,
        ...scan.moments.summary(slot),
        mostPositiveActivationRecords: top.map(record),
      };
    });
    await allWritten(records.map((record) => write(work, tensor, record)));
    meter.written(records.length);
  }
}

function recordOf(dump: Dump, row: number, { tokens, activations }: FetchedRow): ActivationRecord {
  try {
    return {
      tokens: Array.from(tokens, (token) => textOf(token, dump.manifest.tokenizer, dump.manifest.model.vocabulary)),
      activations: Array.from(activations),
    };
  } catch (cause) {
    throw new Error(`collate: ${dump.folder}: row ${row} is no text: ${(cause as Error).message}`, { cause });
  }
}

const pathOf = ({ out }: Work, { folder, layerIndex }: FeatureTensor, index: number): string =>
  join(out, folder, String(layerIndex), `${index}.json`);

/** Makes the folders, before anything is read. Returns a function that removes those that were made and are empty. */
async function makeFolders(work: Work): Promise<() => Promise<void>> {
  const undoes: (() => Promise<void>)[] = [];
  const undo = async () => {
    for (const one of undoes.reverse()) await one();
  };
  for (const { tensor, chosen } of work.rounds) {
    const path = pathOf(work, tensor, chosen[0] as number);
    const making = writing(path, 'file', makeFolder(dirname(path)));
    undoes.push(
      await writingFor('collate', making).catch(async (error) => {
        await undo();
        throw error;
      }),
    );
  }
  return undo;
}

async function write(work: Work, tensor: FeatureTensor, record: NeuronRecord): Promise<void> {
  const path = pathOf(work, tensor, record.neuronId.neuronIndex);
  await saveRecord('collate', path, record);
}

// When it rejects, nothing is being written any more.
async function allWritten(files: Promise<void>[]): Promise<void> {
  await Promise.allSettled(files);
  await Promise.all(files);
}
