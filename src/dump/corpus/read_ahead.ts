// Working on one item while the next one is made.

/** A promise that is awaited later: its failure is not to end the process before. */
export function quietly<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/**
 * Asks for the next item while the caller works on the one before, and does not wait for it longer than the signal
 * says.
 */
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
    quietly(items.return(undefined)); // not awaited: it may wait for a source that gives nothing more
  }
}

/** The promise, or a rejection with the signal's reason as soon as it is aborted. */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  signal.throwIfAborted();
  let stop: () => void = () => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
