// Values that are not finite: NaN, and infinities, among them values that are too large for the dtype of a dump. A dump
// stores them as they are and counts them. The counts are of stored values: padding and positions that are left out do
// not count. Nor do the masked entries of attention logits, which are -Infinity by definition.
import { bfloat16ToFloat, float16ToFloat } from '../../files/host_tensor.js';
import { quoted, withCommas } from '../../files/text.js';
import { type NamedValues, namedValues, type ValueSettings, valueNames } from './layout.js';
import type { DenseLocation, DumpDType, DumpSettings, FloatDType } from './settings.js';
import type { StoredFloats } from './stored_floats.js';

/** How many of a location's stored values are not finite. */
export interface NonFinite {
  readonly nan: number;
  /** Values that are infinite as they are stored: those that were so before, or are too large for the dtype. */
  readonly infinite: number;
  /** All stored values of the location in the shard. */
  readonly values: number;
}

/** The counts of a shard, by the names of `Dump.names`, without those of which every value is finite. */
export type NonFiniteCounts = Readonly<Record<string, NonFinite>>;

/** The counts of several shards together. `values` are those of the shards that have such, and of no others. */
export interface NonFiniteTotal extends NonFinite {
  /** The number of shards that have such values. */
  readonly shards: number;
}

/** A dump or a part of it has values that its request does not allow. */
export class NonFiniteError extends RangeError {
  /** The number of the shard that has the value. */
  readonly shard: number;

  constructor(message: string, shard: number) {
    super(message);
    this.shard = shard;
  }
}

// ---- finding

/** The smallest magnitude that is infinite when it is rounded to a dtype: half a step above the largest number. */
const overflow: Readonly<Record<FloatDType, number>> = {
  float32: Number.POSITIVE_INFINITY,
  float16: 65_520,
  bfloat16: (2 - 2 ** -8) * 2 ** 127,
};

/** The bits of infinity. */
const infinity = { float16: 0x7c00, bfloat16: 0x7f80 } as const;

/**
 * The index of the first of `values` in [from, to) that is not finite when it is stored as `dtype`; -1 if there is none.
 * 16-bit values have that dtype already.
 */
export function nextNonFinite(values: StoredFloats, dtype: FloatDType, from = 0, to = values.length): number {
  if (values instanceof Float32Array) {
    const limit = overflow[dtype];
    for (let i = from; i < to; i++) if (!(Math.abs(values[i] as number) < limit)) return i;
  } else {
    const least = infinity[dtype as keyof typeof infinity];
    for (let i = from; i < to; i++) if (((values[i] as number) & 0x7fff) >= least) return i;
  }
  return -1;
}

/** The same for a range in which -Infinity is allowed. */
function nextUnmasked(values: StoredFloats, dtype: FloatDType, from: number, to: number): number {
  for (let i = from; i < to; i++) {
    i = nextOther(values, dtype, i, to);
    if (i < to && nextNonFinite(values, dtype, i, i + 1) === i) return i;
  }
  return -1;
}

/** The index of the first value in [from, to) that is not -Infinity; `to` if there is none. */
function nextOther(values: StoredFloats, dtype: FloatDType, from: number, to: number): number {
  let i = from;
  // A loop for each kind of array is several times as fast as one for both.
  if (values instanceof Float32Array) while (i < to && values[i] === Number.NEGATIVE_INFINITY) i++;
  else {
    const masked = 0x8000 + infinity[dtype as keyof typeof infinity];
    while (i < to && values[i] === masked) i++;
  }
  return i;
}

function valueAt(values: StoredFloats, dtype: FloatDType, i: number): number {
  const value = values[i] as number;
  if (values instanceof Float32Array) return value;
  return dtype === 'float16' ? float16ToFloat(value) : bfloat16ToFloat(value);
}

/** The dtype that decides which values are finite. int8 has no limit but that of float32. */
export const finiteDType = (dtype: DumpDType): FloatDType => (dtype === 'int8' ? 'float32' : dtype);

