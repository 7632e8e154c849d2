// crossEntropy against loops in doubles.
import * as assert from 'uvu/assert';
import { DeviceError } from '../../src/engine/errors.js';
import { crossEntropy } from '../../src/engine/ops/cross_entropy.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { close } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';
import { cases, eachRow, product } from '../support/operations/cases.js';
import { sameInAnyBatch } from '../support/operations/rows.js';

const test = suite('cross_entropy');

const logSumExp = (row: readonly number[]): number => {
  const top = Math.max(...row);
  return top + Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0));
};

/** A flat array as nested ones. */
const nested = (values: readonly unknown[], shape: readonly number[]): unknown =>
  shape.length === 0
    ? values[0]
    : Array.from({ length: shape[0] as number }, (_, i) => {
        const inner = product(shape.slice(1));
        return nested(values.slice(i * inner, (i + 1) * inner), shape.slice(1));
      });

test('losses, their sum and their mean', async () => {
  await cases(200, async (c) => {
    const leading = c.rng.shape(c.rng.integer(0, 4), { elements: 40, min: c.rng.next() < 0.9 ? 1 : 0 });
    const n = c.rng.pick([1, 2, 7, 31, 33, 1031, c.rng.pick([4096, 5003, 9001])]);
    const logits = await c.tensor([...leading, n]);
    logits.t.mul_(c.rng.pick([1, 10]));
    const values = Float64Array.from(await logits.t.read());
    const count = product(leading);
    const padded = Array.from({ length: count }, () => c.rng.next() < 0.3);
    const usesPad = c.rng.next() < 0.6;
    const targets = padded.map((pad) => (pad && usesPad ? c.rng.pick([-100, n, 0]) : c.rng.integer(0, n)));
    const losses: number[] = [];
    eachRow([...leading, n], (row, offset) => {
      const own = [...values.subarray(offset, offset + n)];
      const loss = usesPad && padded[row] ? 0 : logSumExp(own) - (own[targets[row] as number] as number);
      losses.push(loss);
    });
    const { device, own } = c;
    // targets in a tensor of some layout, or as numbers
    const layout = await c.integers(leading, 0, 1);
    if (count > 0) layout.t.copyFrom(own(Tensor.from(targets, { dtype: 'int32', shape: leading, device })));
    const given = c.rng.next() < 0.5 ? layout.t : (nested(targets, leading) as number[]);
    const flags = own(Tensor.from(Uint8Array.from(padded, Number), { shape: leading, device }));
    const pad = c.rng.pick([flags, nested(padded, leading), nested(padded.map(Number), leading)]) as Tensor;
    const options = usesPad ? { pad } : {};
    const allowed = { rtol: 1e-6, atol: 2e-6 };
    const each = own(crossEntropy(logits.t, given, { ...options, reduction: 'none' }));
    assert.equal([each.dtype, ...each.shape], ['float32', ...leading]);
    close(await each.read(), losses, allowed);
    const sum = losses.reduce((a, b) => a + b, 0);
    const total = own(crossEntropy(logits.t, given, { ...options, reduction: 'sum' }));
    assert.equal([total.dtype, ...total.shape], ['float32']);
    close(await total.read(), [sum], { rtol: 1e-6, atol: 1e-5 });
    const mean = sum / (usesPad ? padded.filter((pad) => !pad).length : count);
    close(await own(crossEntropy(logits.t, given, options)).read(), [mean], { rtol: 1e-6, atol: 1e-5 });
  });
});

test('large logits, infinite ones and NaN, as PyTorch has them', async () => {
  const device = testDevice();
  const losses = async (rows: number[][], targets: number[]) => [
    ...(await crossEntropy(Tensor.from(rows, { device }), targets, { reduction: 'none' }).read()),
  ];
  assert.equal(
    await losses(
      [
        [0, 120],
        [120, 0],
        [-3e38, 3e38],
        [1e4, 1e4],
      ],
      [0, 0, 1, 1],
    ),
    [120, 0, 0, Math.fround(Math.log(2))],
  );
  // of a loss near 0, digits as well
  const near = [15, 20, 25];
  close(
    await losses(
      near.map((x) => [x, 0]),
      [0, 0, 0],
    ),
    near.map((x) => Math.log1p(Math.exp(-x))),
    { rtol: 1e-4 },
  );
  const [p, m] = [Infinity, -Infinity];
  const odd: [number[], number, number][] = [
    [[m, 0], 0, p],
    [[m, 0], 1, 0],
    [[m, m], 0, NaN],
    [[p, 0], 0, NaN],
    [[p, 0], 1, NaN],
    [[NaN, 0], 1, NaN],
    [[m, NaN], 0, NaN],
  ];
  for (const n of [2, 40, 4100, 9000]) {
    if (emulated() && n > 5000) continue;
    // what comes between adds nothing
    const rows = odd.map(([row]) => [row[0] as number, ...new Array(n - 2).fill(m), row[1] as number]);
    const targets = odd.map(([, target]) => (target === 1 ? n - 1 : 0));
    close(
      await losses(rows, targets),
      odd.map(([, , loss]) => loss),
    );
  }
});

