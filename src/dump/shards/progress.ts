// The progress of a dump, from the counts that its parts report.

export interface DumpProgress {
  /** Tokens that are done, including those that were found in the folder. */
  readonly tokens: number;
  /**
   * Tokens of the corpus, or of this run's part of it. Exact when the corpus has been read to its end, else estimated
   * from its bytes.
   */
  readonly totalTokens?: number;
  readonly bytesRead: number;
  /** Tokens that were computed and stored per second in this run. */
  readonly tokensPerSecond: number;
  readonly secondsLeft?: number;
  /** Shards that are complete. */
  readonly shards: number;
}

export interface ProgressInputs {
  readonly corpusBytes: number | undefined;
  readonly limit: number | null;
  readonly parts: number;
}

/** Counters of a dump, and the progress that follows from them. */
export class ProgressMeter {
  readonly #inputs: ProgressInputs;
  readonly #start = performance.now();
  bytesRead = 0;
  /** Tokens of the corpus that were read so far. */
  corpusTokens = 0;
  /** Those of them that are in this run's part. */
  gathered = 0;
  /** Whether the corpus has been read to its end. */
  allGathered = false;
  /** The tokens of this run's part, where the index of the corpus says it. */
  known: number | undefined;
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
    if (this.known !== undefined) return this.known;
    if (this.allGathered) return this.gathered;
    const all =
      corpusBytes !== undefined && this.bytesRead > 0 && this.corpusTokens > 0
        ? (this.corpusTokens / this.bytesRead) * corpusBytes
        : undefined;
    if (all === undefined && limit === null) return undefined;
    return Math.round(Math.min(all ?? Number.POSITIVE_INFINITY, limit ?? Number.POSITIVE_INFINITY) / parts);
  }
}
