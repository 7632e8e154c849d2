// The messages about GPUs that are missing, too old or several, and about libraries that are not the backend. Oracle: the facts that
// each text has to name.
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { DeviceDescription } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import { native } from '../kernels/scripts.js';
import { arithmeticNames } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { emulator } from './suite.js';

const test = suite('loading the CUDA backend');

/** Runs a script with sonde's functions in scope; returns its output, or its error. */
function run(script: string, env: Record<string, string>): string {
  const engine = `${packageRoot}/build-test/src/engine`;
  const text = `
    import { getDefaultDevice, listDevices, openDevice } from '${engine}/device.js';
    import { embedding } from '${engine}/ops/embedding.js';
    import { matmul } from '${engine}/ops/matmul.js';
    import { Tensor } from '${engine}/ops/tensor.js';
    try { ${script} } catch (error) { console.log(error.message); }
  `;
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', text], {
    encoding: 'utf8',
    env: { ...process.env, SONDE_DEVICE: '', SONDE_CUDA_LIBRARY: emulator, ...env },
  });
  assert.is(status, 0, stderr);
  return stdout.trim();
}

/** The product x y needs more scratch memory than `little` leaves; reading y does not. */
const tight = `
      const device = openDevice('cuda');
      const x = Tensor.zeros([1000, 100], { device });
      const y = Tensor.zeros([100, 10], { device });
      const filler = Tensor.zeros([100000], { device });`;
const little = { SONDE_EMULATE_MEMORY: '1200000' };

const devices = (env: Record<string, string>): DeviceDescription[] =>
  JSON.parse(run('console.log(JSON.stringify(listDevices()))', env)) as DeviceDescription[];

function missing(env: Record<string, string>, reason: RegExp): void {
  const [cpu, cuda, ...more] = devices(env);
  assert.ok(cpu?.available);
  assert.equal(more, []);
  assert.is(cuda?.available, false);
  assert.match(cuda?.reason ?? '', reason);
  assert.match(run("openDevice('cuda')", env), reason);
  assert.is(run('console.log(getDefaultDevice().name)', env), 'cpu');
}