test('nothing to average: NaN; nothing to add up: 0', async () => {
  const device = testDevice();
  using logits = Tensor.zeros([2, 3], { device });
  const pad = [true, true];
  close(await crossEntropy(logits, [0, 1], { pad }).read(), [NaN]);
  close(await crossEntropy(logits, [0, -1], { pad, reduction: 'sum' }).read(), [0]);
  using none = Tensor.zeros([0, 3], { device });
  close(await crossEntropy(none, []).read(), [NaN]);
  close(await crossEntropy(none, [], { reduction: 'sum' }).read(), [0]);
  close(await crossEntropy(logits.select(0, 1), 2).read(), [Math.log(3)], { rtol: 1e-6 });
  using empty = Tensor.zeros([2, 0], { device });
  close(await crossEntropy(empty, [5, 6], { pad, reduction: 'none' }).read(), [0, 0]);
});

test('targets outside the row are named, at once or by the next wait', async () => {
  const device = testDevice();
  using logits = Tensor.zeros([2, 2, 5], { device });
  const at = (...targets: number[]) => Tensor.from(targets, { dtype: 'int32', shape: [2, 2], device });
  for (const bad of [-1, 5, -100, 2 ** 31 - 1]) {
    const why = new RegExp(`^crossEntropy: target ${bad} at position 2 is outside \\[0, 5\\) \\(`);
    await rejects(crossEntropy(logits, at(1, 2, bad, 4)).read(), DeviceError, why);
    throws(
      () =>
        crossEntropy(logits, [
          [1, 2],
          [bad, 4],
        ]),
      RangeError,
      new RegExp(`^crossEntropy: targets at position 2 must be an integer in \\[0, 5\\), but is ${bad}$`),
    );
  }
  const pad = [
    [0, 0],
    [1, 0],
  ];
  close(await crossEntropy(logits, at(1, 2, -1, 4), { pad }).read(), [Math.log(5)], { rtol: 1e-6 });
  close(
    await crossEntropy(
      logits,
      [
        [1, 2],
        [-100, 4],
      ],
      { pad },
    ).read(),
    [Math.log(5)],
    { rtol: 1e-6 },
  );
  // whether a position is padding may be known on the device alone
  using flags = Tensor.from(
    [
      [false, false],
      [true, false],
    ],
    { device },
  );
  close(
    await crossEntropy(
      logits,
      [
        [1, 2],
        [9, 4],
      ],
      { pad: flags },
    ).read(),
    [Math.log(5)],
    { rtol: 1e-6 },
  );
  await rejects(
    crossEntropy(
      logits,
      [
        [1, 9],
        [0, 4],
      ],
      { pad: flags },
    ).read(),
    DeviceError,
    /^crossEntropy: target 9 at position 1 is outside \[0, 5\)/,
  );
  await device.synchronize();
});

test('wrong arguments', () => {
  const logits = Tensor.zeros([2, 3]);
  const wrongs: [() => unknown, RegExp][] = [
    [() => crossEntropy(logits.to('int32'), [0, 0]), /logits must be float32, bfloat16 or float16, but is int32/],
    [() => crossEntropy(Tensor.zeros([]), 0), /logits must be of 1 or more dimensions/],
    [() => crossEntropy(logits, Tensor.zeros([2])), /targets must be int32, but is float32/],
    [() => crossEntropy(logits, Tensor.zeros([3], { dtype: 'int32' })), /targets must be \[2\].*, but is \[3\]/],
    [() => crossEntropy(logits, [0, 1, 2]), /targets must be of shape \[2\], 2 long at depth 0, but is 3 long/],
    [() => crossEntropy(logits, 5), /targets must be a tensor or nested arrays of shape \[2\], but is 5/],
    [() => crossEntropy(logits, [0, 0.5]), /targets at position 1 must be an integer in \[0, 3\), but is 0.5/],
    [() => crossEntropy(logits, [0, [1]] as never), /targets at position 1 must be an integer/],
    [() => crossEntropy(logits, [0, 1], { pad: [0, 2] }), /pad at position 1 must be a boolean, 0 or 1, but is 2/],
    [() => crossEntropy(logits, [0, 1], { pad: logits }), /pad must be bool, but is float32/],
    [() => crossEntropy(logits, [0, 1], { pad: [1] }), /pad must be of shape \[2\]/],
    [() => crossEntropy(logits, [0, 1], { reduction: 'max' as never }), /reduction must be 'mean', 'sum' or 'none'/],
    [() => crossEntropy(logits, [0, 1], { reduce: true } as never), /'reduce' is no option/],
  ];
  for (const [call, why] of wrongs) throws(call, Error, new RegExp(`^crossEntropy: ${why.source}`));
});

test('rows are the same bits for any batch and any number of threads', async () => {
  await sameInAnyBatch((x) => crossEntropy(x, new Array(x.shape[0]).fill(3), { reduction: 'none' }));
});

test.run();
