// A neuron's record: what is known of its activations over a corpus, and the texts that show it best. The files are
// those of the original (its NeuronRecord, one JSON file per neuron), field for field.
import { isUtf8 } from 'node:buffer';
import { writeFileAtomically } from './atomic_write.js';
import { type ActivationRecord, fitsTokens, type NeuronRecord, parseNeuronRecord } from './neuron_record_parser.js';
import { type FileSource, openSource } from './source.js';

export type { ActivationRecord, NeuronId, NeuronRecord } from './neuron_record_parser.js';
export { parseNeuronRecord };

const largestFile = 2 ** 28;

/**
 * Reads a record, in the form of today or an older one (see `parseNeuronRecord`).
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
 * @throws TypeError when a field is not what it must be, or tokens and activations do not fit together.
 */
export async function saveNeuronRecord(path: string, record: NeuronRecord): Promise<void> {
  checkRecord(record);
  await writeFileAtomically(path, formatNeuronRecord(record));
}

// ---- writing

/** The JSON of a record, byte for byte what the original writes (orjson), as far as all numbers are its floats. */
export function formatNeuronRecord(record: NeuronRecord): string {
  const { neuronId, randomSample, randomSampleByQuantile, quantileBoundaries } = record;
  const { neuronIndex, layerIndex } = neuronId;
  const id = `{"neuron_index":${neuronIndex},"layer_index":${layerIndex},"dataclass_name":"NeuronId"}`;
  const byQuantile = randomSampleByQuantile && list(randomSampleByQuantile, records);
  const fields = [
    `"neuron_id":${id}`,
    `"random_sample":${records(randomSample)}`,
    `"random_sample_by_quantile":${byQuantile}`,
    `"quantile_boundaries":${quantileBoundaries && list(quantileBoundaries, float)}`,
    `"mean":${float(record.mean)}`,
    `"variance":${float(record.variance)}`,
    `"skewness":${float(record.skewness)}`,
    `"kurtosis":${float(record.kurtosis)}`,
    `"most_positive_activation_records":${records(record.mostPositiveActivationRecords)}`,
    '"dataclass_name":"NeuronRecord"',
  ];
  return `{${fields.join(',')}}`;
}

const list = <T>(items: readonly T[], format: (item: T) => string): string => `[${items.map(format).join(',')}]`;

const records = (items: readonly ActivationRecord[]): string =>
  list(items, ({ tokens, activations }) => {
    const texts = list(tokens, (token) => JSON.stringify(token));
    return `{"activations":${list(activations, float)},"tokens":${texts},"dataclass_name":"ActivationRecord"}`;
  });

/** As orjson writes it: the fewest digits, a fraction always, an exponent below 1e-5 and from 1e16 on. */
function float(x: number | null): string {
  if (x === null || !Number.isFinite(x)) return 'null';
  if (Object.is(x, -0)) return '-0.0';
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-5 || size >= 1e16)) return x.toExponential();
  return Number.isInteger(x) ? `${x}.0` : String(x);
}

function checkRecord(record: NeuronRecord): void {
  const { neuronId, randomSampleByQuantile, quantileBoundaries } = record;
  for (const field of ['layerIndex', 'neuronIndex'] as const) {
    const index: unknown = neuronId?.[field];
    if (!Number.isSafeInteger(index) || (index as number) < 0) wrong(`neuronId.${field}`, 'a whole number from 0 on');
  }
  for (const field of ['mean', 'variance', 'skewness', 'kurtosis'] as const) {
    if (record[field] !== null && typeof record[field] !== 'number') wrong(field, 'a number or null');
  }
  if (quantileBoundaries !== null) checkList('quantileBoundaries', quantileBoundaries, 'number');
  checkActivationRecords('randomSample', record.randomSample);
  checkActivationRecords('mostPositiveActivationRecords', record.mostPositiveActivationRecords);
  if (randomSampleByQuantile === null) return;
  if (!Array.isArray(randomSampleByQuantile)) wrong('randomSampleByQuantile', 'a list of lists, or null');
  randomSampleByQuantile.forEach((sample, i) => {
    checkActivationRecords(`randomSampleByQuantile[${i}]`, sample);
  });
}

