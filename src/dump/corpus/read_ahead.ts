// Reads one item ahead of the caller.
import { quietly, unlessAborted } from '../../files/promises.js';

/** Asks for the next item while the caller works on the one before. An aborted signal ends the wait for it. */
export async function* readAhead<T>(items: AsyncGenerator<T>, signal: AbortSignal | undefined): AsyncGenerator<T> {
  let next = quietly(items.next());
  try {
    for (;;) {
      const { value, done } = await unlessAborted(next, signal);
      if (done) return;
      next = quietly(items.next());
      yield value;
    }
  } finally {
    quietly(items.return(undefined)); // not awaited, as the source may never give another item
  }
}
