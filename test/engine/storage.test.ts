// Storages that share memory: it is given back once, after the last of them.
import * as assert from 'uvu/assert';
import { Storage } from '../../src/engine/storage.js';
import { collectUntil } from '../support/collect.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';

const test = suite('storage');
const device = testDevice();
const bytes = 4000;
const allocated = (): number => device.memory().allocated;

/** Calls body with new memory and what was allocated before. */
const withStorage = (body: (storage: Storage, before: number) => void): void => {
  const before = allocated();
  const storage = new Storage(device, bytes);
  assert.is(allocated(), before + bytes);
  body(storage, before);
  assert.is(allocated(), before);
};

test('memory is given back when its storage is released, once', () => {
  withStorage((storage, before) => {
    storage.release('first');
    assert.is(allocated(), before);
    storage.release('second');
    assert.is(storage.ended, 'first');
    throws(() => storage.number, Error, /^memory of .* cannot be used: first$/);
  });
});

test('memory that is shared is given back after both storages, in either order', () => {
  for (const isReversed of [false, true]) {
    withStorage((storage, before) => {
      const shared = storage.shared();
      assert.is(shared.number, storage.number);
      const [first, last] = isReversed ? [shared, storage] : [storage, shared];
      first.release('first');
      first.release('again');
      assert.is(allocated(), before + bytes);
      throws(() => first.number, Error, /cannot be used: first$/);
      assert.type(last.number, 'number');
      last.release('last');
      throws(() => last.number, Error, /cannot be used: last$/);
    });
  }
});

test('a share that was collected does not hold the memory', async () => {
  const before = allocated();
  const storage = new Storage(device, bytes);
  for (let i = 0; i < 10; i++) storage.shared();
  const released = storage.shared();
  released.release('released');
  storage.release('done');
  await collectUntil(() => allocated() === before);
  assert.is(allocated(), before);
  assert.is(storage.ended, 'done');
});

test('a share that was released is not given back again when it is collected', async () => {
  const before = allocated();
  const storage = new Storage(device, bytes);
  for (let i = 0; i < 10; i++) storage.shared().release('done');
  await collectUntil(() => allocated() === before);
  assert.is(allocated(), before + bytes);
  storage.release('done');
});

test('memory that was released and given out again is not held by its storage', async () => {
  const before = allocated();
  const first = new Storage(device, bytes);
  first.release('done');
  for (let i = 0; i < 10; i++) new Storage(device, bytes);
  await collectUntil(() => allocated() === before);
  assert.is(allocated(), before);
  assert.is(first.ended, 'done');
});

test('a detached storage shows the same memory, has no history, and ends with its owner', () => {
  withStorage((storage, before) => {
    const detached = storage.detached();
    const again = detached.detached();
    assert.is(again.number, storage.number);
    assert.is(again.history, undefined);
    detached.release('not its own');
    assert.is(detached.ended, undefined);
    assert.is(allocated(), before + bytes);
    storage.release('done');
    for (const ended of [detached, again]) {
      assert.is(ended.ended, 'done');
      throws(() => ended.number, Error, /cannot be used: done$/);
    }
  });
});

test('what is shared of a detached storage outlives its owner', () => {
  withStorage((storage, before) => {
    const shared = storage.detached().shared();
    storage.release('done');
    assert.is(allocated(), before + bytes);
    assert.is(shared.ended, undefined);
    shared.release('done');
  });
});

test('memory that is kept is given back by letGo() alone', () => {
  withStorage((storage, before) => {
    storage.keep();
    storage.release('too early');
    assert.is(storage.ended, undefined);
    assert.is(allocated(), before + bytes);
    storage.letGo('done');
    assert.is(storage.ended, 'done');
  });
});

test.run();
