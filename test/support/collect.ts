// Garbage collection on demand.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Collects what is out of reach, and lets finalizers run, until `isDone` or for twenty rounds. */
export async function collectUntil(isDone: () => boolean): Promise<void> {
  for (let round = 0; round < 20 && !isDone(); round++) {
    // references that were read stay alive until the end of the event loop's turn
    await new Promise((resolve) => setImmediate(resolve));
    collect();
  }
}