function checkActivationRecords(field: string, items: readonly ActivationRecord[]): void {
  if (!Array.isArray(items)) wrong(field, 'a list');
  items.forEach(({ tokens, activations }, i) => {
    checkList(`${field}[${i}].tokens`, tokens, 'string');
    checkList(`${field}[${i}].activations`, activations, 'number');
    if (fitsTokens(tokens.length, activations.length)) return;
    const counts = `${tokens.length} tokens, ${activations.length} activations`;
    wrong(`${field}[${i}]`, `as many activations as tokens, or as many as pairs of them (${counts})`);
  });
}

function checkList(field: string, items: readonly unknown[], type: 'number' | 'string'): void {
  if (!Array.isArray(items) || items.some((item) => typeof item !== type)) wrong(field, `a list of ${type}s`);
}

function wrong(field: string, expected: string): never {
  throw new TypeError(`saveNeuronRecord: ${field} must be ${expected}`);
}

// ---- using

/**
 * The largest activation of the most positive records. NaN counts for nothing.
 * @throws RangeError when the record has none.
 */
export function maxActivation({ mostPositiveActivationRecords }: NeuronRecord): number {
  if (mostPositiveActivationRecords.length === 0) {
    throw new RangeError('maxActivation: the record has no most positive activation records');
  }
  let largest = Number.NEGATIVE_INFINITY;
  for (const { activations } of mostPositiveActivationRecords) {
    for (const activation of activations) if (activation > largest) largest = activation;
  }
  return largest;
}

export interface SplitOptions {
  /** Records of a kind (most positive, or random) in each split; as many as there are when left out. */
  readonly nExamplesPerSplit?: number | undefined;
}

const topSplits = ['train', 'calibration', 'valid', 'test'] as const;
const randomSplits = ['calibration', 'valid', 'test'] as const;

/** To explain the neuron with: every fourth of the most positive records, from the first on. */
export const trainActivationRecords = (record: NeuronRecord, options: SplitOptions = {}): ActivationRecord[] =>
  topSplit('trainActivationRecords', record, 'train', options);

/** To calibrate a simulation with: most positive records, then as many random ones where there are enough. */
export const calibrationActivationRecords = (record: NeuronRecord, options: SplitOptions = {}): ActivationRecord[] =>
  mixedSplit('calibrationActivationRecords', record, 'calibration', options);

/** To judge an explanation by while working on it: most positive records, then random ones. */
export const validActivationRecords = (record: NeuronRecord, options: SplitOptions = {}): ActivationRecord[] =>
  mixedSplit('validActivationRecords', record, 'valid', options);

/** To judge an explanation by in the end: most positive records, then random ones. */
export const testActivationRecords = (record: NeuronRecord, options: SplitOptions = {}): ActivationRecord[] =>
  mixedSplit('testActivationRecords', record, 'test', options);

type Split = (typeof topSplits)[number];

function mixedSplit(operation: string, record: NeuronRecord, split: Split, options: SplitOptions): ActivationRecord[] {
  const random = { name: 'random records', items: record.randomSample, splits: randomSplits };
  return [...topSplit(operation, record, split, options), ...interleaved(operation, random, split, options)];
}

function topSplit(operation: string, record: NeuronRecord, split: Split, options: SplitOptions): ActivationRecord[] {
  const top = { name: 'most positive records', items: record.mostPositiveActivationRecords, splits: topSplits };
  return interleaved(operation, top, split, options);
}

interface Splittable {
  readonly name: string;
  readonly items: readonly ActivationRecord[];
  readonly splits: readonly Split[];
}

// The splits take turns, so that each has strong and weak records.
function interleaved(
  operation: string,
  { name, items, splits }: Splittable,
  split: Split,
  { nExamplesPerSplit }: SplitOptions,
): ActivationRecord[] {
  const each = nExamplesPerSplit ?? Math.floor(items.length / splits.length);
  if (!Number.isSafeInteger(each) || each < 0) {
    throw new RangeError(`${operation}: nExamplesPerSplit must be a whole number from 0 on, but is ${each}`);
  }
  if (each * splits.length > items.length) {
    const wanted = `${splits.length} splits of ${each}`;
    throw new RangeError(`${operation}: ${wanted} take ${each * splits.length} ${name}, but there are ${items.length}`);
  }
  return items.filter((_, i) => i < each * splits.length && i % splits.length === splits.indexOf(split));
}
