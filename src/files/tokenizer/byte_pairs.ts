// Byte pair encoding (Sennrich, Haddow and Birch 2016, arXiv 1508.07909) over a table of tokens: of all neighbours
// whose joined bytes are a token, those with the lowest token (the leftmost, if several) are merged, again and again.
// With a heap of candidates and a linked list of parts, a pre-token of n bytes costs n log n, not n^2: a million
// letters without a space take a second.

import type { TokenList } from './token_list.js';

const mostPairs = 2 ** 18;
const pairSlots = 2 * mostPairs;
/** The most bytes of a pre-token: its tables take 24 to 32 times as much. */
const longestPretoken = 2 ** 24;

export class BytePairs {
  /** The bytes of all tokens, one after another; token t has those from ends[t - 1] to ends[t]. */
  readonly #bytes: Uint8Array;
  readonly #ends: Uint32Array;
  /** Tokens by their bytes, each byte as one character. */
  readonly #tokens = new Map<string, number>();
  readonly #texts: string[]; // the keys of #tokens
  readonly #longest: number;
  readonly #single: Int32Array; // the token of each byte
  // A cache of merges, of two tokens each: a hash table, in which 0 marks a free slot.
  readonly #pairs = new Uint32Array(pairSlots);
  readonly #pairTokens = new Int32Array(pairSlots);
  #pairCount = 0;
  #parts = new Parts(256);

  /** `tokens`: text or bytes of each; only the first `mergeable` result from merges. */
  constructor(tokens: readonly (string | readonly number[])[], mergeable: number) {
    const all = tokens.map((token) => Buffer.from(token as string));
    this.#bytes = Buffer.concat(all);
    let end = 0;
    this.#ends = Uint32Array.from(all, (bytes) => {
      end += bytes.length;
      return end;
    });
    this.#texts = all.slice(0, mergeable).map((bytes) => bytes.toString('latin1'));
    for (const [token, text] of this.#texts.entries()) this.#tokens.set(text, token);
    this.#longest = Math.max(...all.map((bytes) => bytes.length));
    this.#single = Int32Array.from({ length: 256 }, (_, byte) => this.#tokens.get(String.fromCharCode(byte)) ?? none);
  }

  /**
   * Appends the tokens of a pre-token, given by its bytes.
   * @throws RangeError for a pre-token of more than 16 MiB.
   */
  encode(bytes: Uint8Array, to: TokenList): void {
    const n = bytes.length;
    if (n > longestPretoken) {
      throw new RangeError(`encode: a word of ${n} bytes that cannot be split is too long: ${longestPretoken} at most`);
    }
    if (n > this.#parts.capacity) this.#parts = new Parts(n);
    const { token, next, previous, joined, candidates } = this.#parts;
    // A part is named by its first byte; next[part] is the part after it, and n stands for the end.
    for (let part = 0; part < n; part++) {
      token[part] = this.#single[bytes[part] as number] as number;
      next[part] = part + 1;
      previous[part] = part - 1;
    }
    for (let part = 0; part + 1 < n; part++) this.#consider(part, part + 1);
    joined[n - 1] = none;

    while (candidates.size > 0) {
      const key = candidates.take();
      const whole = Math.floor(key / partRange);
      const part = key - whole * partRange;
      if (joined[part] !== whole) continue; // one of the two has been merged otherwise
      const removed = next[part] as number;
      const after = next[removed] as number;
      token[part] = whole;
      next[part] = after;
      joined[removed] = none;
      joined[part] = none;
      if (after < n) {
        previous[after] = part;
        this.#consider(part, after);
      }
      const before = previous[part] as number;
      if (before >= 0) this.#consider(before, part);
    }
    to.reserve(n);
    for (let part = 0; part < n; part = next[part] as number) to.tokens[to.length++] = token[part] as number;
    if (this.#parts.capacity > largestKept) this.#parts = new Parts(256);
  }

  #consider(part: number, second: number): void {
    const { token, joined, candidates } = this.#parts;
    const whole = this.#join(token[part] as number, token[second] as number);
    joined[part] = whole;
    if (whole !== none) candidates.add(whole * partRange + part);
  }

  /** The token that two tokens merge into, or `none`. */
  #join(first: number, second: number): number {
    const pair = ((first << 16) | second) >>> 0; // tokens have 16 bits
    const hash = Math.imul(pair, 0x9e3779b1);
    let slot = (hash ^ (hash >>> 15)) & (pairSlots - 1);
    for (; this.#pairs[slot] !== 0; slot = (slot + 1) & (pairSlots - 1)) {
      if (this.#pairs[slot] === pair) return this.#pairTokens[slot] as number;
    }
    const text = (this.#texts[first] as string) + (this.#texts[second] as string);
    const whole = (text.length <= this.#longest ? this.#tokens.get(text) : undefined) ?? none;
    if (pair === 0) return whole; // 0 marks a free slot
    if (++this.#pairCount > mostPairs) {
      this.#pairs.fill(0);
      this.#pairCount = 1;
      return whole;
    }
    this.#pairs[slot] = pair;
    this.#pairTokens[slot] = whole;
    return whole;
  }

  bytesOf(tokens: readonly number[]): Uint8Array {
    const ends = this.#ends;
    const start = (token: number) => (token === 0 ? 0 : (ends[token - 1] as number));
    const out = new Uint8Array(tokens.reduce((sum, token) => sum + (ends[token] as number) - start(token), 0));
    let at = 0;
    for (const token of tokens) {
      for (let i = start(token); i < (ends[token] as number); i++) out[at++] = this.#bytes[i] as number;
    }
    return out;
  }
}

const none = -1;
const partRange = 2 ** 36; // token and part in one number, which is exact: 2^16 tokens, 2^36 parts
const largestKept = 2 ** 16;

/** The tables for merging, used again and again. */
class Parts {
  readonly token: Int32Array;
  readonly next: Int32Array;
  readonly previous: Int32Array;
  /** The token that a part and the next would merge into. */
  readonly joined: Int32Array;
  readonly candidates: Heap;

  constructor(readonly capacity: number) {
    this.token = new Int32Array(capacity);
    this.next = new Int32Array(capacity);
    this.previous = new Int32Array(capacity);
    this.joined = new Int32Array(capacity);
    this.candidates = new Heap(capacity);
  }
}

/** A binary heap: take() gives the lowest key. */
class Heap {
  size = 0;
  #keys: Float64Array;

  constructor(capacity: number) {
    this.#keys = new Float64Array(capacity);
  }

  add(key: number): void {
    if (this.size === this.#keys.length) this.#grow();
    const keys = this.#keys;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((keys[parent] as number) <= key) break;
      keys[at] = keys[parent] as number;
      at = parent;
    }
    keys[at] = key;
  }

  /** Removes the lowest key and returns it. There must be one. */
  take(): number {
    const least = this.#keys[0] as number;
    const last = this.#keys[--this.size] as number;
    if (this.size > 0) this.#sink(last);
    return least;
  }

  #sink(key: number): void {
    const keys = this.#keys;
    let at = 0;
    for (let child = 1; child < this.size; child = 2 * at + 1) {
      if (child + 1 < this.size && (keys[child + 1] as number) < (keys[child] as number)) child++;
      if ((keys[child] as number) >= key) break;
      keys[at] = keys[child] as number;
      at = child;
    }
    keys[at] = key;
  }

  #grow(): void {
    const larger = new Float64Array(2 * this.size);
    larger.set(this.#keys);
    this.#keys = larger;
  }
}
