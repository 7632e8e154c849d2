// Counts the values of a shard that are not finite, as the manifest should have them. Most shards have none, and values
// are most of a shard. So while its digest is computed, a quick look finds the tensors that may have such values, and
// only those are read once more.
import { bytesPerElement } from '../../files/host_tensor.js';
import type { PlacedTensor } from '../../files/safetensors/safetensors_header.js';
import { latentsName, type NamedValues, namedValues } from '../format/layout.js';
import {
  finiteDType,
  type NonFinite,
  NonFiniteCounter,
  type NonFiniteCounts,
  showNonFinite,
  storedSizes,
} from '../format/non_finite.js';
import type { StoredPositions } from '../format/positions.js';
import type { DumpSettings, FloatDType } from '../format/settings.js';
import type { StoredFloats } from '../format/stored_floats.js';
import type { ShardReader } from './shard_reader.js';

const valuesAtOnce = 2 ** 22;

interface Values {
  /** The index in `namedValues`. */
  readonly of: number;
  readonly named: NamedValues;
  readonly dtype: FloatDType;
  readonly tensor: PlacedTensor;
}

/** Values of a dump that may not be finite. int8 always is. */
const valuesIn = ({ layout }: ShardReader, settings: DumpSettings): Values[] =>
  namedValues(settings)
    .map((named, of): Values => {
      return { of, named, dtype: finiteDType(named.dtype), tensor: layout.tensor(named.tensor) };
    })
    .filter(({ named }) => named.dtype !== 'int8');

/** What to add to a magnitude so that its highest bit is set exactly when it is not finite. */
const steps: Readonly<Record<FloatDType, number>> = {
  float32: 0x8000_0000 - 0x7f80_0000,
  float16: 0x8000 - 0x7c00,
  bfloat16: 0x8000 - 0x7f80,
};

/** Whether one of the values in `bytes` is not finite. It looks at 32 bits at a time, and has no branch: it is fast. */
function hasNonFinite({ buffer, byteOffset, length }: Uint8Array, dtype: FloatDType): boolean {
  const [magnitudes, step, signs] =
    dtype === 'float32'
      ? [0x7fff_ffff, steps[dtype], 0x8000_0000]
      : [0x7fff_7fff, steps[dtype] * 0x1_0001, 0x8000_8000];
  // 16-bit values may begin and end in the middle of 32 bits.
  const [from, to] = [byteOffset + (byteOffset % 4), byteOffset + length];
  const words = new Int32Array(buffer, from, Math.max(0, to - from) >> 2);
  const ends = new DataView(buffer, byteOffset, length);
  let found = 0;
  for (let i = 0; i < words.length; i++) found |= ((words[i] as number) & magnitudes) + step;
  if (from > byteOffset) found |= (ends.getUint16(0, true) & magnitudes) + step;
  if (to % 4 > 0) found |= (ends.getUint16(length - 2, true) & magnitudes) + step;
  return (found & signs) !== 0;
}

/** Finds the tensors of a shard that have values which are not finite. */
export class QuickLook {
  readonly #unseen: Values[];
  readonly #suspects: Values[] = [];

  constructor(shard: ShardReader, settings: DumpSettings) {
    const values = valuesIn(shard, settings);
    // A tensor may follow an odd number of int8 values.
    const isAligned = ({ tensor }: Values) => tensor.byteOffset % bytesPerElement(tensor.dtype) === 0;
    this.#unseen = values.filter(isAligned);
    this.#suspects = values.filter((candidate) => !isAligned(candidate));
  }

  /** Looks at the bytes of the file from `position` on, which must be a multiple of 8. */
  readonly look = (position: number, bytes: Uint8Array): void => {
    for (const values of [...this.#unseen]) {
      const { tensor, dtype } = values;
      const from = Math.max(0, tensor.byteOffset - position);
      const to = Math.min(bytes.length, tensor.byteOffset + tensor.bytes - position);
      if (from >= to) continue;
      if (!hasNonFinite(bytes.subarray(from, to), dtype)) continue;
      this.#unseen.splice(this.#unseen.indexOf(values), 1);
      this.#suspects.push(values);
    }
  };

  get suspects(): readonly Values[] {
    return this.#suspects;
  }
}

/** What is known of a shard's positions. */
export interface KnownPositions {
  readonly document: Int32Array;
  readonly positions: StoredPositions;
}

/** Counts what the quick look found. Returns each difference to the manifest. */
export async function countProblems(
  shard: ShardReader,
  settings: DumpSettings,
  known: KnownPositions,
  { suspects }: QuickLook,
): Promise<string[]> {
  const counter = new NonFiniteCounter(settings);
  for (const suspect of suspects) {
    if (suspect.named.isSparse) await addSparse(shard, suspect, counter);
    else await addDense(shard, suspect, known, counter);
  }
  const stored = known.positions.flatPositions ? known.positions.count : shard.entry.tokens;
  const entries = settings.autoencoders.map(({ location }) => {
    return shard.layout.tensor(`${latentsName(location)}.indices`).shape[0] as number;
  });
  const found = counter.counts(storedSizes(settings, stored, entries));
  return namedValues(settings).flatMap(({ name }) => differenceAt(name, shard.entry.nonFinite, found));
}

function differenceAt(name: string, listed: NonFiniteCounts | undefined, found: NonFiniteCounts | undefined): string[] {
  const at = (counts: NonFiniteCounts = {}): NonFinite | undefined =>
    Object.hasOwn(counts, name) ? counts[name] : undefined;
  const [there, here] = [at(listed), at(found)];
  const isSame = there?.nan === here?.nan && there?.infinite === here?.infinite && there?.values === here?.values;
  if (isSame) return [];
  const holds = here ? `of ${name} ${showNonFinite(here)}` : `all values of ${name} are finite`;
  return [`${holds}, but the manifest ${there ? `says ${showNonFinite(there)}` : 'counts none'}`];
}

async function addDense(
  shard: ShardReader,
  { of, named: { tensor, width } }: Values,
  { document, positions: { count, flatPositions } }: KnownPositions,
  counter: NonFiniteCounter,
): Promise<void> {
  const slotsAtOnce = Math.max(1, Math.floor(valuesAtOnce / width));
  for (let from = 0; from < count; from += slotsAtOnce) {
    const to = Math.min(count, from + slotsAtOnce);
    const values = (await shard.read(tensor, from * width, to * width)) as StoredFloats;
    for (let slot = from; slot < to; slot++) {
      const flat = flatPositions ? (flatPositions[slot] as number) : slot;
      if ((document[flat] as number) < 0) continue; // padding
      counter.addDense(of, values.subarray((slot - from) * width, (slot - from + 1) * width), () => flat);
    }
  }
}

async function addSparse(shard: ShardReader, { of, named, tensor }: Values, counter: NonFiniteCounter): Promise<void> {
  const entries = tensor.shape[0] as number;
  for (let from = 0; from < entries; from += valuesAtOnce) {
    const values = (await shard.read(named.tensor, from, Math.min(entries, from + valuesAtOnce))) as StoredFloats;
    counter.addSparse(of, values, () => ({ flat: 0, index: 0 })); // where they are does not matter
  }
}