const isLogits = ({ name }: NamedValues): boolean => name.endsWith('attn/qk_logits');

// ---- counting

/** A value of a shard that is not finite. Those of earlier positions come first, then those of earlier names. */
export interface FoundValue {
  /** The index in `namedValues` of what it is one of. */
  readonly of: number;
  /** row * context + position in the row */
  readonly flat: number;
  /** The index among the location's features: neurons, latents. */
  readonly index: number;
  /** As it left the device: it may be finite, and too large for the dtype. */
  readonly value: number;
}

type CountedSettings = ValueSettings & Pick<DumpSettings, 'context'>;

/** Counts the values of a shard that are not finite. */
export class NonFiniteCounter {
  readonly #settings: CountedSettings;
  readonly #named: readonly NamedValues[];
  readonly #refuses: (of: number) => boolean;
  readonly #nan: Float64Array;
  readonly #infinite: Float64Array;
  #first: FoundValue | undefined;

  /** `refuses` says for which of `namedValues` such values are an error of the caller. */
  constructor(settings: CountedSettings, refuses: (of: number) => boolean = () => false) {
    this.#settings = settings;
    this.#named = namedValues(settings);
    this.#refuses = refuses;
    this.#nan = new Float64Array(this.#named.length);
    this.#infinite = new Float64Array(this.#named.length);
  }

  /** The first of the refused values so far, whatever the order in which they were added. */
  get refused(): FoundValue | undefined {
    return this.#first;
  }

  /** Adds vectors, [vectors, width], of the dense `namedValues[of]`. `flatOf` gives the flat position of each. */
  addDense(of: number, values: StoredFloats, flatOf: (vector: number) => number): void {
    const named = this.#named[of] as NamedValues;
    const { width } = named;
    const dtype = finiteDType(named.dtype);
    const add = (at: number) => {
      const flat = flatOf(Math.floor(at / width));
      this.#add({ of, flat, index: at % width, value: valueAt(values, dtype, at) });
    };
    if (!isLogits(named)) {
      for (let at = nextNonFinite(values, dtype); at >= 0; at = nextNonFinite(values, dtype, at + 1)) add(at);
      return;
    }
    // [keys, heads] of each query: the keys after its own position are masked
    const { context, locations } = this.#settings;
    const heads = (locations[named.index] as DenseLocation).shape[2] ?? 1;
    for (let start = 0; start < values.length; start += width) {
      const end = start + width;
      const masked = Math.min(end, start + ((flatOf(start / width) % context) + 1) * heads);
      const next = (from: number): number => {
        const open = from < masked ? nextNonFinite(values, dtype, from, masked) : -1;
        return open >= 0 ? open : nextUnmasked(values, dtype, Math.max(from, masked), end);
      };
      for (let at = next(start); at >= 0; at = next(at + 1)) add(at);
    }
  }

