// A neuron's record: statistics of its activations over a corpus, and the texts on which it is most active. The files
// are those of the original (its NeuronRecord, one JSON file per neuron), field for field.
import { isUtf8 } from 'node:buffer';
import { checkObject, checkOptions, checkString, describe, type OptionNames } from '../../checks/arguments.js';
import { writeFileAtomically } from '../atomic_write.js';
import { type FileSource, openSource } from '../blob/file_source.js';
import { writingFor } from '../write_failure.js';
import {
  type ActivationRecord,
  fitsTokens,
  mostElements,
  type NeuronRecord,
  parseNeuronRecord,
} from './neuron_record_parser.js';

export type { ActivationRecord, NeuronId, NeuronRecord } from './neuron_record_parser.js';
export { parseNeuronRecord };

const largestFile = 2 ** 28;

/**
 * Reads a record, in today's format or an older one (see `parseNeuronRecord`).
 * @throws Error when there is no such file, or it has more than 256 MiB, or is no record; it names the field.
 */
export async function loadNeuronRecord(from: FileSource): Promise<NeuronRecord> {
  const source = await openSource('loadNeuronRecord', from);
  try {
    const { name, size } = source;
    if (size > largestFile) throw new Error(`${name}: a record has ${largestFile} bytes at most, but this has ${size}`);
    const bytes = await source.read(0, size);
    if (!isUtf8(bytes)) throw new Error(`${name}: is no UTF-8`);
    return parseNeuronRecord(Buffer.from(bytes.buffer).toString(), name);
  } finally {
    await source.close();
  }
}

/**
 * Writes a record as the original does. The file appears whole or not at all. JSON has no NaN and no infinity: they
 * become null.
 * @throws TypeError when a field has a wrong value, or tokens and activations do not fit together; RangeError when the
 *   file would be larger than what `loadNeuronRecord` reads.
 */
export const saveNeuronRecord = (path: string, record: NeuronRecord): Promise<void> =>
  saveRecord('saveNeuronRecord', path, record);

/** @internal The same for `operation`, whose name messages begin with. */
export async function saveRecord(operation: string, path: string, record: NeuronRecord): Promise<void> {
  checkString(operation, 'path', path, 'the path of a file');
  checkRecord(operation, record);
  const tooLarge = (what: string) =>
    new RangeError(
      `${operation}: ${path}: a record of ${what} could not be read again: give it fewer or shorter texts`,
    );
  const elements = elementsOf(record);
  if (elements > mostElements) throw tooLarge(`${elements} tokens and activations, more than ${mostElements},`);
  const fragments: string[] = [];
  let bytes = 0;
  try {
    for (const fragment of fragmentsOf(record)) {
      bytes += Buffer.byteLength(fragment);
      if (bytes > largestFile) break;
      fragments.push(fragment);
    }
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    bytes = Number.POSITIVE_INFINITY; // a token is longer than a string can be
  }
  if (bytes > largestFile) throw tooLarge(`more than ${largestFile} bytes`);
  await writingFor(operation, writeFileAtomically(path, fragments));
}

/** The elements of all lists, as reading counts them. */
function elementsOf({
  randomSample,
  randomSampleByQuantile,
  quantileBoundaries,
  mostPositiveActivationRecords,
}: NeuronRecord): number {
  const samples = [randomSample, mostPositiveActivationRecords, ...(randomSampleByQuantile ?? [])];
  const inLists = (randomSampleByQuantile?.length ?? 0) + (quantileBoundaries?.length ?? 0);
  return samples.reduce((sum, items) => {
    return items.reduce((all, { tokens, activations }) => all + 1 + tokens.length + activations.length, sum);
  }, inLists);
}

// ---- writing

/** The JSON of a record, byte for byte what the original writes (orjson), as far as all numbers are its floats. */
export const formatNeuronRecord = (record: NeuronRecord): string => [...fragmentsOf(record)].join('');

