// The environment's switches, each in a process of its own. The oracle is the table in CONTRIBUTING.md.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openDevice } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import { arithmeticNames, onCpu } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';

const test = suite('switches');
test.limit(290_000);
const engine = (file: string) => JSON.stringify(new URL(`../../src/engine/${file}`, import.meta.url).href);
const program = `
  const { Tensor } = await import(${engine('ops/tensor.js')});
  const { embedding } = await import(${engine('ops/embedding.js')});
  const { linear } = await import(${engine('ops/linear.js')});
  const { packWeights } = await import(${engine('ops/pack_weights.js')});
  const { sparseEncode } = await import(${engine('ops/sparse_encode.js')});
  const w = packWeights(Tensor.randn([30, 50], { seed: 1 }));
  const x = linear(Tensor.randn([7, 30], { seed: 2 }), w);
  console.log('arithmetic', ...['float32', 'float16', 'bfloat16'].map((dtype) => x.device.arithmetic[dtype]));
  console.log('sums', String(await Tensor.randn([7, 1001], { seed: 3 }).sum(1).read()));
  console.log('sum', (await x.sum().read())[0]);
  console.log('fresh', (await Tensor.empty([1000]).read())[999]);
  let latents;
  const entries = await x.device.profile(async () => {
    latents = await sparseEncode(Tensor.randn([7, 30], { seed: 2 }), w, { threshold: 8 });
  });
  console.log('latents', String(latents.rowPtr), String(latents.indices), String(latents.values));
  console.log('filter', JSON.stringify(entries.find(({ operation }) => operation === 'sparseEncode').filter ?? null));
  const indices = Tensor.from([9], { dtype: 'int32' });
  const table = Tensor.zeros([2, 2]);
  function culprit() { return embedding(indices, table); }
  try { culprit(); console.log('queued'); } catch (error) { console.log('thrown', error.message, error.stack.includes('culprit')); }`;

function run(environment: Record<string, string>): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    cwd: packageRoot,
    encoding: 'utf8',
    env: { ...process.env, ...environment },
  });
}

const sum = (stdout: string) => Number(/sum (\S+)/.exec(stdout)?.[1]);

test('none: a failure is reported later', () => {
  const { status, stdout } = run({});
  assert.is(status, 0);
  assert.match(stdout, /queued/);
});

test('SONDE_SYNC: a failure is thrown by the call that caused it', () => {
  assert.match(run({ SONDE_SYNC: '1' }).stdout, /thrown embedding: index 9 at position 0 is outside \[0, 2\).* true/);
});

test('SONDE_DEBUG: each operation with its shapes and time', () => {
  const { stderr } = run({ SONDE_DEBUG: '1' });
  assert.match(
    stderr,
    /^sonde +[\d.]+ us {2}linear\(out \[7, 50\] float32, x \[7, 30\] float32, w \[30, 50\] float32\)$/m,
  );
});

test('SONDE_POISON: fresh memory is NaN, results are the same', () => {
  const plain = run({}).stdout;
  const poisoned = run({ SONDE_POISON: '1' });
  assert.is(poisoned.status, 0, poisoned.stderr);
  assert.match(poisoned.stdout, /fresh NaN/);
  assert.is(sum(poisoned.stdout), sum(plain));
});

test('SONDE_TRACE: a timeline that JSON can read', async () => {
  await withFolder((folder) => {
    const file = join(folder, 'trace.json');
    assert.is(run({ SONDE_TRACE: file }).status, 0);
    const events = JSON.parse(readFileSync(file, 'utf8')) as { name?: string; dur?: number }[];
    assert.ok(events.some(({ name, dur }) => name === 'linear' && (dur as number) >= 0));
  });
});

// the CPU's instruction sets do not matter on a GPU
const testOnCpu = onCpu ? test : () => {};

testOnCpu('SONDE_ISA: an unknown instruction set is refused; each known one has the same sums', () => {
  assert.match(run({ SONDE_ISA: 'mmx' }).stderr, /SONDE_ISA must be one of .*portable, but is 'mmx'/);
  const best = openDevice('cpu').description;
  const titles = ['AVX-512 with bfloat16', 'AVX-512', 'AVX2', 'SSE2'];
  const at = titles.findIndex((title) => best.startsWith(title));
  const others = at < 0 ? [] : ['avx512_bf16', 'avx512', 'avx2', 'portable'].slice(at + 1);
  const sums = (stdout: string) => /^sums .*$/m.exec(stdout)?.[0];
  for (const isa of others) {
    const { stdout: said } = run({ SONDE_ISA: isa });
    assert.is(/^arithmetic (.*)$/m.exec(said)?.[1], Array(3).fill(arithmeticNames.float32).join(' '));
    assert.is(sums(said), sums(run({}).stdout), 'sums have the same bits with any instruction set');
  }
});

testOnCpu(
  'SONDE_FILTER: 1 uses the filter of sparseEncode on any shape, 0 on none, and nothing else is accepted',
  () => {
    const latents = new Set<string | undefined>();
    const filter = (environment: Record<string, string>) => {
      const { status, stdout, stderr } = run(environment);
      assert.is(status, 0, stderr);
      latents.add(/^latents .*$/m.exec(stdout)?.[0]);
      return JSON.parse(/^filter (.*)$/m.exec(stdout)?.[1] as string) as Record<string, number> | null;
    };
    const { groups = 0, fellBack = 0, candidates = 0 } = filter({ SONDE_FILTER: '1' }) ?? {};
    assert.ok(groups > 0 && fellBack <= groups && candidates > 0);
    assert.is(filter({ SONDE_FILTER: '0' }), null);
    assert.is(filter({ SONDE_FILTER: '' }), null, 'so few columns are not worth it');
    assert.is(latents.size, 1, 'the same bits');
    assert.match([...latents][0] as string, /\d,\d/);
    for (const wish of ['2', 'yes', '01']) {
      const { status, stderr } = run({ SONDE_FILTER: wish });
      assert.is.not(status, 0);
      assert.match(stderr, new RegExp(`SONDE_FILTER must be 0 or 1, but is '${wish}'`));
    }
  },
);

testOnCpu('SONDE_DEBUG: what the filter of sparseEncode left to compute', () => {
  const line = (SONDE_FILTER: string) =>
    /^sonde .* {2}sparseEncode\((.*)$/m.exec(run({ SONDE_DEBUG: '1', SONDE_FILTER }).stderr)?.[1] as string;
  assert.match(line('1'), /x \[7, 30\].*w \[30, 50\].*\) \d+ candidates, \d+ of \d+ groups fell back$/);
  assert.not.match(line('0'), /candidates/);
});

test.run();
