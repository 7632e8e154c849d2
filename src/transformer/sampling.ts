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

/** softmax(logits), in doubles. */
export function probabilities(logits: ArrayLike<number>): Float64Array {
  let largest = -Infinity;
  for (let i = 0; i < logits.length; i++) largest = Math.max(largest, logits[i] as number);
  const out = Float64Array.from(logits, (x) => Math.exp(x - largest));
  const sum = out.reduce((total, x) => total + x, 0);
  return out.map((x) => x / sum);
}

/**
 * The probabilities that nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751) leaves: the most likely tokens as long as
 * they sum to at most topP, the most likely one at least, scaled to sum to 1; the others get 0.
 */
export function nucleus(logits: ArrayLike<number>, topP: number): Float64Array {
  const probs = probabilities(logits);
  const order = [...probs.keys()].sort((i, j) => (probs[j] as number) - (probs[i] as number) || i - j);
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
  return left.map((p) => p / kept);
}

/** An index, each as likely as its probability. */
export function draw(probs: Float64Array, random: () => number): number {
  let left = random();
  let last = 0;
  for (const [i, p] of probs.entries()) {
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
