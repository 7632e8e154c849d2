// Caches: growth, other models' caches, passes at the same time. The oracle is the same sequence computed in one pass.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { AtLayers, TransformerHooks } from '../../src/transformer/hooks.js';
import type { KvCaches } from '../../src/transformer/kv_cache.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('kv cache');
const within = { rtol: 1e-4, atol: 2e-5 };
const tiny = join(packageRoot, 'test', 'fixtures', 'goldens', 'tiny');
let xf: Transformer;
test.before(async () => {
  xf = await Transformer.load(tiny);
});

/** The logits of a pass, with the caches or without. */
async function logitsOf(tokens: number[][], kvCaches?: KvCaches, pad?: number[][]): Promise<Float32Array> {
  const result = await xf.forward(tokens, { ...(kvCaches ? { kvCaches } : {}), ...(pad ? { pad } : {}) });
  const values = (await result.logits.read()) as Float32Array;
  result.logits.dispose();
  if (!kvCaches) result.kvCaches.dispose();
  return values;
}

/** The caches of a pass. */
async function cachesOf(tokens: number[][], pad?: number[][]): Promise<KvCaches> {
  const { logits, kvCaches } = await xf.forward(tokens, pad ? { pad } : {});
  logits.dispose();
  return kvCaches;
}

test('one token at a time is the sequence at once, through every growth of the buffers', async () => {
  const rows = [0, 1].map((row) => Array.from({ length: 20 }, (_, i) => (i * 7 + row * 13) % xf.nVocab));
  const whole = await xf.forward(rows);
  let kvCaches: typeof whole.kvCaches | undefined;
  for (let i = 0; i < 20; i++) {
    const step = await xf.forward(
      rows.map((row) => [row[i] as number]),
      kvCaches ? { kvCaches } : {},
    );
    kvCaches = step.kvCaches;
    assert.is(kvCaches.length, i + 1);
    close(await step.logits.select(1, 0).read(), await whole.logits.select(1, i).read(), { rtol: 1e-4, atol: 1e-4 });
    step.logits.dispose();
  }
  for (let layer = 0; layer < xf.config.nLayers; layer++) {
    close(
      await (kvCaches as NonNullable<typeof kvCaches>).keys(layer).read(),
      await whole.kvCaches.keys(layer).read(),
      {
        rtol: 1e-4,
        atol: 1e-4,
      },
    );
  }
  for (const t of [whole.logits, whole.kvCaches, kvCaches]) t?.dispose();
});

test('one prefix, several continuations: clones, and the same caches truncated', async () => {
  const allocated = () => xf.device.memory().allocated;
  const before = allocated();
  using prefix = await cachesOf([[1, 2, 3, 4]]);
  const prefixKeys = await prefix.keys(1).read();
  const held = allocated();
  for (const rest of [[5], [6, 7, 8], Array.from({ length: 25 }, (_, i) => i)]) {
    const want = await logitsOf([[1, 2, 3, 4, ...rest]]);
    using clone = prefix.clone();
    assert.is(clone.length, 4);
    assert.ok(allocated() > held, 'a clone has memory of its own');
    close(await logitsOf([rest], clone), want.subarray(4 * xf.nVocab), within);
    assert.is(clone.length, 4 + rest.length);
    assert.is(prefix.length, 4);
    close(await prefix.keys(1).read(), prefixKeys);
  }
  assert.is(allocated(), held);
  for (const rest of [[5], [6, 7, 8], [9]]) {
    const want = await logitsOf([[1, 2, 3, 4, ...rest]]);
    close(await logitsOf([rest], prefix), want.subarray(4 * xf.nVocab), within);
    assert.is(prefix.truncate(4), prefix);
    close(await prefix.keys(1).read(), prefixKeys);
  }
  using clone = prefix.clone();
  prefix.dispose();
  close(await clone.keys(1).read(), prefixKeys);
  throws(() => prefix.clone(), Error, /kvCaches cannot be used: they were disposed/);
  throws(() => prefix.truncate(1), Error, /kvCaches cannot be used: they were disposed/);
  throws(() => prefix.select([0]), Error, /kvCaches cannot be used: they were disposed/);
  clone.dispose();
  assert.is(allocated(), before);
});

