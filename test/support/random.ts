// Seeded random values for tests: the same on every machine, so that a failure can be run again by its seed.
// The generator is xoshiro128** (Blackman and Vigna 2018, arXiv 1805.01407), seeded by a 32-bit mixer.

export interface Random {
  /** A number in [0, 1), with 53 random bits. */
  next(): number;
  /** A whole number, low <= n < high. */
  integer(low: number, high: number): number;
  /** Mean 0, standard deviation 1. */
  normal(): number;
  pick<T>(list: readonly T[]): T;
  /** n normal numbers, times scale (1 when left out). */
  floats(n: number, scale?: number): Float32Array;
  /**
   * Sizes that tend to be awkward for a kernel, each from min (0) to max (97), with at most `elements` (65 536) in all.
   */
  shape(rank: number, options?: { min?: number; max?: number; elements?: number }): number[];
}

// Around the widths of vectors, tiles and blocks, and primes, which divide into nothing.
const awkward = [0, 1, 2, 3, 5, 7, 8, 11, 13, 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 63, 64, 65, 89, 95, 96, 97];

export function random(seed: number): Random {
  const state = seeded(seed);
  const bits = () => xoshiro(state);

  const next = () => ((bits() >>> 5) * 2 ** 26 + (bits() >>> 6)) / 2 ** 53;
  const integer = (low: number, high: number) => {
    if (!(high > low)) throw new Error(`random: integer must have low < high, but got ${low} and ${high}`);
    return low + Math.floor(next() * (high - low));
  };
  // Box and Muller 1958; 1 - next() is never 0.
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  const pick = <T>(list: readonly T[]): T => list[integer(0, list.length)] as T;
  const floats = (n: number, scale = 1) => Float32Array.from({ length: n }, () => normal() * scale);

  const size = (min: number, max: number) => {
    const list = awkward.filter((n) => n >= min && n <= max);
    return list.length > 0 && next() < 0.75 ? pick(list) : integer(min, max + 1);
  };
  const shape = (rank: number, { min = 0, max = 97, elements = 65_536 } = {}) => {
    const sizes: number[] = [];
    for (let left = elements; sizes.length < rank; left = Math.floor(left / Math.max(1, sizes.at(-1) as number))) {
      sizes.push(size(min, Math.max(min, Math.min(max, left))));
    }
    // The last sizes had the lowest limits: shuffled, any dimension may be the long one.
    for (let i = rank - 1; i > 0; i--) {
      const j = integer(0, i + 1);
      [sizes[i], sizes[j]] = [sizes[j] as number, sizes[i] as number];
    }
    return sizes;
  };
  return { next, integer, normal, pick, floats, shape };
}

function seeded(seed: number): Uint32Array {
  let z = seed >>> 0;
  return Uint32Array.from({ length: 4 }, () => {
    z = (z + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  });
}

const rotated = (x: number, by: number) => (x << by) | (x >>> (32 - by));

function xoshiro(s: Uint32Array): number {
  const [a, b, c, d] = s as unknown as [number, number, number, number];
  s[2] = c ^ a;
  s[3] = d ^ b;
  s[1] = b ^ (c ^ a);
  s[0] = a ^ (d ^ b);
  s[2] = c ^ a ^ (b << 9);
  s[3] = rotated(d ^ b, 11);
  return Math.imul(rotated(Math.imul(b, 5), 7), 9) >>> 0;
}
