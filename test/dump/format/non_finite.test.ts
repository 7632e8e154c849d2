// Oracle: rounding value by value, as a dump does.
import * as assert from 'uvu/assert';
import {
  NonFiniteCounter,
  nextNonFinite,
  nonFiniteLines,
  showNonFinite,
  totalNonFinite,
} from '../../../src/dump/format/non_finite.js';
import type { FloatDType } from '../../../src/dump/format/settings.js';
import { fromStored, toStored } from '../../../src/dump/format/stored_floats.js';
import { suite } from '../../support/harness.js';
import { random } from '../../support/random.js';

const test = suite('values that are not finite');

const dtypes: readonly FloatDType[] = ['float32', 'float16', 'bfloat16'];

function allOf(values: Float32Array | Uint16Array, dtype: FloatDType): number[] {
  const found: number[] = [];
  for (let at = nextNonFinite(values, dtype); at >= 0; at = nextNonFinite(values, dtype, at + 1)) found.push(at);
  return found;
}

test('a value is found exactly when it is not finite as it is stored', () => {
  const rng = random(12);
  const limits = [65_504, 65_519.996, 65_520, 3.3895314e38, 3.3961773e38, 3.3961775e38, 3.4028234663852886e38];
  for (let i = 0; i < 50; i++) {
    const values = Float32Array.from({ length: 200 }, () =>
      rng.pick([1, 0, -0, 1e-40, Number.NaN, Infinity, -Infinity, rng.normal(), ...limits, ...limits.map((x) => -x)]),
    );
    for (const dtype of dtypes) {
      const stored = toStored(values, dtype);
      const expected = [...fromStored(stored, dtype).keys()].filter(
        (at) => !Number.isFinite(fromStored(stored, dtype)[at]),
      );
      assert.equal(allOf(values, dtype), expected, dtype);
      assert.equal(allOf(stored, dtype), expected, `${dtype}, rounded before`);
    }
  }
});

const settings = {
  locations: [
    { location: '0/attn/qk_logits', shape: [4, 4, 2] },
    { location: 'resid/post_emb', shape: [4, 3] },
  ],
  autoencoders: [{ location: '0/resid/delta_mlp', name: 'ae', digest: 'd', latents: 8, threshold: 0 }],
  context: 4,
  dtype: 'float16' as const,
};

test('the first refused value does not depend on the order; counts have the order of the names', () => {
  const add = [
    (counter: NonFiniteCounter) => counter.addSparse(2, Float32Array.of(1, Infinity), () => ({ flat: 5, index: 7 })),
    (counter: NonFiniteCounter) => counter.addDense(1, Float32Array.of(0, 1e6, Number.NaN), () => 5),
    (counter: NonFiniteCounter) => counter.addDense(1, Float32Array.of(0, 0, 0, 0, 0, Number.NaN), (n) => 9 + n),
    (counter: NonFiniteCounter) => counter.addSparse(2, Float32Array.of(Number.NaN), () => ({ flat: 5, index: 6 })),
  ] as const;
  for (const order of [
    [0, 1, 2, 3],
    [3, 2, 1, 0],
    [2, 0, 3, 1],
  ]) {
    const counter = new NonFiniteCounter(settings, () => true);
    const latentsOnly = new NonFiniteCounter(settings, (of) => of === 2);
    for (const i of order) {
      add[i]?.(counter);
      add[i]?.(latentsOnly);
    }
    assert.equal(counter.refused, { of: 1, flat: 5, index: 1, value: 1e6 });
    assert.equal(latentsOnly.refused, { of: 2, flat: 5, index: 6, value: Number.NaN });
    const counts = counter.counts([32, 12, 9]);
    assert.equal(Object.entries(counts ?? {}), [
      ['resid/post_emb', { nan: 2, infinite: 1, values: 12 }],
      ['0/resid/delta_mlp/latents', { nan: 1, infinite: 1, values: 9 }],
    ]);
  }
  const none = new NonFiniteCounter(settings);
  none.addDense(1, Float32Array.of(1, 2, 65_519), () => 0);
  assert.equal([none.counts([1, 1, 1]), none.refused], [undefined, undefined]);
});

test('of attention logits, -Infinity at later keys is a mask, and nothing else is', () => {
  const counter = new NonFiniteCounter(settings, () => true);
  const [masked, nan] = [-Infinity, Number.NaN];
  // [keys, heads] of a query at position 1, in the second row
  const logits = Float32Array.of(1, 2, 3, 4, masked, masked, masked, masked);
  counter.addDense(0, logits, () => 5);
  assert.is(counter.counts([1, 1, 1]), undefined);
  for (const [at, x] of [
    [4, Infinity],
    [7, nan],
    [3, masked],
  ] as const) {
    const odd = logits.slice();
    odd[at] = x;
    counter.addDense(0, odd, () => 5);
  }
  assert.equal(counter.counts([8, 1, 1]), { '0/attn/qk_logits': { nan: 1, infinite: 2, values: 8 } });
  assert.equal(counter.refused, { of: 0, flat: 5, index: 3, value: masked });
});

test('totals of shards, and lines about them', () => {
  const [one, two] = ['resid/post_emb', '0/resid/delta_mlp/latents'] as const;
  const totals = totalNonFinite(settings, [
    { nonFinite: { [two]: { nan: 1, infinite: 0, values: 1 } } },
    {},
    { nonFinite: { [one]: { nan: 1200, infinite: 34, values: 98_304 }, [two]: { nan: 0, infinite: 2, values: 5 } } },
  ]);
  assert.equal(Object.entries(totals), [
    [one, { nan: 1200, infinite: 34, values: 98_304, shards: 1 }],
    [two, { nan: 1, infinite: 2, values: 6, shards: 2 }],
  ]);
  assert.equal(nonFiniteLines(totals, 2), [
    `${one}: 1,234 of 98,304 values are not finite: 1,200 NaN, 34 infinite or too large for the dtype (in 1 of 2 shards)`,
    `${two}: 3 of 6 values are not finite: 1 NaN, 2 infinite or too large for the dtype`,
  ]);
  assert.is(showNonFinite({ nan: 1, infinite: 0, values: 7 }), '1 of 7 values is not finite: 1 NaN');
  assert.equal(totalNonFinite(settings, [{}]), {});
});

test.run();
