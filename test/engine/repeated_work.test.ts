// Work that is queued in one call when it comes again. Oracle: the same work, each operation queued by itself.
import * as assert from 'uvu/assert';
import { openDevice } from '../../src/engine/device.js';
import { native } from '../../src/engine/native.js';
import { linear } from '../../src/engine/ops/linear.js';
import { type PackedMatrix, packWeights } from '../../src/engine/ops/pack_weights.js';
import { softmax } from '../../src/engine/ops/softmax.js';
import { sparseEncode } from '../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { RepeatedWork } from '../../src/engine/repeated_work.js';
import { Scope } from '../../src/engine/scope.js';
import { queuedTogether, testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('repeated work');
const device = testDevice();
const width = 24;

interface State {
  readonly x: Tensor;
  readonly w: PackedMatrix;
  /** Rows that are written one after the other. */
  readonly rows: Tensor;
}

const made = (): State => {
  using b = Tensor.randn([width, width], { device, seed: 1, std: 0.2 });
  return {
    x: Tensor.randn([1, width], { device, seed: 2 }),
    w: packWeights(b),
    rows: Tensor.zeros([64, width], { device }),
  };
};
const dispose = ({ x, w, rows }: State) => {
  for (const held of [x, w, rows]) held.dispose();
};

/** One of the rows is written, and x depends on all that there are then. */
function step({ x, w, rows }: State, length: number): Tensor {
  const scope = new Scope();
  const product = scope.add(linear(x, w, { activation: 'relu' }));
  rows.slice(0, length, length + 1).copyFrom(product);
  const sum = scope.add(rows.slice(0, 0, length + 1).sum(0, { keepDim: true }));
  const half = scope.add(x.mul(0.5));
  x.copyFrom(scope.add(half.add(sum)));
  scope.end();
  return x;
}

const bits = async ({ x, rows }: State) => [...(await x.read()), ...(await rows.read())];

test('it has the bits of the operations one by one, and is queued in one call from the third time on', async () => {
  const [alone, again] = [made(), made()];
  const work = new RepeatedWork<Tensor>(device);
  const { calls } = await queuedTogether(() => {
    for (let length = 0; length < 20; length++) {
      step(alone, length);
      work.run(() => step(again, length));
    }
  });
  assert.is(calls, 18);
  assert.equal(await bits(again), await bits(alone));
  work.end();
  dispose(alone);
  dispose(again);
});

test('its result is valid until the next time, and its memory is freed at the end', async () => {
  const before = device.memory().allocated;
  const work = new RepeatedWork<Tensor>(device);
  const start = Tensor.from([1, 2, 3], { device });
  let result: Tensor | undefined;
  for (let i = 0; i < 5; i++) {
    result = work.run(() => {
      using twice = start.mul(2);
      start.copyFrom(twice);
      return twice.add(1);
    });
    assert.equal(
      [...(await result.read())],
      [1, 2, 3].map((x) => x * 2 ** (i + 1) + 1),
    );
  }
  const held = device.memory().allocated - before;
  assert.is(held, 3 * 3 * 4, 'start, its double, the sum');
  work.end();
  throws(() => result?.add(1), Error, /add: tensor cannot be used: the work that made it has ended or gone on/);
  start.dispose();
  assert.is(device.memory().allocated, before);
});

test('other operations, other sizes or other tensors begin anew', async () => {
  const before = device.memory().allocated;
  const work = new RepeatedWork<Tensor>(device);
  const a = Tensor.from([1, 2, 3, 4], { device });
  const b = Tensor.from([10, 20, 30, 40], { device });
  const works: [() => Tensor, number[]][] = [
    [() => a.mul(3), [3, 6, 9, 12]],
    [() => a.add(3), [4, 5, 6, 7]], // another operation of the same kind
    [() => a.add(4), [5, 6, 7, 8]], // another number
    [() => b.add(4), [14, 24, 34, 44]], // another tensor
    [() => b.slice(0, 0, 3).add(4), [14, 24, 34]], // of another size
    [() => softmax(a.mul(0), 0), [0.25, 0.25, 0.25, 0.25]],
    [() => a.neg(), [-1, -2, -3, -4]],
    [() => a.neg().abs(), [1, 2, 3, 4]],
  ];
  const { calls } = await queuedTogether(() => {
    for (const [body] of works) work.run(body);
  });
  assert.is(calls, 0);
  work.end();
  for (const [body, expected] of works) {
    for (let i = 0; i < 4; i++) assert.equal([...(await work.run(body).read())], expected);
    work.end();
  }
  for (const t of [a, b]) t.dispose();
  assert.is(device.memory().allocated, before);
});

test('what cannot be queued again is called each time: uploads, and sparse results', async () => {
  let times = 0;
  const work = new RepeatedWork<Tensor>(device);
  for (let i = 0; i < 4; i++) {
    const t = work.run(() => Tensor.from([++times, 0], { device }));
    assert.equal([...(await t.read())], [i + 1, 0]);
  }
  work.end();
  using x = Tensor.randn([2, width], { device, seed: 3 });
  using b = Tensor.randn([width, 40], { device, seed: 4 });
  using w = packWeights(b);
  const encoding = new RepeatedWork<ReturnType<typeof sparseEncode>>(device);
  const { calls } = await queuedTogether(() => {
    for (let i = 0; i < 4; i++) encoding.run(() => sparseEncode(x, w, { k: 3 }));
  });
  assert.is(calls, 0);
  encoding.end();
});

test('memory that has ended since is noticed: the work is called, and says so', async () => {
  const work = new RepeatedWork<Tensor>(device);
  let a = Tensor.from([1, 2], { device });
  const body = () => a.add(1);
  for (let i = 0; i < 3; i++) work.run(body);
  a.dispose();
  // memory that may well have the number of the old
  using other = Tensor.from([50, 60], { device });
  throws(() => work.run(body), Error, /add: tensor cannot be used: it was disposed/);
  a = other;
  for (let i = 0; i < 4; i++) assert.equal([...(await work.run(body).read())], [51, 61]);
  work.end();
});

test('a work that throws leaves nothing behind', async () => {
  const before = device.memory().allocated;
  const work = new RepeatedWork<Tensor>(device);
  using a = Tensor.from([1, 2], { device });
  for (const fails of [true, false, true, true, false, false]) {
    const body = () => {
      const sum = a.add(1);
      if (fails) throw new Error('no more');
      return sum;
    };
    if (fails) throws(() => work.run(body), Error, /no more/);
    else assert.equal([...(await work.run(body).read())], [2, 3]);
  }
  using free = a.add(1); // belongs to no work
  work.end();
  assert.equal([...(await free.read())], [2, 3]);
  assert.is(device.memory().allocated - before, 2 * 8);
});

test('an error on the device comes with the wait, and the work goes on', async () => {
  const work = new RepeatedWork<Tensor>(device);
  using table = Tensor.from([[1], [2], [3]], { device });
  const index = Tensor.from(Int32Array.of(0), { device });
  const body = () => table.indexSelect(0, index);
  for (const at of [0, 1, 2, 9, 2, 1]) {
    index.fill(at);
    const result = work.run(body);
    if (at < 3) assert.equal([...(await result.read())], [at + 1]);
    else await rejects(result.read(), Error, /indexSelect/);
  }
  work.end();
  index.dispose();
});

test('a profile has each operation', async () => {
  const work = new RepeatedWork<Tensor>(device);
  using a = Tensor.from([1, 2], { device });
  const run = () => work.run(() => a.add(1).mul(2));
  for (let i = 0; i < 3; i++) run();
  const entries = await device.profile(async () => {
    device.section('a part');
    for (let i = 0; i < 2; i++) run();
    device.section('');
  });
  assert.equal(
    entries.map(({ operation, section }) => `${operation} of ${section}`),
    ['binaryScalar of a part', 'binaryScalar of a part', 'binaryScalar of a part', 'binaryScalar of a part'],
  );
  const { calls } = await queuedTogether(() => {
    for (let i = 0; i < 3; i++) run();
  });
  assert.is(calls, 3);
  work.end();
});

test('after a profile of one time, windows move on by what one time moves them', async () => {
  const [alone, again] = [made(), made()];
  const work = new RepeatedWork<Tensor>(device);
  for (let length = 0; length < 12; length++) {
    step(alone, length);
    const run = () => work.run(() => step(again, length));
    if (length === 5 || length === 9) await device.profile(async () => run());
    else run();
  }
  assert.equal(await bits(again), await bits(alone));
  work.end();
  dispose(alone);
  dispose(again);
});

test('operations that cannot be read are a sentence, and none of them is queued', async () => {
  const cpu = openDevice('cpu');
  using x = Tensor.zeros([2], { device: cpu });
  const { handle } = cpu;
  const numbers = (...all: number[]) => Float64Array.from(all).buffer;
  const fill = native.operations.indexOf('fill');
  const view = [2, x.storage.number, 0, 0, 1, 2, 1];
  const to = (value: number) => [fill, ...view, 1, value];
  native.enqueueAll(handle, numbers(...to(1), ...to(2)));
  assert.equal([...(await x.read())], [2, 2]);
  throws(() => native.enqueueAll(handle, numbers(...to(3), -1)), RangeError, /there is no operation of this number/);
  throws(() => native.enqueueAll(handle, numbers(...to(3), 1000)), RangeError, /there is no operation of this number/);
  throws(() => native.enqueueAll(handle, numbers(...to(3), fill)), RangeError, /end too early/);
  const wrong = [fill, ...view, 2, 0];
  throws(() => native.enqueueAll(handle, numbers(...to(3), ...wrong)), TypeError, /argument 2 .* must be a number/);
  throws(() => native.enqueueAll(handle, 5 as never), TypeError, /arguments of a native call are missing/);
  native.enqueueAll(handle, numbers());
  assert.equal([...(await x.read())], [2, 2]);
});

test.run();
