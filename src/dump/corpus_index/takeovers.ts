// Leases that other processes have and may leave without having finished: a process that ends is followed by another one.
// To find out takes seconds, in which this process looks for other things.
import type { Lease } from '../../files/lease.js';

export class Takeovers {
  readonly #take: (slice: number) => Promise<Lease | undefined>;
  /** Attempts that are under way, by slice. */
  readonly #attempts = new Map<number, Promise<void>>();
  readonly #taken = new Map<number, Lease>();
  #failure: { readonly error: unknown } | undefined;
  #isClosed = false;

  constructor(take: (slice: number) => Promise<Lease | undefined>) {
    this.#take = take;
  }

  /** Tries to take the leases of some slices, and returns one that was taken, if any was. @throws what an attempt threw. */
  next(slices: readonly number[]): [slice: number, lease: Lease] | undefined {
    if (this.#failure) throw this.#failure.error;
    for (const slice of slices) if (!this.#attempts.has(slice) && !this.#taken.has(slice)) this.#begin(slice);
    const [first] = this.#taken;
    if (first) this.#taken.delete(first[0]);
    return first;
  }

  #begin(slice: number): void {
    const attempt = this.#take(slice)
      .then(async (lease) => {
        if (this.#isClosed) await lease?.release();
        else if (lease) this.#taken.set(slice, lease);
      })
      .catch((error: unknown) => {
        this.#failure = { error };
      })
      .finally(() => this.#attempts.delete(slice));
    this.#attempts.set(slice, attempt);
  }

  /** Gives all leases back. Waits for the attempts, unless this process is in a hurry: then each ends by itself. */
  async close(inHurry: boolean): Promise<void> {
    this.#isClosed = true;
    await Promise.all([...this.#taken.values()].map((lease) => lease.release()));
    if (!inHurry) await Promise.all(this.#attempts.values());
  }
}
