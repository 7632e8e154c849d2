// Virtual time: what is due at which moment. Events of one moment happen in the order in which they were added.

interface Due {
  readonly at: number;
  readonly order: number;
  readonly happen: () => void;
}

const isBefore = (a: Due, b: Due): boolean => a.at < b.at || (a.at === b.at && a.order < b.order);

export class Timeline {
  /** Seconds since the start. */
  now = 0;
  readonly #heap: Due[] = [];
  #added = 0;

  after(seconds: number, happen: () => void): void {
    const heap = this.#heap;
    const due = { at: this.now + seconds, order: this.#added++, happen };
    if (due.at === Number.POSITIVE_INFINITY) return;
    let at = heap.length;
    for (let above = (at - 1) >> 1; at > 0 && isBefore(due, heap[above] as Due); above = (at - 1) >> 1) {
      heap[at] = heap[above] as Due;
      at = above;
    }
    heap[at] = due;
  }

  /** Lets things happen until `isOver`, or until the time is up or nothing is due any more. */
  run(until: number, isOver: () => boolean): void {
    while (!isOver()) {
      const [next] = this.#heap;
      if (!next || next.at > until) {
        this.now = until;
        return;
      }
      this.#removeFirst();
      this.now = next.at;
      next.happen();
    }
  }

  #removeFirst(): void {
    const heap = this.#heap;
    const last = heap.pop() as Due;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= heap.length) break;
      if (below + 1 < heap.length && isBefore(heap[below + 1] as Due, heap[below] as Due)) below++;
      if (!isBefore(heap[below] as Due, last)) break;
      heap[at] = heap[below] as Due;
      at = below;
    }
    heap[at] = last;
  }
}