/** The same in fragments, as it may be longer than a string can be. */
function* fragmentsOf(record: NeuronRecord): Generator<string> {
  const { neuronId, randomSample, randomSampleByQuantile, quantileBoundaries } = record;
  const { neuronIndex, layerIndex } = neuronId;
  yield `{"neuron_id":{"neuron_index":${neuronIndex},"layer_index":${layerIndex},"dataclass_name":"NeuronId"}`;
  yield ',"random_sample":';
  yield* records(randomSample);
  yield ',"random_sample_by_quantile":';
  yield* randomSampleByQuantile ? list(randomSampleByQuantile, records) : ['null'];
  yield ',"quantile_boundaries":';
  yield* quantileBoundaries ? values(quantileBoundaries, float) : ['null'];
  for (const field of ['mean', 'variance', 'skewness', 'kurtosis'] as const)
    yield `,"${field}":${float(record[field])}`;
  yield ',"most_positive_activation_records":';
  yield* records(record.mostPositiveActivationRecords);
  yield ',"dataclass_name":"NeuronRecord"}';
}

function* list<T>(items: readonly T[], format: (item: T) => Iterable<string>): Generator<string> {
  yield '[';
  for (const [i, item] of items.entries()) {
    if (i > 0) yield ',';
    yield* format(item);
  }
  yield ']';
}

const valuesAtOnce = 2 ** 16;

function* values<T>(items: readonly T[], format: (item: T) => string): Generator<string> {
  yield '[';
  for (let from = 0; from < items.length; from += valuesAtOnce) {
    yield `${from > 0 ? ',' : ''}${items
      .slice(from, from + valuesAtOnce)
      .map(format)
      .join(',')}`;
  }
  yield ']';
}

const records = (items: readonly ActivationRecord[]): Generator<string> => list(items, activationFragments);

function* activationFragments({ tokens, activations }: ActivationRecord): Generator<string> {
  yield '{"activations":';
  yield* values(activations, float);
  yield ',"tokens":';
  yield* values(tokens, (token) => JSON.stringify(token));
  yield ',"dataclass_name":"ActivationRecord"}';
}

/** A number as orjson writes it: the fewest digits, a fraction always, an exponent below 1e-5 and from 1e16 on. */
function float(x: number | null): string {
  if (x === null || !Number.isFinite(x)) return 'null';
  if (Object.is(x, -0)) return '-0.0';
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-5 || size >= 1e16)) return x.toExponential();
  return Number.isInteger(x) ? `${x}.0` : String(x);
}

function checkRecord(operation: string, record: NeuronRecord): void {
  checkObject(operation, 'record', record, 'a record of a neuron');
  const wrong = (field: string, expected: string): never => wrongField(operation, field, expected);
  const { neuronId, randomSampleByQuantile, quantileBoundaries } = record;
  for (const field of ['layerIndex', 'neuronIndex'] as const) {
    const index: unknown = neuronId?.[field];
    if (!Number.isSafeInteger(index) || (index as number) < 0) wrong(`neuronId.${field}`, 'a whole number from 0 on');
  }
  for (const field of ['mean', 'variance', 'skewness', 'kurtosis'] as const) {
    if (record[field] !== null && typeof record[field] !== 'number') wrong(field, 'a number or null');
  }
  if (quantileBoundaries !== null) checkList(operation, 'quantileBoundaries', quantileBoundaries, 'number');
  checkActivationRecords(operation, 'randomSample', record.randomSample);
  checkActivationRecords(operation, 'mostPositiveActivationRecords', record.mostPositiveActivationRecords);
  if (randomSampleByQuantile === null) return;
  if (!Array.isArray(randomSampleByQuantile)) wrong('randomSampleByQuantile', 'a list of lists, or null');
  randomSampleByQuantile.forEach((sample, i) => {
    checkActivationRecords(operation, `randomSampleByQuantile[${i}]`, sample);
  });
}

function checkActivationRecords(operation: string, field: string, items: readonly ActivationRecord[]): void {
  if (!Array.isArray(items)) wrongField(operation, field, 'a list');
  for (const [i, item] of items.entries()) {
    if (typeof item !== 'object' || item === null) wrongField(operation, `${field}[${i}]`, 'a record of activations');
    const { tokens, activations } = item;
    checkList(operation, `${field}[${i}].tokens`, tokens, 'string');
    checkList(operation, `${field}[${i}].activations`, activations, 'number');
    if (fitsTokens(tokens.length, activations.length)) continue;
    const counts = `${tokens.length} tokens, ${activations.length} activations`;
    wrongField(operation, `${field}[${i}]`, `as many activations as tokens, or as many as pairs of them (${counts})`);
  }
}

function checkList(operation: string, field: string, items: readonly unknown[], type: 'number' | 'string'): void {
  if (Array.isArray(items) && items.every((item) => typeof item === type)) return;
  wrongField(operation, field, `a list of ${type}s`);
}

