// Byte pair encoding (Sennrich, Haddow and Birch 2016, arXiv 1508.07909) over a table of tokens: of all neighbours
// whose joined bytes are a token, those with the lowest token (the leftmost, if several) are joined, again and again.
// A heap of candidates and a linked list of parts make a word of n bytes cost n log n, not n^2: a million letters
// without a space take a second.

/** Words seen before; cleared when full. */
const mostCached = 50_000;
const longestCached = 64;

export class BytePairs {
  /** The bytes of all tokens, one after another; token t has those from ends[t - 1] to ends[t]. */
  readonly #bytes: Uint8Array;
  readonly #ends: Uint32Array;
  /** By bytes, each as a character of its own. */
  readonly #tokens = new Map<string, number>();
  readonly #longest: number;
  readonly #cache = new Map<string, readonly number[]>();

  /** `tokens`: text or bytes of each; only the first `mergeable` are made by joining. */
  constructor(tokens: readonly (string | readonly number[])[], mergeable: number) {
    const all = tokens.map((token) => Buffer.from(token as string));
    this.#bytes = Buffer.concat(all);
    let end = 0;
    this.#ends = Uint32Array.from(all, (bytes) => {
      end += bytes.length;
      return end;
    });
    for (let token = 0; token < mergeable; token++) this.#tokens.set((all[token] as Buffer).toString('latin1'), token);
    this.#longest = Math.max(...all.map((bytes) => bytes.length));
  }

  /** Appends the tokens of a word. */
  encode(word: string, to: number[]): void {
    const known = this.#cache.get(word);
    if (known) {
      for (const token of known) to.push(token);
      return;
    }
    const tokens = this.#merge(Buffer.from(word).toString('latin1'));
    for (const token of tokens) to.push(token);
    if (word.length > longestCached) return;
    if (this.#cache.size >= mostCached) this.#cache.clear();
    this.#cache.set(word, tokens);
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

  // A part is named by its first byte; next[part] is the part after it, and n stands for the end.
  #merge(bytes: string): number[] {
    const n = bytes.length;
    const whole = n <= this.#longest ? this.#tokens.get(bytes) : undefined;
    if (whole !== undefined) return [whole];
    const next = Uint32Array.from({ length: n }, (_, i) => i + 1);
    const previous = Int32Array.from({ length: n }, (_, i) => i - 1);
    const joined = new Int32Array(n).fill(none); // the token that a part and the next would make
    const candidates = new Candidates(n);

    const consider = (part: number) => {
      const second = next[part] as number;
      const end = second < n ? (next[second] as number) : n;
      const token = second < n && end - part <= this.#longest ? this.#tokens.get(bytes.slice(part, end)) : undefined;
      joined[part] = token ?? none;
      if (token !== undefined) candidates.add(token, part);
    };
    for (let part = 0; part < n; part++) consider(part);

    for (let best = candidates.take(); best; best = candidates.take()) {
      const { token, part } = best;
      if (joined[part] !== token) continue; // one of the two has been joined otherwise
      const gone = next[part] as number;
      const after = next[gone] as number;
      next[part] = after;
      joined[gone] = none;
      if (after < n) previous[after] = part;
      consider(part);
      if ((previous[part] as number) >= 0) consider(previous[part] as number);
    }

    const tokens: number[] = [];
    for (let part = 0; part < n; part = next[part] as number) {
      tokens.push(this.#tokens.get(bytes.slice(part, next[part])) as number);
    }
    return tokens;
  }
}

const none = -1;

/** A binary heap: take() gives the lowest token, and of equal ones the first part. */
class Candidates {
  // token and part in one number, which is exact: 2^16 tokens, 2^36 parts
  #heap: Float64Array;
  #size = 0;

  constructor(capacity: number) {
    this.#heap = new Float64Array(capacity);
  }

  add(token: number, part: number): void {
    if (this.#size === this.#heap.length) this.#grow();
    const heap = this.#heap;
    const key = token * parts + part;
    let at = this.#size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((heap[parent] as number) <= key) break;
      heap[at] = heap[parent] as number;
      at = parent;
    }
    heap[at] = key;
  }

  take(): { token: number; part: number } | undefined {
    if (this.#size === 0) return undefined;
    const best = this.#heap[0] as number;
    const last = this.#heap[--this.#size] as number;
    if (this.#size > 0) this.#sink(last);
    const token = Math.floor(best / parts);
    return { token, part: best - token * parts };
  }

  #sink(key: number): void {
    const heap = this.#heap;
    let at = 0;
    for (let child = 1; child < this.#size; child = 2 * at + 1) {
      if (child + 1 < this.#size && (heap[child + 1] as number) < (heap[child] as number)) child++;
      if ((heap[child] as number) >= key) break;
      heap[at] = heap[child] as number;
      at = child;
    }
    heap[at] = key;
  }

  #grow(): void {
    const larger = new Float64Array(2 * this.#size + 16);
    larger.set(this.#heap);
    this.#heap = larger;
  }
}

const parts = 2 ** 36;
