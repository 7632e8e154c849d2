// How far a dump is, from what its parts report.

export interface DumpProgress {
  /** Done, those found in the folder included. */
  readonly tokens: number;
  /**
   * Of the corpus, or of this run's part of it: exact when it has been read to its end, else estimated from its
   * bytes.
   */
  readonly totalTokens?: number;
  readonly bytesRead: number;
  /** Computed and stored per second, in this run. */
  readonly tokensPerSecond: number;
  readonly secondsLeft?: number;
  /** That are whole. */
  readonly shards: number;
}

export interface ProgressInputs {
  readonly corpusBytes: number | undefined;
  readonly limit: number | null;
  readonly parts: number;
}

/** Counts, and works out the rest. */
export class ProgressMeter {
  readonly #inputs: ProgressInputs;
  readonly #start = performance.now();
  bytesRead = 0;
  /** Tokens of the corpus read so far; those of this part; and whether these are all. */
  corpusTokens = 0;
  gathered = 0;
  allGathered = false;
  computed = 0;
  found = 0;
  shards = 0;

  constructor(inputs: ProgressInputs) {
    this.#inputs = inputs;
  }

  now(): DumpProgress {
    const tokens = this.computed + this.found;
    const seconds = (performance.now() - this.#start) / 1000;
    const tokensPerSecond = seconds > 0 ? this.computed / seconds : 0;
    const totalTokens = this.#total();
    const { bytesRead, shards } = this;
    const known = totalTokens !== undefined && { totalTokens: Math.max(tokens, totalTokens) };
    const left = totalTokens !== undefined &&
      tokensPerSecond > 0 && { secondsLeft: Math.max(0, totalTokens - tokens) / tokensPerSecond };
    return { tokens, ...known, bytesRead, tokensPerSecond, ...left, shards };
  }

  #total(): number | undefined {
    const { corpusBytes, limit, parts } = this.#inputs;
    if (this.allGathered) return this.gathered;
    const all =
      corpusBytes !== undefined && this.bytesRead > 0 && this.corpusTokens > 0
        ? (this.corpusTokens / this.bytesRead) * corpusBytes
        : undefined;
    if (all === undefined && limit === null) return undefined;
    return Math.round(Math.min(all ?? Number.POSITIVE_INFINITY, limit ?? Number.POSITIVE_INFINITY) / parts);
  }
}