if (process.platform !== 'linux') test.skip('all', `the emulator does not run on ${process.platform}`);
else {
  test("a library that is missing, is none, is not sonde's, or is of another version", async () => {
    missing(
      { SONDE_CUDA_LIBRARY: '/nowhere/at/all.so' },
      /SONDE_CUDA_LIBRARY is \/nowhere\/at\/all\.so, which is not there/,
    );
    await withFolder((folder) => {
      const text = join(folder, 'text.so');
      writeFileSync(text, 'not a library');
      missing({ SONDE_CUDA_LIBRARY: text }, /its library could not be loaded: .*text\.so/);
      for (const [name, source, reason] of [
        ['other', 'int something() { return 1; }', /its library is not sonde's/],
        [
          'old',
          'static unsigned abi = 1; extern "C" void* sonde_backend() { return &abi; }',
          /another version.*build:cuda/,
        ],
      ] as const) {
        const library = join(folder, `${name}.so`);
        const options = ['-shared', '-fPIC', '-x', 'c++', '-', '-o', library];
        assert.is(spawnSync(native.compiler, options, { input: source }).status, 0);
        missing({ SONDE_CUDA_LIBRARY: library }, reason);
      }
    });
  });

  test('no GPU, or one that is too old', () => {
    missing({ SONDE_EMULATE_DEVICES: '0' }, /no CUDA-capable device is detected \(the driver is for CUDA 13\.0/);
    missing({ SONDE_EMULATE_SM: '75' }, /cannot be used, it is older than compute capability 8\.0/);
  });

  test('several GPUs have names of their own, and the first one is the default', () => {
    const env = { SONDE_EMULATE_DEVICES: '2' };
    assert.equal(
      devices(env).map(({ name, available }) => `${name} ${available}`),
      ['cpu true', 'cuda:0 true', 'cuda:1 true'],
    );
    assert.is(run('console.log(getDefaultDevice().name)', env), 'cuda:0');
    assert.is(run('console.log(getDefaultDevice().name)', { ...env, SONDE_DEVICE: 'cpu' }), 'cpu');
    assert.is(
      run("console.log(openDevice('cuda') === openDevice('cuda:0'), openDevice('cuda:1').name)", env),
      'true cuda:1',
    );
    assert.match(run("openDevice('cuda:2')", env), /openDevice: cuda:2: there is no such GPU, only cuda:0, cuda:1/);
    const apart =
      "Tensor.zeros([1], { device: openDevice('cuda:0') }).add(Tensor.zeros([1], { device: openDevice('cuda:1') }))";
    assert.match(run(apart, env), /add: x must be on cuda:0, where tensor is, but is on cuda:1/);
  });

  test('arithmetic names the compute capability, and not the GPU', () => {
    for (const [SONDE_EMULATE_SM, capability] of [
      ['80', '8.0'],
      ['86', '8.6'],
      ['90', '9.0'],
    ] as const) {
      const name = arithmeticNames.cuda(capability);
      const names = JSON.stringify({ float32: name, float16: name, bfloat16: name });
      for (const device of ["openDevice('cuda')", 'listDevices()[1]']) {
        assert.is(run(`console.log(JSON.stringify(${device}.arithmetic))`, { SONDE_EMULATE_SM }), names);
      }
    }
  });

  test('too little memory is an error that says how much was asked for and is held', () => {
    const script =
      "const t = Tensor.zeros([1000], { device: openDevice('cuda') }); Tensor.zeros([1 << 20], { device: t.device });";
    assert.match(
      run(script, { SONDE_EMULATE_MEMORY: '1000000' }),
      /cuda:0: out of memory: asked for 4194304 bytes while tensors hold 4000 bytes/,
    );
  });

  test('two GPUs work side by side, the second one opened when the first is in use', () => {
    const script = `
      const compute = (name, factor) => {
        const device = openDevice(name);
        const a = Tensor.from(Array.from({ length: 130 * 70 }, (_, i) => (i % 7) * factor), { shape: [130, 70], device });
        const product = matmul(a, a, { transposeB: true });
        const bad = Tensor.from([1, 9 * factor], { device }).to('int32');
        return {
          sum: product.sum().read().then(([sum]) => sum / factor ** 2),
          failure: embedding(bad, a.slice(0, 0, 5)).read().then(() => 'nothing', (error) => /index \\d+/.exec(error.message)[0]),
        };
      };
      const all = [];
      for (let i = 0; i < 5; i++) all.push(compute('cuda:0', 1), compute('cuda:1', 2));
      const results = [];
      for (const { sum, failure } of all) results.push([await sum, await failure]);
      console.log(JSON.stringify([...new Set(results.map(String))]));`;
    const sum = Array.from({ length: 70 }, (_, k) => Array.from({ length: 130 }, (_, row) => (row * 70 + k) % 7))
      .map((column) => column.reduce((a, b) => a + b, 0) ** 2)
      .reduce((a, b) => a + b, 0);
    const said = JSON.parse(run(script, { SONDE_EMULATE_DEVICES: '2' })) as string[];
    assert.equal(said, [`${sum},index 9`, `${sum},index 18`]);
  });

  test('memory that was freed in one size is there for another', () => {
    const script = `
      const device = openDevice('cuda');
      for (const size of [100, 300, 70, 900]) {
        const held = [];
        for (let i = 0; i < Math.floor(900 / size); i++) held.push(Tensor.zeros([size * 256], { device }));
        await device.synchronize();
        for (const tensor of held) tensor.dispose();
        console.log(held.length);
      }`;
    assert.is(run(script, { SONDE_EMULATE_MEMORY: '1000000' }), '9\n3\n12\n1');
  });

  test('memory that the cache and operations keep is released when an allocation does not fit', () => {
    // reading 4 MB takes 4 MB besides, while 6 of 11 MB are cached; then 9.4 MB, while products keep 1.4 MB
    const script = `
      const device = openDevice('cuda');
      const x = Tensor.zeros([1_000_000], { device });
      Tensor.zeros([1_500_000], { device }).dispose();
      console.log((await x.read()).length);
      const wide = Tensor.zeros([400, 400], { device });
      matmul(wide, wide).dispose();
      x.dispose();
      console.log(Tensor.zeros([2_200_000], { device }).size);`;
    assert.is(run(script, { SONDE_EMULATE_MEMORY: '11000000' }), '1000000\n2200000');
  });

  test('of two failures the first is reported, though only the other one is known at once', () => {
    const script = `${tight}
      const bad = () => embedding(Tensor.from([777], { dtype: 'int32', device }), y);
      const report = () => device.synchronize().then(() => console.log('good'), (error) => console.log(/^\\w+/.exec(error.message)[0]));
      bad(), matmul(x, y), await report(), await report();
      matmul(x, y), bad(), await report(), await report();`;
    assert.is(run(script, little), 'embedding\ngood\nmatmul\ngood');
  });

  test('an operation that cannot begin fails the wait behind it, not one before it', () => {
    const script = `${tight}
      for (let i = 0; i < 30; i++) {
        const before = [y.read(), device.synchronize()];
        const product = matmul(x, y);
        const behind = product.read().then(() => 'nothing', (error) => error.message);
        const after = y.read();
        for (const wait of [...before, after]) await wait;
        console.log(/^matmul: out of GPU memory: \\d+ bytes for intermediate results/.test(await behind));
        product.dispose();
      }`;
    const said = run(script, little);
    assert.equal([...new Set(said.split('\n'))], ['true'], said);
  });
}

test.run();
