// The progress of what reads a dump and makes records: collate() and report().

export interface CollateProgress {
  /** The tokens that the first passes have seen. */
  readonly tokens: number;
  /** The tokens that the first passes will have seen in the end. */
  readonly totalTokens: number;
  readonly tokensPerSecond: number;
  /** The time that the first passes still take. */
  readonly secondsLeft?: number;
  /** The records that are written. */
  readonly records: number;
  /** The records that will be written in the end. */
  readonly totalRecords: number;
}

/** Counts tokens and records, and reports the progress. */
export class ScanMeter {
  readonly #start = performance.now();
  readonly #onProgress: ((progress: CollateProgress) => void) | undefined;
  readonly #totalTokens: number;
  readonly #totalRecords: number;
  #seconds = 0; // up to the last tokens
  #tokens = 0;
  records = 0;

  constructor(
    totalTokens: number,
    totalRecords: number,
    onProgress: ((progress: CollateProgress) => void) | undefined,
  ) {
    this.#onProgress = onProgress;
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
    if (!this.#onProgress) return;
    const [tokens, totalTokens] = [this.#tokens, Math.max(this.#tokens, this.#totalTokens)];
    const tokensPerSecond = this.#seconds > 0 ? tokens / this.#seconds : 0;
    const left = tokens < totalTokens &&
      tokensPerSecond > 0 && { secondsLeft: (totalTokens - tokens) / tokensPerSecond };
    const { records } = this;
    this.#onProgress({ tokens, totalTokens, tokensPerSecond, ...left, records, totalRecords: this.#totalRecords });
  }
}
