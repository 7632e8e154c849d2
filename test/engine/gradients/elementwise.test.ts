// Gradients of functions of one element, arithmetic, choices and copies against central differences.
import { suite } from '../../support/harness.js';
import { gradients } from './differences.js';

const test = suite('gradients of element-by-element operations');

test('add', async () => {
  await gradients(200, (rng) => {
    const shape = rng.shape(rng.integer(0, 5), { elements: 200 });
    const n = shape.reduce((a, b) => a * b, 1);
    return {
      operation: 'add',
      inputs: [
        { shape, values: rng.floats(n) },
        { shape, values: rng.floats(n) },
      ],
      ours: (_, a, b) => a.mul(b),
      oracle: (a, b) => a.map((v, i) => v * (b[i] as number)),
      views: 'any',
    };
  });
});
test.run();
