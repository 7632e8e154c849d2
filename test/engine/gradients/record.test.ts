// What a record of gradients promises: what it belongs to, what it keeps, and when it ends. The derivatives here are
// plain enough to be written down.
import * as assert from 'uvu/assert';
import { openDevice } from '../../../src/engine/device.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { currentRecord, GradientRecord, hasHistory, record, recordingIn } from '../../../src/engine/record.js';
import { collectUntil } from '../../support/collect.js';
import { rejects, suite, throws } from '../../support/harness.js';

const test = suite('record of gradients');
const device = openDevice('cpu', { threads: 1 });

const tensor = (values: number | number[] | number[][]): Tensor => Tensor.from(values, { device });
const leaf = (values: number | number[] | number[][]): Tensor => tensor(values).requireGrad();
const numbers = async (t: Tensor | undefined): Promise<number[] | undefined> => t && [...(await t.read())];
const recordOf = ({ storage: { history } }: Tensor): GradientRecord => {
  if (!(history instanceof GradientRecord)) throw new Error('it is not recorded');
  return history.root;
};
/** Goes backward from the sum of x times some weights, 1 unless given. */
async function backward(x: Tensor, weights?: number[], options?: { retain?: boolean }): Promise<void> {
  using weight = weights && Tensor.from(weights, { shape: [...x.shape], device });
  using weighted = weight && x.mul(weight);
  using loss = (weighted ?? x).sum();
  await loss.backward(options);
}

/** A test after which everything must have been freed. */
function check(title: string, body: (before: number) => Promise<void>): void {
  test(title, async () => {
    const before = device.memory().allocated;
    await body(before);
    assert.is(device.memory().allocated - before, 0, 'bytes that were not freed');
  });
}

// ---- leaves and their gradients

check('gradients add up until zeroGrad()', async () => {
  using v = leaf([1, 2]);
  assert.is(v.grad, undefined);
  using y = v.mul(3);
  await backward(y, [1, 10], { retain: true });
  assert.equal(await numbers(v.grad), [3, 30]);
  const first = v.grad;
  await backward(y, [1, 1]);
  assert.equal(await numbers(v.grad), [6, 33]);
  assert.is(v.grad, first);
  v.zeroGrad();
  assert.is(v.grad, undefined);
  assert.is(first?.ended, 'it was disposed');
  using z = v.mul(5);
  await backward(z);
  assert.equal(await numbers(v.grad), [5, 5]);
});

check('the gradient has the shape of the leaf and is float32', async () => {
  using scalar = leaf(3);
  using square = scalar.mul(scalar);
  await square.backward();
  assert.equal([scalar.grad?.shape, await numbers(scalar.grad)], [[], [6]]);
  using empty = Tensor.zeros([0, 3], { device }).requireGrad();
  await backward(empty);
  assert.equal([empty.grad?.shape, await numbers(empty.grad)], [[0, 3], []]);
  using half = Tensor.from([1, 2], { device, dtype: 'bfloat16' }).requireGrad();
  const exact = 1 + 2 ** -12; // bfloat16 would round it
  await backward(half, [exact, 1]);
  assert.equal([half.grad?.dtype, await numbers(half.grad)], ['float32', [exact, 1]]);
});

