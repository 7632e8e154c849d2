// Chooses the rows of a dump that a record shows: those where a neuron is strongest, and some random ones.
import { createHash } from 'node:crypto';

/**
 * The rows with the largest values, for each neuron. Memory depends neither on the number of rows nor on their order.
 */
export class TopRows {
  readonly #most: number;
  readonly #values: Float64Array;
  readonly #rows: Float64Array;
  readonly #count: Int32Array;

  constructor(neurons: number, most: number) {
    this.#most = most;
    this.#values = new Float64Array(neurons * most);
    this.#rows = new Float64Array(neurons * most);
    this.#count = new Int32Array(neurons);
  }

  /** Of equal values, that of the earlier row ranks higher. NaN ranks below all other values. */
  offer(neuron: number, value: number, row: number): void {
    const start = neuron * this.#most;
    const count = this.#count[neuron] as number;
    const key = Number.isNaN(value) ? Number.NEGATIVE_INFINITY : value;
    let at = start + count;
    if (count < this.#most) this.#count[neuron] = count + 1;
    else if (count === 0 || !this.#before(key, row, --at)) return;
    for (; at > start && this.#before(key, row, at - 1); at--) {
      this.#values[at] = this.#values[at - 1] as number;
      this.#rows[at] = this.#rows[at - 1] as number;
    }
    this.#values[at] = key;
    this.#rows[at] = row;
  }

  /** The strongest row first. */
  rowsOf(neuron: number): number[] {
    const start = neuron * this.#most;
    return Array.from(this.#rows.subarray(start, start + (this.#count[neuron] as number)));
  }

  #before(value: number, row: number, at: number): boolean {
    const there = this.#values[at] as number;
    return value > there || (value === there && row < (this.#rows[at] as number));
  }
}

/**
 * `count` different rows out of `rows` (all of them where there are fewer), in random order: each choice and order is
 * as likely as any other. The same key gives the same rows everywhere. Choices for different keys are independent.
 */
export function randomRows(key: string, count: number, rows: number): number[] {
  const next = uniform(key);
  const chosen: number[] = [];
  const moved = new Map<number, number>(); // the entries of the list 0, 1, …, rows - 1 that the shuffle has changed
  for (let i = 0; i < Math.min(count, rows); i++) {
    const j = i + Math.floor(next() * (rows - i)); // Fisher and Yates, from the front
    chosen.push(moved.get(j) ?? j);
    moved.set(j, moved.get(i) ?? i);
  }
  return chosen;
}

// Numbers in [0, 1) of 53 bits: SHA-256 of the key and a counter.
function uniform(key: string): () => number {
  let block = Buffer.alloc(0);
  let [at, counter] = [0, 0];
  return () => {
    if (at === block.length) {
      block = createHash('sha256').update(`${key}/${counter++}`).digest();
      at = 0;
    }
    const bits = block.readBigUInt64LE(at);
    at += 8;
    return Number(bits >> 11n) / 2 ** 53;
  };
}
