import { close, relativeError } from '../close.js';
import { suite } from '../harness.js';

const test = suite('not close');
test('one element', () => close([1, 2, 3], [1, 2, 4], { rtol: 1e-6 }));
test('length', () => close([1, 2], [1, 2, 3], { rtol: 1 }));
test('NaN', () => close([Number.NaN], [1], { atol: 1e30 }));
test('NaN expected', () => close([1], [Number.NaN], { atol: 1e30 }));
test('infinity', () => close([Infinity], [-Infinity], { atol: Infinity }));
test('exact when nothing is allowed', () => close([1 + 1e-15], [1]));
test('forgotten await', () => close(Promise.resolve([1]) as never, [1]));
test('relative error of NaN', () => {
  if (!(relativeError([Number.NaN], [1]) < 1e30)) throw new Error('not below the bound');
});
test.run();
