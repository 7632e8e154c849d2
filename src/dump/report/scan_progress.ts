// How far something is that reads a dump and makes records of what it finds.

export interface CollateProgress {
  /** That the first passes have seen, and will have seen. */
  readonly tokens: number;
  readonly totalTokens: number;
  readonly tokensPerSecond: number;
  /** Of the first passes. */
  readonly secondsLeft?: number;
  /** That are written, and will be. */
  readonly records: number;
  readonly totalRecords: number;
}

/** Counts, and tells. */
export class ScanMeter {
  readonly #start = performance.now();
  readonly #tell: ((progress: CollateProgress) => void) | undefined;
  readonly #totalTokens: number;
  readonly #totalRecords: number;
  #seconds = 0; // up to the last tokens
  #tokens = 0;
  records = 0;

  constructor(totalTokens: number, totalRecords: number, tell: ((progress: CollateProgress) => void) | undefined) {
    this.#tell = tell;
    this.#totalTokens = totalTokens;
    this.#totalRecords = totalRecords;
  }

  scanned(document: Int32Array): void {
    for (const at of document) if (at !== -1) this.#tokens++;
    this.#seconds = (performance.now() - this.#start) / 1000;
    this.#report();
  }

  written(records: number): void {
    this.records += records;
    this.#report();
  }

  #report(): void {
    if (!this.#tell) return;
    const [tokens, totalTokens] = [this.#tokens, Math.max(this.#tokens, this.#totalTokens)];
    const tokensPerSecond = this.#seconds > 0 ? tokens / this.#seconds : 0;
    const left = tokens < totalTokens &&
      tokensPerSecond > 0 && { secondsLeft: (totalTokens - tokens) / tokensPerSecond };
    const { records } = this;
    this.#tell({ tokens, totalTokens, tokensPerSecond, ...left, records, totalRecords: this.#totalRecords });
  }
}
