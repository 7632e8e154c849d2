// Padding: the allowed prompts, and the positions that follow. The oracle is counted by hand.
import * as assert from 'uvu/assert';
import { getDefaultDevice } from '../../src/engine/device.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { prepareInput, prepInputAndPad } from '../../src/transformer/padding.js';
import { sizes, type TransformerConfig } from '../../src/transformer/weights/config.js';
import { suite, throws } from '../support/harness.js';

const test = suite('padding');
const config = { ...(sizes.tiny as TransformerConfig), ctxWindow: 16 };
const model = { device: getDefaultDevice(), nVocab: 100, config, dtype: 'float32' } as const;

test('positions count the tokens before, padding left out, from where the caches end', async () => {
  const cases = [
    {
      side: 'left',
      earlier: undefined,
      positions: [
        [0, 0, 0],
        [0, 1, 2],
      ],
      lengths: [1, 3],
    },
    {
      side: 'right',
      earlier: undefined,
      positions: [
        [0, 0, 0],
        [0, 1, 2],
      ],
      lengths: [1, 3],
    },
    {
      side: 'left',
      earlier: [4, 7],
      positions: [
        [4, 4, 4],
        [7, 8, 9],
      ],
      lengths: [5, 10],
    },
  ] as const;
  for (const { side, earlier, positions, lengths } of cases) {
    const { tokens, pad } = prepInputAndPad([[5], [6, 7, 8]], side);
    const input = await prepareInput(tokens, pad, earlier, {}, model, 'forward');
    assert.equal([...(await input.positions.read())], positions.flat());
    assert.equal(input.lengths, [...lengths]);
    for (const t of [tokens, pad, input.tokens, input.positions]) t.dispose();
  }
});

test('a row of nothing but padding adds no token', async () => {
  for (const [earlier, lengths] of [
    [undefined, [0, 2]],
    [
      [4, 1],
      [4, 3],
    ],
  ] as const) {
    const { tokens, pad } = prepInputAndPad([[], [6, 7]], 'left');
    const input = await prepareInput(tokens, pad, earlier, {}, model, 'forward');
    assert.equal(input.lengths, [...lengths]);
    for (const t of [tokens, pad, input.tokens, input.positions]) t.dispose();
  }
});

test('prompts must be rows of tokens', () => {
  const refused = (prompts: unknown, error: typeof RangeError | typeof TypeError, pattern: RegExp) =>
    throws(() => prepInputAndPad(prompts as number[][], 'left'), error, pattern);
  refused(['hello'], TypeError, /prompts\[0\] must be an array of tokens, but is 'hello'/);
  refused([[1], [2, 1.5]], RangeError, /prompts\[1\]\[1\] must be an integer of 0 or more, but is 1\.5/);
  refused([[-3]], RangeError, /prompts\[0\]\[0\] must be an integer of 0 or more, but is -3/);
  refused([[2 ** 31]], RangeError, /prompts\[0\]\[0\]/);
});

test('200,000 prompts do not overflow the stack', () => {
  const { tokens, pad } = prepInputAndPad(
    Array.from({ length: 200_000 }, () => [1]),
    'right',
  );
  assert.equal(tokens.shape, [200_000, 1]);
  for (const t of [tokens, pad]) t.dispose();
});

test('a device that is none is named', () => {
  throws(
    () => Tensor.zeros([1], { device: 'cpu' as never }),
    TypeError,
    /device must be what openDevice or getDefaultDevice gives, but is 'cpu'/,
  );
});

test.run();
