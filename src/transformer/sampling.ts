// Choosing the next token from logits, on the host in double precision.

/** A generator of numbers in [0, 1): splitmix64's mixing (Steele, Lea, Flood 2014) on 32-bit halves, by seed. */
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

/** softmax(logits / temperature), in doubles. The loops are plain ones: they stand between one token and the next. */
export function probabilities(logits: ArrayLike<number>, temperature = 1): Float64Array {
  const n = logits.length;
  const out = new Float64Array(n);
  let largest = -Infinity;
  for (let i = 0; i < n; i++) {
    const x = (logits[i] as number) / temperature;
    out[i] = x;
    if (x > largest || Number.isNaN(x)) largest = x;
  }
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const weight = Math.exp((out[i] as number) - largest);
    out[i] = weight;
    sum += weight;
  }
  for (let i = 0; i < n; i++) out[i] = (out[i] as number) / sum;
  return out;
}

/**
 * The probabilities that nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751) leaves: the most likely tokens as long as
 * they sum to at most topP, the most likely one at least, scaled to sum to 1; the others get 0.
 */
export function nucleus(probs: Float64Array, topP: number): Float64Array {
  const order = likeliest(probs, topP);
  const limit = Math.max(topP, probs[order[0] as number] ?? 0);
  const left = new Float64Array(probs.length);
  let sum = 0;
  let kept = 0;
  for (const i of order) {
    sum += probs[i] as number;
    // a rounding error must not cost the last token of a nucleus that is everything
    if (sum > limit + 1e-12) break;
    left[i] = probs[i] as number;
    kept = sum;
  }
  for (const i of order) left[i] = (left[i] as number) / kept;
  return left;
}

/** Places of the largest values, largest first, equal ones in their order: so many that they sum to more than `share`. */
function likeliest(probs: Float64Array, share: number): number[] {
  let largest = 0;
  for (let i = 0; i < probs.length; i++) largest = Math.max(largest, probs[i] as number);
  // sorting those above a bound is enough, and a bound is found sooner than all are sorted
  for (let bound = largest / 16; ; bound = bound > 1e-12 ? bound / 16 : 0) {
    const places: number[] = [];
    let sum = 0;
    for (let i = 0; i < probs.length; i++) {
      if ((probs[i] as number) < bound) continue;
      places.push(i);
      sum += probs[i] as number;
    }
    if (bound > 0 && !(sum > share + 1e-9)) continue;
    return places.sort((i, j) => (probs[j] as number) - (probs[i] as number) || i - j);
  }
}

/** An index, each as likely as its probability. */
export function draw(probs: Float64Array, random: () => number): number {
  let left = random();
  let last = 0;
  for (let i = 0; i < probs.length; i++) {
    const p = probs[i] as number;
    if (p === 0) continue;
    last = i;
    left -= p;
    if (left < 0) return i;
  }
  return last;
}

export function greedy(logits: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if ((logits[i] as number) > (logits[best] as number)) best = i;
  return best;
}
