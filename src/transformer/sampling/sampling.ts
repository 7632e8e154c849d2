// Chooses the next token from logits or probabilities, on the host. The loops are plain ones for speed: every next
// token waits for them.
import { checkInteger, wrong } from '../../engine/check.js';

/**
 * A generator of numbers in [0, 1), by seed. Its state is two 32-bit counters, which grow by the halves of splitmix64's
 * increment (Steele, Lea, Flood 2014); MurmurHash3's 32-bit finalizer mixes them.
 */
export function seededRandom(seed: number): () => number {
  let a = seed >>> 0;
  let b = Math.floor(seed / 2 ** 32) >>> 0;
  const mix = (x: number) => {
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return (x ^ (x >>> 16)) >>> 0;
  };
  return () => {
    a = (a + 0x9e3779b9) >>> 0;
    b = (b + 0x7f4a7c15) >>> 0;
    const high = mix(a ^ mix(b));
    const low = mix(b ^ mix((a + 0x632be5ab) >>> 0));
    return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
  };
}

/** splitmix64's finalizer (Stafford's variant 13), on 64 bits. */
function mixed64(x: bigint): bigint {
  x = BigInt.asUintN(64, (x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
  x = BigInt.asUintN(64, (x ^ (x >> 27n)) * 0x94d049bb133111ebn);
  return x ^ (x >> 31n);
}

/** As many as an array can have. */
const mostRows = 2 ** 32 - 1;

/**
 * The seeds of the rows of a batch that is sampled with one `seed`. Row 0 has `seed` itself. Row i has the upper 53 bits
 * of mix(seed + i 0x9e3779b97f4a7c15 mod 2^64), where mix is the finalizer of splitmix64: the number that splitmix64
 * gives i-th when `seed` is its state.
 * @throws RangeError unless both are safe integers of 0 or more.
 */
export function derivedSeeds(seed: number, count: number): number[] {
  checkInteger('derivedSeeds', 'seed', seed, 0);
  checkInteger('derivedSeeds', 'count', count, 0);
  if (count > mostRows) throw new RangeError(wrong('derivedSeeds', 'count', `${mostRows} at most`, String(count)));
  const derived = (row: number): number => {
    const state = BigInt.asUintN(64, BigInt(seed) + BigInt(row) * 0x9e3779b97f4a7c15n);
    return Number(mixed64(state) >> 11n);
  };
  return Array.from({ length: count }, (_, row) => (row === 0 ? seed : derived(row)));
}

const rounding = 1e-6;

/**
 * The probabilities after nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751): those of the most likely tokens,
 * as long as they sum to at most topP (but at least the most likely one), scaled to sum to 1; the others become 0.
 */
export function nucleus(probs: ArrayLike<number>, topP: number): Float64Array {
  const order = likeliest(probs, topP);
  const limit = Math.max(topP, probs[order[0] as number] ?? 0);
  const left = new Float64Array(probs.length);
  let sum = 0;
  let kept = 0;
  for (const i of order) {
    sum += probs[i] as number;
    // a rounding error of float32 must not exclude the last token when the nucleus is all tokens
    if (sum > limit + rounding) break;
    left[i] = probs[i] as number;
    kept = sum;
  }
  for (const i of order) left[i] = (left[i] as number) / kept;
  return left;
}

/**
 * Indices of the largest values, largest first, equal ones in their order: so many that they sum to more than `share`.
 */
function likeliest(probs: ArrayLike<number>, share: number): number[] {
  let largest = 0;
  for (let i = 0; i < probs.length; i++) largest = Math.max(largest, probs[i] as number);
  // only values above a bound are sorted: finding a bound is faster than sorting all
  for (let bound = largest / 16; ; bound = bound > 1e-12 ? bound / 16 : 0) {
    const indices: number[] = [];
    let sum = 0;
    for (let i = 0; i < probs.length; i++) {
      if ((probs[i] as number) < bound) continue;
      indices.push(i);
      sum += probs[i] as number;
    }
    if (bound > 0 && !(sum > share + 2 * rounding)) continue;
    return indices.sort((i, j) => (probs[j] as number) - (probs[i] as number) || i - j);
  }
}

/** A random index, each with its probability. */
export function draw(probs: ArrayLike<number>, random: () => number): number {
  let left = random();
  for (let i = 0; i < probs.length; i++) {
    left -= probs[i] as number;
    if (left < 0) return i;
  }
  // by rounding, they sum to less than 1
  let last = probs.length - 1;
  while (last > 0 && probs[last] === 0) last--;
  return last;
}

/**
 * The index of the largest value, of equals the first; undefined where there is none that a token could be chosen by:
 * where a value is NaN or +inf, or all are -inf.
 */
export function greedy(logits: ArrayLike<number>): number | undefined {
  let best: number | undefined;
  let largest = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) {
    const value = logits[i] as number;
    if (value <= largest) continue; // false for NaN
    if (!(value < Number.POSITIVE_INFINITY)) return undefined;
    largest = value;
    best = i;
  }
  return best;
}

/**
 * What keeps a token from being chosen by these logits, in words. `stopped`: stop tokens were forbidden, so that their
 * finite logits do not count.
 */
export function problemOf(logits: ArrayLike<number>, { stopped = false } = {}): string {
  for (const [name, is] of [
    ['a NaN', Number.isNaN],
    ['a +inf', (x: number) => x === Number.POSITIVE_INFINITY],
  ] as const) {
    const found = Array.prototype.findIndex.call(logits, is);
    if (found >= 0) return `hold ${name}, at token ${found}`;
  }
  return `hold nothing but -inf${stopped ? ' beside the stop tokens, which minTokens forbids' : ''}`;
}