test('running out of memory while growing leaves the caches as they were', async () => {
  const first = await xf.forward([[1, 2, 3]]);
  const { kvCaches } = first;
  const { empty } = Tensor;
  for (const failing of [1, 2, 3]) {
    let buffers = 0;
    Tensor.empty = (shape, options) => {
      if (shape.length === 3 && shape[1] === 6 && ++buffers === failing) throw new Error('planted: no memory');
      return empty.call(Tensor, shape, options);
    };
    try {
      await rejects(xf.forward([[4]], { kvCaches }), Error, /planted: no memory/);
    } finally {
      Tensor.empty = empty;
    }
    assert.is(kvCaches.length, 3);
  }
  const next = await xf.forward([[4]], { kvCaches });
  const whole = await xf.forward([[1, 2, 3, 4]]);
  close(await next.logits.select(1, 0).read(), await whole.logits.select(1, 3).read(), { rtol: 1e-4, atol: 1e-4 });
  for (const t of [first.logits, next.logits, whole.logits, kvCaches]) t.dispose();
});

test('caches of a model of another size or dtype are refused, and stay usable', async () => {
  using half = await Transformer.load(tiny, { dtype: 'bfloat16' });
  using other = await Transformer.load('random:tiny');
  const first = await xf.forward([[1, 2]]);
  const { kvCaches } = first;
  for (const model of [half, other]) {
    await rejects(model.forward([[3]], { kvCaches }), TypeError, /kvCaches must be of this model/);
  }
  const next = await xf.forward([[3]], { kvCaches });
  assert.is(kvCaches.length, 3);
  throws(() => kvCaches.keys(9), RangeError, /kvCaches: layer must be from 0 to/);
  for (const t of [first.logits, next.logits, kvCaches]) t.dispose();
});

test('padding in the caches is still ignored', async () => {
  using tokens = Tensor.from(
    [
      [0, 0, 5, 6],
      [7, 8, 9, 10],
    ],
    { dtype: 'int32' },
  );
  using pad = Tensor.from([
    [true, true, false, false],
    [false, false, false, false],
  ]);
  const first = await xf.forward(tokens, { pad });
  const { kvCaches } = first;
  const next = await xf.forward([[11], [12]], { kvCaches });
  const alone = await xf.forward([[5, 6, 11]]);
  close(await next.logits.select(0, 0).read(), await alone.logits.select(1, 2).read(), { rtol: 1e-4, atol: 1e-4 });
  for (const t of [first.logits, next.logits, alone.logits, kvCaches]) t.dispose();
});

test('passes at the same time give the same as one by one, each with its caches', async () => {
  const prompts = Array.from({ length: 40 }, (_, i) => [[i, i + 1, i + 2]]);
  const together = await Promise.all(prompts.map((tokens) => xf.forward(tokens)));
  const held = together.map(({ logits, kvCaches }) => ({ logits, kvCaches })); // later passes release unread caches
  for (const [i, { logits, kvCaches }] of held.entries()) {
    const alone = await xf.forward(prompts[i] as number[][]);
    close(await logits.read(), await alone.logits.read());
    assert.is(kvCaches.length, 3);
    for (const t of [logits, alone.logits, kvCaches]) t.dispose();
  }
});

test('a write to a clone does not reach the caches it was made of, nor the other way round', async () => {
  const first = await xf.forward([
    [1, 2],
    [3, 4],
  ]);
  first.logits.dispose();
  using caches = first.kvCaches;
  using clone = caches.clone();
  using chosen = caches.select([1, 0]);
  const want = await caches.values(0).read();
  clone.values(0).fill(0);
  chosen.values(0).fill(0);
  close(await caches.values(0).read(), want);
  caches.keys(0).fill(0);
  assert.ok((await clone.keys(0).read()).some((x) => x !== 0));
});

test('rows of caches, in any order and again and again', async () => {
  const rows = [
    [1, 2, 3],
    [0, 4, 5],
    [6, 7, 8],
  ];
  const pad = [
    [0, 0, 0],
    [1, 0, 0],
    [0, 1, 0],
  ];
  using caches = await cachesOf(rows, pad);
  const own = rows.map((row, r) => row.filter((_, i) => !pad[r]?.[i]));
  for (const chosen of [[0], [2, 1, 0], [1, 1, 1, 1], [-1, -3, 0, 1, 2, 2, 2, 0], [0, 1, 2]]) {
    using some = caches.select(chosen);
    assert.is(some.batch, chosen.length);
    assert.is(some.length, 3);
    const next = chosen.map((_, i) => [10 + i]);
    const got = await logitsOf(next, some);
    for (const [i, row] of chosen.entries()) {
      const tokens = [...(own.at(row) as number[]), 10 + i];
      const want = await logitsOf([tokens]);
      const last = want.subarray((tokens.length - 1) * xf.nVocab);
      close(got.subarray(i * xf.nVocab, (i + 1) * xf.nVocab), last, within);
    }
  }
  assert.is(caches.length, 3);
  throws(() => caches.select([]), RangeError, /select: rows must be at least one row, but is an empty list/);
  throws(() => caches.select([0, 3]), RangeError, /select: rows\[1\] must be an integer from -3 to 2, but is 3/);
  throws(() => caches.select([-4]), RangeError, /select: rows\[0\] must be an integer from -3 to 2, but is -4/);
  throws(() => caches.select(1 as never), TypeError, /select: rows must be an array of rows, but is 1/);
  throws(() => caches.truncate(4), RangeError, /truncate: length must be an integer from 0 to 3, but is 4/);
  throws(() => caches.truncate(-1), RangeError, /truncate: length must be an integer from 0 to 3, but is -1/);
  throws(() => caches.truncate(1.5), RangeError, /truncate: length must be an integer from 0 to 3, but is 1\.5/);
});

