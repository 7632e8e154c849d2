// Gradients of random programs: views made before an edit in place and used after it, values used many times, tensors
// that are disposed on the way, detach(), several records and several scalars. Oracle: differentiation one number at a
// time, in doubles (scalars.ts).
import { type Device, openDevice } from '../../../src/engine/device.js';
import { suite } from '../../support/harness.js';
import { random } from '../../support/random.js';
import { Program } from './program.js';
import type { Scalar } from './scalars.js';
import { choices } from './steps.js';

const test = suite('gradients of programs');

const programs = 1000;
const stepsEach = 10;

/** Whether float32 comes near enough to what doubles give. */
const isTame = ({ value, error }: Scalar): boolean => Math.abs(value) < 8 && error < 100;

async function run(seed: number, device: Device): Promise<void> {
  const rng = random(seed);
  const program = new Program(rng, device);
  try {
    const rank = rng.integer(0, 4);
    for (let i = rng.integer(1, 4); i > 0; i--) {
      const shape = Array.from({ length: Math.max(0, rank - rng.integer(0, 2)) }, () => rng.pick([1, 2, 3, 3, 4]));
      if (rng.next() < 0.03) shape.push(0);
      program.input(shape, true);
    }
    const halfway = rng.next() < 0.4 ? rng.integer(4, 9) : undefined;
    for (let done = 0; done < stepsEach; ) {
      const step = rng.pick(choices)(program);
      if (!step?.contents.every(isTame)) continue;
      step.run();
      done++;
      const gone = rng.next() < 0.2 && program.pick(({ isLeaf }) => !isLeaf);
      if (gone) program.dispose(gone);
      if (done === halfway) await program.backward(true);
    }
    await program.backward(false);
    await program.check();
  } catch (cause) {
    const says = program.says.map((line) => `\n  ${line}`).join('');
    throw new Error(`seed ${seed}: ${(cause as Error).message}${says}`, { cause });
  } finally {
    program.end();
  }
}

test('leaves have the gradients that scalars have, and everything is freed', async () => {
  const device = openDevice('cpu', { threads: 1 });
  const before = device.memory().allocated;
  for (let seed = 1; seed <= programs; seed++) {
    await run(seed, device);
    const left = device.memory().allocated - before;
    if (left !== 0) throw new Error(`seed ${seed}: ${left} bytes were not freed`);
  }
});

test.run();