check('a leaf that lies in another order has its gradient in the same one', async () => {
  using x = tensor([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  using v = x.softmax(0);
  assert.equal(v.isContiguous, false);
  v.requireGrad();
  await backward(v, [1, 2, 3, 4, 5, 6]);
  await backward(v, [1, 1, 1, 1, 1, 1]);
  assert.equal(
    [v.grad?.shape, await numbers(v.grad)],
    [
      [2, 3],
      [2, 3, 4, 5, 6, 7],
    ],
  );
});

check('a leaf is a scalar to go backward from, and so is a view of it', async () => {
  using v = leaf([2]);
  await v.backward();
  await v.backward({ retain: true });
  assert.equal(await numbers(v.grad), [2]);
  using w = leaf([2, 3]);
  await w.select(0, 1).backward();
  assert.equal(await numbers(w.grad), [0, 1]);
  using y = w.mul(5);
  await y.slice(0, 0, 1).unsqueeze(0).backward();
  assert.equal(await numbers(w.grad), [5, 1]);
});

check('the gradient of a view of a leaf is the same view of its gradient', async () => {
  using v = leaf([
    [1, 2],
    [3, 4],
  ]);
  const row = v.select(0, 1);
  assert.is(row.grad, undefined);
  await backward(v, [1, 2, 3, 4]);
  assert.equal(await numbers(row.grad), [3, 4]);
  assert.equal(await numbers(v.permute([1, 0]).grad), [1, 3, 2, 4]);
  assert.is(v.detach().grad, undefined);
  row.grad?.fill(9);
  assert.equal(await numbers(v.grad), [1, 2, 9, 9]);
  row.zeroGrad();
  assert.is(v.grad, undefined);
});

check('two leaves, and one that the scalar does not depend on', async () => {
  using a = leaf([1, 2]);
  using b = leaf([3, 4]);
  using c = leaf([5, 6]);
  using y = a.mul(b);
  await backward(y);
  assert.equal([await numbers(a.grad), await numbers(b.grad), c.grad], [[3, 4], [1, 2], undefined]);
});

check('a gradient ends with its leaf, and a leaf that has ended gets none', async () => {
  const v = leaf([1, 2]);
  await backward(v);
  const { grad } = v;
  v.dispose();
  assert.is(grad?.ended, 'it was disposed');
  assert.is(v.grad, undefined);
  const w = leaf([1, 2]);
  using y = w.mul(2);
  w.dispose();
  await backward(y);
  assert.is(w.grad, undefined);
});

check('a gradient that was disposed begins anew', async () => {
  using v = leaf([1, 2]);
  await backward(v);
  v.grad?.dispose();
  assert.is(v.grad, undefined);
  await backward(v);
  assert.equal(await numbers(v.grad), [1, 1]);
});

check('what cannot be a leaf', async () => {
  using x = tensor([1, 2]);
  throws(
    () => x.slice(0, 0, 1).requireGrad(),
    Error,
    /^requireGrad: the tensor must not be a view of another one; clone/,
  );
  throws(() => x.detach().requireGrad(), Error, /must not be a view/);
  using whole = Tensor.from([1, 2], { device, dtype: 'int32' });
  throws(() => whole.requireGrad(), TypeError, /^requireGrad: the tensor must be of floats, but is int32$/);
  using v = leaf([1, 2]);
  assert.is(v.requireGrad(), v);
  using y = v.mul(2);
  throws(() => y.requireGrad(), Error, /^requireGrad: the tensor must not be recorded already; detach\(\)\.clone\(\)/);
  await backward(v);
  v.requireGrad();
  assert.equal(await numbers(v.grad), [1, 1]);
  recordOf(y).dispose();
  const gone = tensor([1]);
  gone.dispose();
  throws(() => gone.requireGrad(), Error, /^requireGrad: .*it was disposed/);
  try {
    Object.defineProperty(device, 'kind', { value: 'cuda', configurable: true, writable: true });
    throws(() => x.requireGrad(), Error, /^requireGrad: gradients are computed on the CPU alone so far/);
  } finally {
    Object.defineProperty(device, 'kind', { value: 'cpu', configurable: true, writable: true });
  }
});

// ---- what backward() refuses

check('what backward() cannot begin from', async () => {
  using v = leaf([1, 2]);
  using x = tensor([3]);
  await rejects(
    v.backward(),
    RangeError,
    /^backward: the tensor must be a scalar, such as sum\(\) gives, but is \[2\]$/,
  );
  await rejects(v.slice(0, 0, 0).backward(), RangeError, /but is \[0\]/);
  using whole = Tensor.from(3, { device, dtype: 'int32' });
  await rejects(whole.backward(), TypeError, /^backward: the tensor must be of floats, but is int32$/);
  await rejects(x.backward(), /^backward: the tensor depends on nothing that is recorded: neither a leaf/);
  await rejects(v.detach().slice(0, 0, 1).backward(), /depends on nothing that is recorded/);
  const gone = v.sum();
  const { storage } = gone;
  gone.dispose();
  await rejects(gone.backward(), /^backward: the tensor cannot be used: it was disposed$/);
  assert.instance(storage.history, GradientRecord);
  await rejects(v.backward({ keep: true } as object), /^backward: .*keep/);
  await rejects(v.backward({ retain: 1 as unknown as boolean }), TypeError, /^backward: retain must be/);
  assert.is(v.grad, undefined);
});

check('a record that has ended says why', async () => {
  using v = leaf([1, 2]);
  const gone = (why: string) =>
    new RegExp(`^backward: a record that the tensor depends on is gone: ${why}.*detach\\(\\)$`);
  {
    using loss = v.sum();
    await loss.backward();
    await rejects(loss.backward(), gone('backward\\(\\) has freed it; with retain: true it stays'));
    using more = loss.add(v);
    await rejects(more.select(0, 0).backward(), gone('backward'));
  }
  {
    using loss = v.sum();
    recordOf(loss).dispose();
    recordOf(loss).dispose();
    await rejects(loss.backward(), gone('it was disposed'));
  }
  {
    using loss = v.sum();
    recordOf(loss).addHook(loss, () => Promise.reject(new Error('no')));
    await rejects(loss.backward({ retain: true }), /^no$/);
    await rejects(loss.backward(), gone('a backward\\(\\) over it has failed'));
  }
  assert.equal(await numbers(v.grad), [1, 1]);
});

check('what has no derivatives is a constant, and backward() names the operation', async () => {
  using v = leaf([3, 1, 2]);
  const results: [string, Tensor][] = [
    ['argmax', v.argmax()],
    ['argmin', v.argmin()],
    ['gt', v.gt(1.5)],
    ['eq', v.eq(v)],
  ];
  const { values, indices } = v.sort();
  const { values: top, indices: places } = v.topk(1);
  results.push(['sort', indices], ['topk', places]);
  for (const [name, result] of results) {
    using float = result.to('float32');
    using loss = float.sum();
    const why = `nothing of the kind but by way of ${name}, which cannot be differentiated$`;
    await rejects(loss.backward(), new RegExp(`^backward: the tensor depends on nothing that is recorded: ${why}`));
    // beside something that is recorded, it is a constant
    using product = v.mul(float);
    await backward(product);
    v.zeroGrad();
    float.fill(0);
    const other = v.slice(0, 0, float.shape.at(-1) ?? 1);
    using sum = float.shape.length > 0 ? undefined : other.sum();
    float.add_(sum ?? other);
    await backward(float, [2, 2, 2].slice(0, float.size));
    assert.is((await numbers(v.grad))?.[0], 2);
    v.zeroGrad();
    result.dispose();
  }
  await backward(values, [1, 2, 3]);
  await backward(top);
  assert.equal(await numbers(v.grad), [4, 1, 2]);
  values.dispose();
  top.dispose();
});

check(
  'a second backward() over a record is refused while one is under way, and over another one it is not',
  async () => {
    using v = leaf([1, 2]);
    using w = leaf([1, 2]);
    using y = v.mul(2);
    let goOn = () => {};
    const gate = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    recordOf(y).addHook(y, async (g) => {
      await gate;
      return g;
    });
    using loss = y.sum();
    using other = w.mul(3);
    const first = loss.backward();
    const size = device.memory().allocated;
    const busy = /^backward: another backward\(\) goes over the same record; wait for it first$/;
    await rejects(loss.backward(), busy);
    throws(() => y.add_(other), Error, busy);
    assert.is(device.memory().allocated, size);
    await backward(other);
    assert.equal(await numbers(w.grad), [3, 3]);
    assert.is(v.grad, undefined);
    goOn();
    await first;
    assert.equal(await numbers(v.grad), [2, 2]);
  },
);

check('backward() inside a backward pass is refused, and nothing is recorded there', async () => {
  using v = leaf([1, 2]);
  using w = leaf([3]);
  using loss = v.sum();
  const said: string[] = [];
  recordOf(loss).addHook(loss, async (g) => {
    using product = w.mul(g as Tensor);
    said.push(String(product.storage.history));
    await w.backward().catch(({ message }) => said.push(message));
    return g;
  });
  await loss.backward();
  assert.equal(said, ['undefined', 'backward: it cannot be called inside a backward pass']);
  assert.is(w.grad, undefined);
});

// ---- edits in place and detach()

check('detach() shares the memory, cuts, and ends with its owner', async () => {
  const v = leaf([1, 2]);
  const d = v.detach();
  using product = d.mul(v);
  await backward(product);
  assert.equal(await numbers(v.grad), [1, 2]);
  d.fill(7);
  assert.equal(await numbers(v), [7, 7]);
  const again = d.detach().slice(0, 1);
  const { grad } = v;
  d.dispose();
  assert.equal([await numbers(v), await numbers(again), await numbers(grad)], [[7, 7], [7], [1, 2]]);
  v.dispose();
  await rejects(again.read(), /it was disposed/);
});

check('what is written through a detached view is not recorded for its owner', async () => {
  using v = leaf([1, 2]);
  using y = v.mul(2);
  const d = y.detach();
  d.mul_(v); // d is recorded from here on
  await backward(d, [1, 1], { retain: true });
  assert.equal(await numbers(v.grad), [2, 4]);
  v.zeroGrad();
  await backward(y, [1, 1]);
  assert.equal(
    [await numbers(y), await numbers(v.grad)],
    [
      [2, 8],
      [2, 2],
    ],
  );
  recordOf(d).dispose();
});

check('a leaf is not edited in place, but for its detached view', async () => {
  using v = leaf([1, 2]);
  using x = tensor([1, 1]);
  const cure = 'detach\\(\\) gives a view of it that may be changed, as in v\\.detach\\(\\)\\.sub_\\(…\\)$';
  const why = (operation: string) =>
    new RegExp(`^${operation}: the tensor must not be one whose gradient is wanted \\(requireGrad\\); ${cure}`);
  throws(() => v.add_(1), Error, why('add_'));
  throws(() => v.fill(0), Error, why('fill'));
  throws(() => v.slice(0, 0, 1).copyFrom(x.slice(0, 0, 1)), Error, why('copyFrom'));
  assert.equal(await numbers(v), [1, 2]);
  recordingIn(undefined, () => v.add_(x));
  v.detach().sub_(x).sub_(x);
  assert.equal(await numbers(v), [0, 1]);
});

check('a leaf may change between an operation and backward()', async () => {
  using v = leaf([1, 2]);
  using square = v.mul(v);
  v.detach().fill(0);
  using later = v.mul(v);
  await backward(square);
  assert.equal(await numbers(v.grad), [2, 4]);
  v.zeroGrad();
  await backward(later);
  assert.equal(await numbers(v.grad), [0, 0]);
});

check('a constant may change, or be disposed, between an operation and backward()', async () => {
  using v = leaf([1, 2]);
  using changed = tensor([3, 4]);
  const disposed = tensor([5, 6]);
  using a = v.mul(changed);
  using b = v.mul(disposed);
  changed.select(0, 1).fill(0);
  disposed.dispose();
  using taken = tensor([8, 8]); // it may not get the memory
  using sum = a.add(b);
  await backward(sum);
  assert.equal(await numbers(v.grad), [8, 10]);
  assert.equal(await numbers(taken), [8, 8]);
});

check('a value that two operations keep is copied for both, and only where it is overwritten', async () => {
  using v = leaf([1, 2]);
  using y = v.mul(3);
  using square = y.mul(y);
  using product = y.mul(v);
  const { kept } = y.storage.memory;
  const size = device.memory().allocated;
  assert.is(kept?.length, 3);
  y.slice(0, 0, 0).fill(9);
  assert.is(device.memory().allocated, size);
  y.slice(0, 0, 1).fill(9);
  assert.is(device.memory().allocated, size + 3 * 8);
  assert.is(y.storage.memory.kept?.length, 0);
  using sum = square.add(product);
  await backward(sum);
  assert.equal(await numbers(v.grad), [18 + 6, 36 + 12]);
});

check('windows that do not overlap leave each other alone', async () => {
  using v = leaf([1, 2, 3, 4]);
  using y = v.mul(2);
  const [left, right] = [y.slice(0, 0, 2), y.slice(0, 2, 4)];
  using product = left.mul(left);
  const size = device.memory().allocated;
  right.fill(0);
  assert.is(device.memory().allocated, size);
  using all = product.add(right);
  await backward(all);
  assert.equal(await numbers(v.grad), [8, 16, 0, 0]);
});

check('a view made before an edit in place and used after it', async () => {
  using v = leaf([1, 2]);
  using z = Tensor.zeros([2, 2], { device });
  const [row, column] = [z.select(0, 1), z.select(1, 0)];
  row.copyFrom(v);
  await backward(column, [1, 10], { retain: true });
  assert.equal(await numbers(v.grad), [10, 0]);
  column.fill(0);
  v.zeroGrad();
  await backward(z, [1, 2, 3, 4]);
  assert.equal(await numbers(v.grad), [0, 4]);
});

// ---- lifetimes

check('disposing never breaks a backward', async () => {
  using v = leaf([1, 2]);
  const x = tensor([3, 4]);
  const product = v.mul(x);
  const square = product.mul(product);
  const cube = square.mul(v);
  using loss = cube.sum();
  for (const t of [x, product, square, cube]) t.dispose();
  await loss.backward();
  assert.equal(await numbers(v.grad), [27, 192]);
});

check('memory is flat over recorded programs, with backward() and without', async (before) => {
  const v = leaf([1, 2]);
  const x = tensor([3, 4]);
  const program = (): Tensor => {
    using product = v.mul(x);
    using square = product.mul(product);
    return square.sum();
  };
  for (let i = 0; i < 1000; i++) {
    using loss = program();
    await loss.backward();
    v.zeroGrad();
  }
  const flat = device.memory().allocated;
  assert.is(flat, before + 16);
  for (let i = 0; i < 1000; i++) {
    using loss = program();
    recordOf(loss).dispose();
  }
  assert.is(device.memory().allocated, flat);
  for (let i = 0; i < 1000; i++) {
    program();
    if (i % 100 === 0) await collectUntil(() => device.memory().allocated === flat);
  }
  await collectUntil(() => device.memory().allocated === flat);
  assert.is(device.memory().allocated, flat);
  // records that were collected no longer hold what they had kept of these
  v.dispose();
  x.dispose();
  await collectUntil(() => device.memory().allocated === before);
  assert.is(v.ended, x.ended);
});

check('what many records have kept of one tensor does not pile up', async () => {
  using v = leaf([1, 2]);
  using x = tensor([3, 4]);
  for (let i = 0; i < 10_000; i++) {
    using product = v.mul(x);
    recordOf(product).dispose();
  }
  assert.ok((x.storage.memory.kept?.length ?? 0) <= 17);
  // and not of one that is edited over and over
  using y = v.mul(1);
  for (let i = 0; i < 1000; i++) y.mul_(x);
  assert.ok((y.storage.memory.kept?.length ?? 0) <= 17);
  recordOf(y).dispose();
});

check('records of any size are joined', async () => {
  using v = leaf([1, 2]);
  const made: Tensor[] = [];
  const own = (t: Tensor) => {
    made.push(t);
    return t;
  };
  let left = own(v.mul(1));
  let right = own(v.mul(1));
  for (let i = 0; i < 5000; i++) {
    left = own(own(v.mul(0.5)).add(left));
    right.mul_(-1);
  }
  right = own(right.add(left));
  await backward(right);
  assert.equal(await numbers(v.grad), [2502, 2502]);
  for (const t of made) t.dispose();
});

check('retain keeps the record for another scalar, and for later operations', async () => {
  using v = leaf([1, 2]);
  using y = v.mul(v);
  await backward(y, [1, 0], { retain: true });
  await backward(y, [0, 1], { retain: true });
  assert.equal(await numbers(v.grad), [2, 4]);
  y.mul_(3);
  await backward(y);
  assert.equal(await numbers(v.grad), [8, 16]);
  assert.match(recordOf(y).ended ?? '', 'retain: true');
});

check('what a record holds is freed with it, whichever record it has become a part of', async () => {
  using v = leaf([1, 2]);
  using a = v.mul(2);
  using b = v.mul(3);
  const freed: string[] = [];
  const holder = recordOf(b);
  holder.hold({ dispose: () => freed.push('early') });
  using c = a.add(b);
  assert.is(recordOf(a), recordOf(b));
  holder.hold({ dispose: () => freed.push('late') });
  assert.equal(freed, []);
  holder.dispose();
  assert.equal(freed.sort(), ['early', 'late']);
  assert.is(recordOf(c).ended, 'it was disposed');
});

// ---- passes

check('operations on leaves join the record of their pass; two passes under way do not mix', async () => {
  using v = leaf([1, 2]);
  const pass = async (own: GradientRecord, factor: number): Promise<Tensor> => {
    assert.is(currentRecord(), own);
    let y = v.mul(factor);
    for (let i = 0; i < 5; i++) {
      await new Promise((resolve) => setImmediate(resolve));
      using last = y;
      y = last.mul(v);
    }
    assert.is(recordOf(y), own);
    return y;
  };
  const [one, two] = [new GradientRecord(), new GradientRecord()];
  const [y, z] = await Promise.all([recordingIn(one, () => pass(one, 2)), recordingIn(two, () => pass(two, 3))]);
  assert.is(currentRecord(), undefined);
  await backward(y);
  assert.equal([one.ended !== undefined, two.ended], [true, undefined]);
  assert.equal(await numbers(v.grad), [12, 2 * 6 * 32]);
  v.zeroGrad();
  await backward(z);
  assert.equal(await numbers(v.grad), [18, 3 * 6 * 32]);
  y.dispose();
  z.dispose();
});

check('a pass without gradients records nothing', async () => {
  using v = leaf([1, 2]);
  using recorded = v.mul(2);
  using y = await recordingIn(undefined, async () => {
    await new Promise((resolve) => setImmediate(resolve));
    return v.mul(recorded);
  });
  assert.is(hasHistory(y), false);
  using z = y.mul(v);
  await backward(z);
  assert.equal(await numbers(v.grad), [2, 8]);
  recordOf(recorded).dispose();
});

check('a record returns the gradients of what it watches; two that were joined return those of both', async () => {
  using v = leaf([1, 2]);
  using w = tensor([3, 4]);
  using u = tensor([5, 6]);
  const owner = {};
  const watching = (name: string, x: Tensor, of: object = owner): Tensor => {
    const own = new GradientRecord();
    own.watch(x);
    own.willReturn(of, (of) => {
      const gradient = of(x);
      return new Map(gradient && [[name, gradient]]);
    });
    return x.mul(v);
  };
  const read = async (results: Map<string, Tensor>) =>
    Object.fromEntries(
      await Promise.all(
        [...results].map(async ([name, gradient]) => {
          using own = gradient;
          return [name, await numbers(own)];
        }),
      ),
    );
  {
    using a = watching('w', w);
    using loss = a.sum();
    assert.equal(await read(await loss.backward()), { w: [1, 2] });
    w.storage.history = undefined;
  }
  using a = watching('w', w);
  using b = watching('u', u);
  using ofOne = a.sum();
  assert.equal(await read(await ofOne.backward({ retain: true })), { w: [1, 2] });
  using product = a.mul(b);
  using loss = product.sum();
  assert.equal(await read(await loss.backward()), { w: [1 * 5, 2 * 12 * 1], u: [3 * 1, 8 * 2] });
  for (const x of [w, u]) x.storage.history = undefined;
});

check('gradients of one name add up over passes of one model; those of two models cannot be joined', async () => {
  using v = leaf([1, 2]);
  const owner = {};
  const watching = (x: Tensor, of: object): Tensor => {
    const own = new GradientRecord();
    own.watch(x);
    own.willReturn(of, (of) => new Map([['x', of(x) as Tensor]]));
    return x.mul(v);
  };
  using w = tensor([3, 4]);
  using u = tensor([5, 6]);
  {
    using a = watching(w, owner);
    using b = watching(u, owner);
    using sum = a.add(b);
    using loss = sum.sum();
    const returned = await loss.backward();
    using x = returned.get('x') as Tensor;
    assert.equal(await numbers(x), [2, 4]);
    for (const x of [w, u]) x.storage.history = undefined;
  }
  using a = watching(w, owner);
  using b = watching(u, {});
  throws(
    () => recordOf(a).join(recordOf(b)),
    Error,
    /gradients of the parameters of two models cannot be returned by name/,
  );
  for (const x of [a, b]) recordOf(x).dispose();
});

check('a record that is disposed while it is gone over ends the backward with an error', async () => {
  using v = leaf([1, 2]);
  using y = v.mul(2);
  recordOf(y).addHook(y, async (g) => {
    recordOf(y).dispose();
    return g;
  });
  using z = y.mul(v);
  using all = z.sum();
  await rejects(all.backward(), Error, /a record that the tensor depends on is gone: it was disposed/);
  assert.is(v.grad, undefined);
});

check('what a record that has ended is to hold is freed at once', async () => {
  const record = new GradientRecord();
  record.dispose();
  const held = tensor([1]);
  record.hold(held);
  assert.match(String(held), /ended/);
});

check('a flow that goes on after its pass is outside of it', async () => {
  using v = leaf([1, 2]);
  using first = v.sum();
  recordOf(first).dispose();
  let goesOn: Promise<unknown> = Promise.resolve();
  await recordingIn(undefined, async () => {
    goesOn = (async () => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      using loss = v.sum();
      await loss.backward();
    })();
  });
  await goesOn;
  assert.equal(await numbers(v.grad), [1, 1]);
});

check('memory that is written all over begins anew, whatever was there before', async () => {
  using v = leaf([1, 2]);
  using buffer = tensor([0, 0]);
  for (let pass = 1; pass <= 2; pass++) {
    using y = v.mul(3);
    buffer.copyFrom(y);
    using loss = buffer.sum();
    await loss.backward();
    assert.equal(await numbers(v.grad), [3 * pass, 3 * pass]);
  }
  buffer.add_(1);
  using w = leaf([1, 1]);
  using z = buffer.mul(w);
  using later = z.sum();
  await rejects(later.backward(), Error, /is gone: backward\(\) has freed it/);
});

// ---- hooks and operations

check('a hook sees the gradient, and may edit or replace it', async () => {
  using v = leaf([1, 2]);
  const through = async (hook: (g: Tensor) => Tensor | Promise<Tensor>): Promise<number[] | undefined> => {
    using y = v.mul(2);
    recordOf(y).addHook(y, async (g) => hook(g as Tensor));
    using z = y.mul(3);
    await backward(z, [1, 10]);
    const found = await numbers(v.grad);
    v.zeroGrad();
    return found;
  };
  let seen: Tensor | undefined;
  let values: number[] | undefined;
  const same = await through(async (g) => {
    seen = g;
    values = await numbers(g);
    return g;
  });
  assert.equal(
    [values, same],
    [
      [3, 30],
      [6, 60],
    ],
  );
  assert.match(seen?.ended ?? '', 'the hook it was given to has ended; keep a clone()');
  assert.equal(await through((g) => g.mul_(10)), [60, 600]);
  assert.equal(await through((g) => g.mul(10)), [60, 600]);
  assert.equal(await through((g) => g.slice(0, 0, 1)), [6, 6]);
  await rejects(
    through(() => {
      throw new TypeError('no');
    }),
    TypeError,
    /^no$/,
  );
});

check('a hook is not called where the scalar does not depend on its value', async () => {
  using v = leaf([1, 2]);
  using y = v.mul(2);
  using z = v.add(y);
  const called: string[] = [];
  const hook =
    (name: string) =>
    async <T>(g: T) => {
      called.push(name);
      return g;
    };
  using other = v.mul(4);
  recordOf(z).addHook(z, hook('z'));
  recordOf(other).addHook(other, hook('other'));
  using all = z.add(other);
  using loss = z.sum();
  await loss.backward({ retain: true });
  assert.equal(called, ['z']);
  assert.equal(await numbers(v.grad), [3, 3]);
  await backward(all);
  assert.equal(called.sort(), ['other', 'z', 'z']);
});

check('an operation of several outputs is told which of them count; backward may be asynchronous', async () => {
  using v = leaf([1, 2]);
  const given: (number[] | undefined)[][] = [];
  const pair = (): [Tensor, Tensor, Tensor] => {
    const outputs = [v.detach().clone(), v.detach().clone(), v.detach().argmax()] as [Tensor, Tensor, Tensor];
    record('pair', outputs, [v], () => async (...gradients) => {
      given.push(await Promise.all(gradients.map((g) => numbers(g as Tensor | undefined))));
      return [gradients[0]?.mul(1) ?? gradients[1]];
    });
    return outputs;
  };
  const [a, b, index] = pair();
  using sum = a.mul(2);
  using apart = recordingIn(recordOf(sum), () => v.mul(5));
  await backward(apart, undefined, { retain: true });
  assert.equal(given, []);
  await backward(sum, undefined, { retain: true });
  await backward(b);
  assert.equal(given, [
    [[2, 2], undefined],
    [undefined, [1, 1]],
  ]);
  assert.equal(await numbers(v.grad), [8, 8]);
  for (const t of [a, b, index]) t.dispose();
});

check('gradients become float32, whatever an operation gives', async () => {
  using v = leaf([1, 2]);
  using y = v.detach().clone();
  record('half', [y], [v], () => (g) => [(g as Tensor).to('bfloat16')]);
  const exact = 1 + 2 ** -12;
  await backward(y, [1, 2]);
  await backward(v, [exact, exact]);
  assert.equal([v.grad?.dtype, await numbers(v.grad)], ['float32', [1 + exact, 2 + exact]]);
});

check('an operation keeps what it needs only where a gradient is wanted', async () => {
  using v = leaf([1, 2]);
  using x = tensor([3, 4]);
  using y = v.mul(x);
  assert.is(x.storage.memory.kept?.length, 1);
  assert.is(v.storage.memory.kept, undefined);
  await backward(y);
});

test.run();
