// The lifetime of the tensors that a pass allocates: they are freed when the pass ends, except those that it returns.

/** A tensor, as far as its lifetime is concerned. */
interface Releasable {
  /** Ends it; using it afterwards throws `reason`. */
  release(reason: string): void;
}

/** The reason that an ended tensor of a scope throws. */
const gone = 'the pass it belonged to has ended or gone on; keep a clone()';

/** Collects tensors and frees them together: `add` each new one, `keep` each that leaves, `end` in a finally. */
export class Scope {
  readonly #tensors = new Set<Releasable>();

  add<T extends Releasable>(tensor: T): T {
    this.#tensors.add(tensor);
    return tensor;
  }

  /** Frees these tensors now; it leaves tensors alone that are not the scope's. */
  free(...tensors: (Releasable | undefined)[]): void {
    for (const tensor of tensors) if (tensor && this.#tensors.delete(tensor)) tensor.release(gone);
  }

  /** Takes a tensor out: it is the caller's from now on. */
  keep<T extends Releasable>(tensor: T): T {
    this.#tensors.delete(tensor);
    return tensor;
  }

  has(tensor: Releasable): boolean {
    return this.#tensors.has(tensor);
  }

  /** Frees the remaining tensors. */
  end(): void {
    for (const tensor of this.#tensors) tensor.release(gone);
    this.#tensors.clear();
  }
}

/** Calls body, and frees the tensors that it passes to `own` when it returns or throws. */
export function withTemporaries<R>(body: (own: <T extends { dispose(): void }>(tensor: T) => T) => R): R {
  const temporary: { dispose(): void }[] = [];
  try {
    return body((tensor) => {
      temporary.push(tensor);
      return tensor;
    });
  } finally {
    disposeAll(...temporary);
  }
}

/** What all of the functions make. Where one throws, what was made before it is freed. */
export function makeAll<const T extends readonly { dispose(): void }[]>(...makers: { [I in keyof T]: () => T[I] }): T {
  const made: { dispose(): void }[] = [];
  try {
    for (const make of makers) made.push(make());
  } catch (error) {
    disposeAll(...made);
    throw error;
  }
  return made as unknown as T;
}

/** Frees the given tensors and matrices; it skips undefined. */
export function disposeAll(...things: ({ dispose(): void } | undefined)[]): void {
  for (const thing of things) thing?.dispose();
}
