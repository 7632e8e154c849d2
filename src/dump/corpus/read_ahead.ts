// Producing the next item while the caller works on the one before.

/** For a promise that is awaited later: its rejection must not end the process before that. */
export function quietly<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/**
 * Asks for the next item while the caller works on the one before. An aborted signal ends the wait for it.
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
    quietly(items.return(undefined)); // not awaited, as the source may never give another item
  }
}

/** Settles as the promise does, or rejects with the signal's reason as soon as the signal is aborted. */
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