  /** Adds entries of the sparse `namedValues[of]`. `placeOf` gives the flat position and the latent of each. */
  addSparse(of: number, values: StoredFloats, placeOf: (entry: number) => Pick<FoundValue, 'flat' | 'index'>): void {
    const dtype = finiteDType((this.#named[of] as NamedValues).dtype);
    for (let at = nextNonFinite(values, dtype); at >= 0; at = nextNonFinite(values, dtype, at + 1)) {
      this.#add({ of, ...placeOf(at), value: valueAt(values, dtype, at) });
    }
  }

  #add(found: FoundValue): void {
    const { of, value } = found;
    const counts = Number.isNaN(value) ? this.#nan : this.#infinite;
    counts[of] = (counts[of] as number) + 1;
    if (this.#refuses(of) && (!this.#first || isBefore(found, this.#first))) this.#first = found;
  }

  /**
   * The counts of all names that have any; undefined when none has. `sizes[i]`: the stored values of each of
   * `namedValues`.
   */
  counts(sizes: readonly number[]): NonFiniteCounts | undefined {
    const entries = this.#named.flatMap(({ name }, i): [string, NonFinite][] => {
      const [nan, infinite] = [this.#nan[i] as number, this.#infinite[i] as number];
      return nan + infinite > 0 ? [[name, { nan, infinite, values: sizes[i] as number }]] : [];
    });
    return entries.length > 0 ? Object.fromEntries(entries) : undefined;
  }
}

function isBefore(a: FoundValue, b: FoundValue): boolean {
  if (a.flat !== b.flat) return a.flat < b.flat;
  return a.of === b.of ? a.index < b.index : a.of < b.of;
}

/**
 * How many values a shard stores of each of `namedValues`. `positions`: those that are stored, without padding.
 * `entries`: the entries of the latents, by autoencoder.
 */
export const storedSizes = (settings: ValueSettings, positions: number, entries: readonly number[]): number[] =>
  namedValues(settings).map(({ isSparse, index, width }) =>
    isSparse ? (entries[index] as number) : positions * width,
  );

/** The counts of several shards together, in the order of the dump's names. */
export function totalNonFinite(
  settings: ValueSettings,
  shards: Iterable<{ readonly nonFinite?: NonFiniteCounts | undefined }>,
): Record<string, NonFiniteTotal> {
  const totals = new Map<string, NonFiniteTotal>();
  for (const { nonFinite = {} } of shards) {
    for (const [name, counts] of Object.entries(nonFinite)) {
      const before = totals.get(name) ?? { nan: 0, infinite: 0, values: 0, shards: 0 };
      totals.set(name, {
        nan: before.nan + counts.nan,
        infinite: before.infinite + counts.infinite,
        values: before.values + counts.values,
        shards: before.shards + 1,
      });
    }
  }
  const ordered = valueNames(settings).filter((name) => totals.has(name));
  return Object.fromEntries(ordered.map((name) => [name, totals.get(name) as NonFiniteTotal]));
}

// ---- checking counts that come from a file

interface CountedShard {
  readonly file: string;
  readonly rows: number;
  readonly nonFinite?: NonFiniteCounts | undefined;
}

/** What is wrong with the counts of some shards; undefined when they may be right. */
export function problemWithCounts(settings: CountedSettings, shards: readonly CountedShard[]): string | undefined {
  const { context } = settings;
  const counted = namedValues(settings).filter(({ dtype }) => dtype !== 'int8');
  const widths = new Map(counted.map(({ name, width }) => [name, width]));
  for (const { file, rows, nonFinite = {} } of shards) {
    for (const [name, { nan, infinite, values }] of Object.entries(nonFinite)) {
      const width = widths.get(name);
      const where = `the "nonFinite" of ${file} is not as it should be:`;
      if (width === undefined) return `${where} nothing is counted at ${quoted(name)}`;
      const count = nan + infinite;
      if (count > 0 && count <= values && values <= rows * context * width) continue;
      return `${where} ${count} of ${values} values at ${quoted(name)} cannot be`;
    }
  }
  return undefined;
}

// ---- showing

/** `1,234 of 98,304 values are not finite: 1,200 NaN, 34 infinite or too large for the dtype` */
export function showNonFinite({ nan, infinite, values }: NonFinite): string {
  const count = nan + infinite;
  const kinds = [
    ...(nan > 0 ? [`${withCommas(nan)} NaN`] : []),
    ...(infinite > 0 ? [`${withCommas(infinite)} infinite or too large for the dtype`] : []),
  ];
  return `${withCommas(count)} of ${withCommas(values)} values ${count === 1 ? 'is' : 'are'} not finite: ${kinds.join(', ')}`;
}

/** A line for each location that has values which are not finite. `shards`: the number of all shards. */
export const nonFiniteLines = (totals: Readonly<Record<string, NonFiniteTotal>>, shards: number): string[] =>
  Object.entries(totals).map(([name, total]) => {
    const where = total.shards < shards ? ` (in ${withCommas(total.shards)} of ${withCommas(shards)} shards)` : '';
    return `${name}: ${showNonFinite(total)}${where}`;
  });
