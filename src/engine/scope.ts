// The lifetime of what a pass allocates: freed when the pass ends, except what it returns.

/** A tensor, as far as its life is concerned. */
interface Releasable {
  /** Ends it; `reason` is what using it afterwards throws. */
  release(reason: string): void;
}

/** What using one of a scope's tensors afterwards throws. */
const gone = 'the pass it belonged to has ended or gone on; keep a clone()';

/** Collects tensors and frees them together. `add` as they are made, `keep` what leaves, `end` in a finally. */
export class Scope {
  readonly #tensors = new Set<Releasable>();

  add<T extends Releasable>(tensor: T): T {
    this.#tensors.add(tensor);
    return tensor;
  }

  /** Frees now what is no longer needed; tensors that are not the scope's are left alone. */
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

  /** Frees the rest. */
  end(): void {
    for (const tensor of this.#tensors) tensor.release(gone);
    this.#tensors.clear();
  }
}

/** Frees the given tensors and matrices; undefined ones are passed over. */
export function disposeAll(...things: ({ dispose(): void } | undefined)[]): void {
  for (const thing of things) thing?.dispose();
}
