// The bytes of all sources of a corpus, one after the other.
import type { Source } from '../corpus/corpus.js';

/** A byte of a source. */
export interface SourceByte {
  readonly source: number;
  readonly offset: number;
}

export class SourceBytes {
  /** The bytes before each source, and in all. */
  readonly #before: readonly number[];

  constructor(sources: readonly Source[]) {
    const before = [0];
    for (const { bytes = 0 } of sources) before.push((before.at(-1) as number) + bytes);
    this.#before = before;
  }

  get total(): number {
    return this.#before.at(-1) as number;
  }

  /** The number of bytes before one. */
  before({ source, offset }: SourceByte): number {
    return (this.#before[source] as number) + offset;
  }

  /** The byte with so many others before it; behind the last one, that is the number of sources and 0. */
  at(position: number): SourceByte {
    if (position >= this.total) return { source: this.#before.length - 1, offset: position - this.total };
    let [low, high] = [0, this.#before.length - 1]; // the source is in [low, high)
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((this.#before[middle] as number) <= position) low = middle;
      else high = middle;
    }
    return { source: low, offset: position - (this.#before[low] as number) };
  }

  /** The number of bytes of a source. */
  sizeOf(source: number): number {
    return (this.#before[source + 1] as number) - (this.#before[source] as number);
  }

  /** The first of the sources that begin at the same byte as one; all between are empty. */
  firstBeside(source: number): number {
    let first = source;
    while (first > 0 && this.#before[first - 1] === this.#before[source]) first--;
    return first;
  }
}