function wrongField(operation: string, field: string, expected: string): never {
  throw new TypeError(`${operation}: ${field} must be ${expected}`);
}

// ---- using

/**
 * The largest activation of the most positive records. NaN does not count.
 * @throws RangeError when the record has none.
 */
export function maxActivation(record: NeuronRecord): number {
  const mostPositiveActivationRecords = activationRecordsOf('maxActivation', record, 'mostPositiveActivationRecords');
  if (mostPositiveActivationRecords.length === 0) {
    throw new RangeError('maxActivation: the record has no most positive activation records');
  }
  let largest = Number.NEGATIVE_INFINITY;
  for (const { activations } of mostPositiveActivationRecords) {
    for (const activation of activations) if (activation > largest) largest = activation;
  }
  return largest;
}

function activationRecordsOf(
  operation: string,
  record: NeuronRecord,
  field: 'mostPositiveActivationRecords' | 'randomSample',
): readonly ActivationRecord[] {
  checkObject(operation, 'record', record, 'a record of a neuron');
  checkActivationRecords(operation, field, record[field]);
  return record[field];
}

export interface SplitOptions {
  /** Records of a kind (most positive, or random) in each split; as many as each split can have when left out. */
  readonly nExamplesPerSplit?: number | undefined;
}

const splitOptionNames: OptionNames<SplitOptions> = { nExamplesPerSplit: true };

const topSplits = ['train', 'calibration', 'valid', 'test'] as const;
const randomSplits = ['calibration', 'valid', 'test'] as const;

/** Records for explaining the neuron: every fourth of the most positive records, from the first on. */
export const trainActivationRecords = (record: NeuronRecord, options: SplitOptions = {}): ActivationRecord[] =>
  topSplit('trainActivationRecords', record, 'train', options);

/** Records for calibrating a simulation: most positive records, then random ones. */
export const calibrationActivationRecords = (record: NeuronRecord, options: SplitOptions = {}): ActivationRecord[] =>
  mixedSplit('calibrationActivationRecords', record, 'calibration', options);

/** Records for judging an explanation while working on it: most positive records, then random ones. */
export const validActivationRecords = (record: NeuronRecord, options: SplitOptions = {}): ActivationRecord[] =>
  mixedSplit('validActivationRecords', record, 'valid', options);

/** Records for judging an explanation in the end: most positive records, then random ones. */
export const testActivationRecords = (record: NeuronRecord, options: SplitOptions = {}): ActivationRecord[] =>
  mixedSplit('testActivationRecords', record, 'test', options);

type Split = (typeof topSplits)[number];

function mixedSplit(operation: string, record: NeuronRecord, split: Split, options: SplitOptions): ActivationRecord[] {
  const top = topSplit(operation, record, split, options);
  const items = activationRecordsOf(operation, record, 'randomSample');
  return [...top, ...interleaved(operation, { name: 'random records', items, splits: randomSplits }, split, options)];
}

function topSplit(operation: string, record: NeuronRecord, split: Split, options: SplitOptions): ActivationRecord[] {
  checkOptions(operation, options, splitOptionNames);
  const items = activationRecordsOf(operation, record, 'mostPositiveActivationRecords');
  const top = { name: 'most positive records', items, splits: topSplits };
  return interleaved(operation, top, split, options);
}

interface Splittable {
  readonly name: string;
  readonly items: readonly ActivationRecord[];
  readonly splits: readonly Split[];
}

// The records are dealt to the splits in rotation, so that each split has strong and weak ones.
function interleaved(
  operation: string,
  { name, items, splits }: Splittable,
  split: Split,
  { nExamplesPerSplit }: SplitOptions,
): ActivationRecord[] {
  const each = nExamplesPerSplit === undefined ? Math.floor(items.length / splits.length) : nExamplesPerSplit;
  if (!Number.isSafeInteger(each) || each < 0) {
    throw new RangeError(`${operation}: nExamplesPerSplit must be a whole number from 0 on, but is ${describe(each)}`);
  }
  if (each * splits.length > items.length) {
    const wanted = `${splits.length} splits of ${each}`;
    throw new RangeError(`${operation}: ${wanted} take ${each * splits.length} ${name}, but there are ${items.length}`);
  }
  return items.filter((_, i) => i < each * splits.length && i % splits.length === splits.indexOf(split));
}
