// Devices: the queue, its errors, memory, and that the event loop stays free. The oracle is the promise of each
// sentence.
import { spawnSync } from 'node:child_process';
import { Worker } from 'node:worker_threads';
import * as assert from 'uvu/assert';
import { getDefaultDevice, listDevices, openDevice } from '../../src/engine/device.js';
import { DeviceError, OutOfMemoryError } from '../../src/engine/errors.js';
import { native, packageRoot } from '../../src/engine/native.js';
import { embedding } from '../../src/engine/ops/embedding.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { packWeights } from '../../src/engine/ops/pack_weights.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { arithmeticNames, onCpu, testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('device');

test('the same name gives the same device; another number of threads another one', () => {
  assert.is(testDevice(), getDefaultDevice());
  assert.is(openDevice('cpu', { threads: 1 }), openDevice('cpu', { threads: 1 }));
  assert.is.not(openDevice('cpu', { threads: 1 }), openDevice('cpu'));
  assert.match(openDevice('cpu', { threads: 1 }).description, /1 thread/);
  throws(() => openDevice('cpu', { threads: 0 }), RangeError, /threads must be an integer from 1 to 1024, but is 0/);
  throws(() => openDevice('tpu' as never), RangeError, /openDevice: name must be 'cpu', 'cuda' or 'cuda:N'/);
  throws(() => openDevice('cuda:99'), Error, /openDevice: cuda:99: \w/);
});

test('arithmetic names what decides the bits, and no number of threads', () => {
  const { arithmetic, description } = openDevice('cpu');
  const { float32, bfloat16Dot, cuda } = arithmeticNames;
  const bfloat16 = description.startsWith('AVX-512 with bfloat16') ? bfloat16Dot : float32;
  assert.equal(arithmetic, { float32, float16: float32, bfloat16 });
  for (const threads of [1, 2, 7]) assert.equal(openDevice('cpu', { threads }).arithmetic, arithmetic);
  assert.ok(Object.isFrozen(arithmetic));
  const here = testDevice();
  const capability = /compute capability (\S+)/.exec(
    listDevices().find(({ name }) => name === here.name)?.description ?? '',
  );
  const onGpu = cuda(String(capability?.[1]));
  assert.equal(here.arithmetic, onCpu ? arithmetic : { float32: onGpu, float16: onGpu, bfloat16: onGpu });
});

test('listDevices says what there is and why the rest is missing', () => {
  const [cpu, cuda] = listDevices();
  assert.ok(cpu?.available && cpu.description);
  assert.equal(cpu.arithmetic, openDevice('cpu').arithmetic);
  assert.ok(cuda && (cuda.available || (cuda.reason?.length ?? 0) > 10));
  assert.is(cuda.arithmetic !== undefined, cuda.available);
});

test('tensors of two devices do not meet', () => {
  using a = Tensor.zeros([2]);
  using b = Tensor.zeros([2], { device: openDevice('cpu', { threads: 1 }) });
  throws(() => a.add(b), TypeError, /add: x must be on (cpu|cuda:0), where tensor is/);
});

test('the next wait reports a failed operation with its name and shapes, and the queue works again', async () => {
  using table = Tensor.zeros([4, 2]);
  using bad = Tensor.from([[0, 9]], { dtype: 'int32' });
  using worse = Tensor.from([[77]], { dtype: 'int32' });
  using first = embedding(bad, table);
  using second = embedding(worse, table);
  const error = await rejects(
    first.read(),
    DeviceError,
    /^embedding: .*9.*\[0, 4\).*indices \[1, 2\] int32.*table \[4, 2\]/,
  );
  assert.is((error as DeviceError).operation, 'embedding');
  assert.match(error.stack ?? '', /device\.test/);
  await second.device.synchronize();
  using ok = table.add(1);
  assert.equal([...(await ok.read())], [1, 1, 1, 1, 1, 1, 1, 1]);
  using third = embedding(bad, table);
  await rejects(third.device.synchronize(), DeviceError, /^embedding: /);
  await third.device.synchronize();
});

test('the first wait behind a failure reports it, and no other does, though all were queued at once', async () => {
  using table = Tensor.zeros([4, 2]);
  for (let round = 0; round < 5; round++) {
    // the waits are queued before any result is known
    const waits = [0, 9, 1, 77, 2, 3, 8].map((index) => {
      using indices = Tensor.from([index], { dtype: 'int32' });
      using out = embedding(indices, table);
      return { index, reported: out.read().then(String, (error: Error) => error.message) };
    });
    for (const { index, reported } of waits) {
      if (index < 4) assert.is(await reported, '0,0');
      else assert.match(await reported, new RegExp(`^embedding: (index )?${index}\\b`));
    }
    await table.device.synchronize();
  }
});

test('memory is accounted for and freed', async () => {
  const device = openDevice('cpu', { threads: 1 });
  const before = device.memory().allocated;
  const t = Tensor.zeros([1000], { device });
  assert.is(device.memory().allocated - before, 4000);
  const u = t.add(1);
  assert.is(device.memory().allocated - before, 8000);
  t.dispose();
  assert.is(device.memory().allocated - before, 4000);
  assert.is((await u.read())[999], 1);
  u.dispose();
  assert.is(device.memory().allocated, before);
  assert.ok(device.memory().peak >= before + 8000);
});

test('memory given back while operations still wait for it is not mixed up', async () => {
  using one = Tensor.from([1]);
  let sum = one.clone();
  for (let i = 0; i < 2000; i++) {
    const next = sum.add(one);
    sum.dispose();
    sum = next;
  }
  assert.equal([...(await sum.read())], [2001]);
  sum.dispose();
});

test('out of memory is an error that states what was asked for', () => {
  throws(() => Tensor.empty([2 ** 46]), OutOfMemoryError, /: out of memory: asked for 281474976710656 bytes while/);
});

test('a collected tensor gives its memory back', async () => {
  const device = openDevice('cpu', { threads: 1 });
  const before = device.memory().allocated;
  for (let i = 0; i < 400; i++) Tensor.zeros([1 << 20], { device });
  await device.synchronize();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(
    device.memory().allocated - before < 400 * (4 << 20),
    'the collector knows how much native memory there is',
  );
});

test('a buffer is used again, and a tensor that had it cannot touch what it holds now', async () => {
  const device = openDevice('cpu', { threads: 1 });
  const before = Tensor.zeros([3], { device });
  const view = before.slice(0, 1);
  const { number } = before.storage;
  before.dispose();
  using after = Tensor.full([3], 7, { device });
  assert.is(after.storage.number, number);
  before.dispose();
  view.dispose();
  throws(() => before.fill(1), Error, /it was disposed/);
  throws(() => view.fill(1), Error, /it was disposed/);
  throws(() => before.storage.number, Error, /memory of cpu.* cannot be used: it was disposed/);
  assert.equal([...(await after.read())], [7, 7, 7]);
  using another = Tensor.zeros([3], { device });
  assert.is.not(another.storage.number, number);
});

test('a wrong handle is a sentence', () => {
  throws(() => native.release({} as never), TypeError, /argument 0 of a native call must be a buffer, but is none/);
  const { handle } = openDevice('cpu');
  throws(() => native.copy(5 as never, new ArrayBuffer(8), undefined), TypeError, /argument 0 .* must be a device/);
  throws(() => native.copy(handle, 5 as never, undefined), TypeError, /the arguments of a native call are missing/);
});

test('wrong arguments of a native call are a sentence', () => {
  const device = openDevice('cpu');
  using x = Tensor.zeros([2, 3], { device });
  using matrix = packWeights(x);
  const run = device.run.bind(device) as (operation: string, ...args: unknown[]) => void;
  throws(() => run('copy', 5, x), TypeError, /argument 1 of a native call must be a view, but is none/);
  throws(() => run('copy', x, matrix), TypeError, /argument 2 of a native call must be a view, but is none/);
  throws(() => run('packWeights', x, x), TypeError, /argument 1 of a native call must be a packed matrix/);
  throws(() => run('fill', x, x), TypeError, /argument 2 of a native call must be a number/);
  throws(() => run('sparseEncode', x, x, matrix, null, 0, 0, true, 0), TypeError, /1 .* must be a CSR result/);
  throws(() => run('sparseEncode', device.handle, x, matrix, null, 0, 0, true, 0), TypeError, /2 .* a CSR result/);
  throws(() => run('triangle', x, x, Number.NaN, true), TypeError, /argument 3 of a native call must be an integer/);

  /** The numbers of copy(x, a view of these), as native/addon/arguments.h reads them. */
  const copyOf = (...view: number[]) => {
    const numbers = new Float64Array(64).fill(-1);
    numbers.set([...view], x.write(numbers, 0));
    return () => native.copy(device.handle, numbers.buffer, undefined);
  };
  const { number } = x.storage;
  copyOf(2, number, 0, 0, 2, 2, 3, 3, 1)();
  throws(copyOf(2, number, 0, 1, 2, 2, 3, 3, 1), RangeError, /a view would reach outside its buffer/);
  throws(copyOf(2, number, 0, -1, 2, 2, 3, 3, 1), RangeError, /a view would reach outside its buffer/);
  throws(copyOf(2, number, 0, 0, 2, 2, 3, 3, 2), RangeError, /a view would reach outside its buffer/);
  throws(copyOf(2, number, 0, 0, 2, 2 ** 40, 2 ** 40, 2 ** 40, 1), RangeError, /a view would reach outside its buffer/);
  throws(copyOf(2, number, 0, 0, 2, -2, 3, 3, 1), RangeError, /negative shape or stride/);
  throws(copyOf(2, number, 0, 0, 9), RangeError, /bad rank/);
  throws(copyOf(2, number, 5, 0, 2, 2, 3, 3, 1), RangeError, /no such dtype/);
  throws(copyOf(2, 1e6, 0, 0, 2, 2, 3, 3, 1), TypeError, /argument 2 .* must be in a buffer of its device/);
  throws(copyOf(2, -1, 0, 0, 2, 2, 3, 3, 1), TypeError, /argument 2 .* must be in a buffer of its device/);
  throws(() => native.copy(device.handle, new ArrayBuffer(0), undefined), RangeError, /end too early/);

  const released = Tensor.zeros([2], { device });
  const { number: old } = released.storage;
  released.dispose();
  throws(copyOf(2, old, 0, 0, 1, 2, 1), Error, /argument 2 of a native call was disposed/);
});

test(
  'a 1 ms timer keeps firing while a matmul of about two seconds runs',
  async () => {
    const device = openDevice('cpu', { threads: 1 });
    using a = Tensor.randn([2048, 2048], { seed: 1, device });
    let took = 0;
    // as many columns as make the one product last two seconds, on whatever machine this is
    for (let n = 1024; took < 1000; n = Math.ceil(n * Math.min(16, Math.max(1.5, 2000 / took)))) {
      using b = Tensor.zeros([2048, n], { device });
      await device.synchronize();
      let ticks = 0;
      let longest = 0;
      let last = performance.now();
      // It ends with this block, or the process would not end after a failure.
      using timer = setInterval(() => {
        ticks++;
        longest = Math.max(longest, performance.now() - last);
        last = performance.now();
      }, 1);
      const start = performance.now();
      using product = matmul(a, b);
      const queued = performance.now() - start;
      await product.device.synchronize();
      took = performance.now() - start;
      clearInterval(timer);
      if (took < 1000) continue;
      assert.ok(queued < took / 5, `queueing took ${queued} of ${took} ms`);
      assert.ok(ticks > 20, `${ticks} ticks in ${took} ms`);
      assert.ok(longest < 0.8 * took, `the longest pause was ${longest} of ${took} ms`);
    }
  },
  { limit: 120_000 },
);

test('a process that leaves work behind ends, and so does a worker thread', async () => {
  const engine = new URL('../../src/engine/ops/tensor.js', import.meta.url).href;
  const program = `
    const { Tensor } = await import(${JSON.stringify(engine)});
    let t = Tensor.zeros([512, 512]);
    for (let i = 0; i < 50; i++) t = t.add(1);
    t.read();
    process.exit(7);`;
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    cwd: packageRoot,
    encoding: 'utf8',
  });
  assert.is(child.status, 7, child.stderr + child.signal);
  const worker = new Worker(
    `import(${JSON.stringify(engine)}).then(async ({ Tensor }) => {
       const t = Tensor.from([1, 2]).add(1);
       require('node:worker_threads').parentPort.postMessage([...(await t.read())]);
     });`,
    { eval: true },
  );
  const got = await new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  assert.equal(got, [2, 3]);
  await worker.terminate();
});

test.run();