test('caches without a token, cloned and chosen from, are a fresh start', async () => {
  const first = await xf.forward([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  first.logits.dispose();
  using caches = first.kvCaches;
  const want = await logitsOf([[7, 8, 9, 10]]);
  caches.truncate(0);
  for (const empty of [caches.clone(), caches.select([1, 0]), caches]) {
    assert.is(empty.length, 0);
    const got = await logitsOf(
      [
        [7, 8, 9, 10],
        [7, 8, 9, 10],
      ],
      empty,
    );
    close(got, Float32Array.from([...want, ...want]), within);
    assert.is(empty.length, 4);
    empty.dispose();
  }
});

test('caches that a pass uses can be copied, but neither truncated nor used by another', async () => {
  using caches = await cachesOf([[1, 2, 3]]);
  const copies: KvCaches[] = [];
  const hooks = new TransformerHooks();
  hooks.mlp.postAct.appendFwd(
    new AtLayers(1).append(async () => {
      copies.push(caches.clone(), caches.select([0, 0]));
      throws(() => caches.truncate(1), Error, /truncate: kvCaches are in use by another pass; wait for it first/);
      await rejects(xf.forward([[5]], { kvCaches: caches }), Error, /forward: kvCaches are in use by another pass/);
    }),
  );
  const { logits } = await xf.forward([Array.from({ length: 20 }, (_, i) => i)], { kvCaches: caches, hooks });
  logits.dispose();
  assert.is(caches.length, 23);
  const want = (await logitsOf([[1, 2, 3, 9]])).subarray(3 * xf.nVocab);
  for (const copy of copies) {
    assert.is(copy.length, 3);
    const got = await logitsOf(
      Array.from({ length: copy.batch }, () => [9]),
      copy,
    );
    for (let row = 0; row < copy.batch; row++) {
      close(got.subarray(row * xf.nVocab, (row + 1) * xf.nVocab), want, within);
    }
    copy.dispose();
  }
  await rejects(xf.forward([[1, 2]], { kvCaches: caches, pad: [[0]] }), RangeError, /pad must be \[1, 2\]/);
  assert.is(caches.truncate(5).length, 5, 'a refused pass gives the caches back');
});

test('a copy of caches without tokens survives a pass that fails, and has keys of no token', async () => {
  using first = await cachesOf([[1, 2, 3]]);
  first.truncate(0);
  const want = await logitsOf([[7, 8]]);
  const hooks = new TransformerHooks();
  hooks.resid.torso.postMlp.appendFwd(() => {
    throw new Error('planted');
  });
  for (const caches of [first.clone(), first.select([0])]) {
    assert.equal(caches.keys(2).shape, [1, 0, xf.config.dModel]);
    await rejects(xf.forward([[1, 2, 3]], { kvCaches: caches, hooks }), Error, /planted/);
    assert.is(caches.length, 0);
    close(await logitsOf([[7, 8]], caches), want, within);
    caches.dispose();
  }
});

test('a copy has room to be continued in place; views end with the memory they are of', async () => {
  using first = await cachesOf([[1, 2, 3]]);
  using copy = first.clone();
  const keys = copy.keys(0);
  await logitsOf([[4, 5, 6]], copy);
  assert.is(copy.keys(0).storage, keys.storage);
  const old = first.keys(0);
  await logitsOf([[4, 5, 6]], first);
  await rejects(old.read(), Error, /cannot be used: the caches were continued in other memory/);
});

test('caches that are disposed while a pass uses them fail it, and nothing is held', async () => {
  using own = await Transformer.load(tiny); // whose passes free no caches of other tests
  const allocated = () => own.device.memory().allocated;
  for (const point of ['resid.post_emb', 'resid.torso.post_mlp', 'logits']) {
    for (const emptied of [false, true]) {
      const first = await own.forward([[1, 2, 3, 4, 5]]);
      first.logits.dispose();
      const caches = first.kvCaches.clone();
      first.kvCaches.dispose();
      if (emptied) caches.truncate(0);
      const before = allocated();
      const held = caches.keys(0).storage.bytes * 2 * xf.config.nLayers;
      const hooks = new TransformerHooks().appendToPath(`${point}.fwd`, () => caches.dispose());
      const tokens = [Array.from({ length: 20 }, (_, i) => i)];
      await rejects(
        own.forward(tokens, { kvCaches: caches, hooks }),
        Error,
        /^kvCaches cannot be used: they were disposed$/,
      );
      assert.is(allocated(), before - held, `${point}, ${emptied}`);
    }
  }
});

test('running out of memory while copying leaves nothing behind', async () => {
  using caches = await cachesOf([[1, 2, 3]]);
  const before = xf.device.memory().allocated;
  const { empty } = Tensor;
  for (let failing = 1; failing <= 2 * xf.config.nLayers; failing++) {
    let buffers = 0;
    Tensor.empty = (shape, options) => {
      if (++buffers === failing) throw new Error('planted: no memory');
      return empty.call(Tensor, shape, options);
    };
    try {
      throws(() => caches.clone(), Error, /planted: no memory/);
    } finally {
      Tensor.empty = empty;
    }
    assert.is(xf.device.memory().allocated, before);
  }
});

test('a row with a full window goes on as padding, for as long as the others go on', async () => {
  const { ctxWindow } = xf.config;
  const full = Array.from({ length: ctxWindow }, (_, i) => i);
  const first = await xf.forward([full, full.map((token) => token + 1)], {
    pad: [full.map(() => 0), full.map((_, i) => Number(i > 2))],
  });
  first.logits.dispose();
  using caches = first.kvCaches;
  const more = full.slice(0, ctxWindow - 3);
  const got = await logitsOf([more, more], caches, [more.map(() => 1), more.map(() => 0)]);
  const want = await logitsOf([[1, 2, 3, ...more]]);
  close(got.subarray(more.length * xf.nVocab), want.subarray(3 * xf.nVocab), within);
  await rejects(
    xf.forward([[1], [1]], { kvCaches: caches, pad: [[1], [0]] }),
    RangeError,
    /sequences must fit the context window of 32 tokens, but one has 33/,
  );
});

test('padding as rows of numbers is that of a tensor, and what is none is refused', async () => {
  const tokens = [
    [1, 2, 3],
    [4, 5, 6],
  ];
  const rows = [
    [1, 0, 0],
    [0, 0, 1],
  ];
  using pad = Tensor.from(rows.map((row) => row.map(Boolean)));
  const passes = await Promise.all(
    [pad, rows, rows.map((row) => row.map(Boolean))].map((pad) => xf.forward(tokens, { pad })),
  );
  const [want, ...others] = await Promise.all(passes.map(({ logits }) => logits.read()));
  for (const other of others) close(other, want as Float32Array);
  for (const { logits, kvCaches } of passes) for (const t of [logits, kvCaches]) t.dispose();
  const refused = (pad: unknown, type: typeof TypeError | typeof RangeError, pattern: RegExp) =>
    rejects(xf.forward(tokens, { pad: pad as number[][] }), type, pattern);
  await refused([[1, 0, 0]], RangeError, /forward: pad must be \[2, 3\] \(the shape of tokens\), but is 1 rows/);
  await refused(
    [
      [1, 0, 0],
      [1, 0],
    ],
    RangeError,
    /pad must be \[2, 3\] \(the shape of tokens\), but is of 2 values in row 1/,
  );
  await refused(
    [
      [1, 0, 0],
      [1, 0, 2],
    ],
    RangeError,
    /forward: pad\[1\]\[2\] must be 0 or 1, or false or true, but is 2/,
  );
  await refused([[1, 0, 0], 'abc'], TypeError, /forward: pad\[1\] must be a row of 0 and 1, but is 'abc'/);
  await refused(
    [[1, 0, 0], new Array(3)],
    RangeError,
    /pad\[1\]\[0\] must be 0 or 1, or false or true, but is undefined/,
  );
  await refused(
    7,
    TypeError,
    /forward: pad must be a bool tensor \[batch, seq\] or an array of rows of 0 and 1, but is 7/,
  );
  await refused({ shape: [2, 3] }, TypeError, /forward: pad must be a bool tensor/);
});

test.run();
