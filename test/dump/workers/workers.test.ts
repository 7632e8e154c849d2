// Oracle: a dump by one process. Several processes make the same folder, byte for byte, whatever happens to them.
import { spawn } from 'node:child_process';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { openDump } from '../../../src/dump/read/reader.js';
import { dump, planOf } from '../../../src/dump/run.js';
import type { DumpOptions } from '../../../src/dump/shards/options.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { run } from '../../cli/command.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { assertSameFolder, contentsOf, sampleText } from '../folders.js';

const test = suite('workers');
test.limit(180_000);
const main = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
const cpu = { device: 'cpu', threads: 1 } as const;

const request = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  model: 'demo',
  corpus: sampleText,
  limit: 6000,
  locations: ['1/mlp/post_act', '*/resid/delta_mlp -> ae-resid-delta-mlp'],
  out,
  context: 32,
  shardTokens: 512,
  ...changes,
});

const childrenOf = async (pid: number): Promise<number[]> =>
  (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).trim().split(' ').filter(Boolean).map(Number);

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test('three workers make the folder of one process, and go on with it', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const alone = await dump(request(at('alone')));
    const seen: number[] = [];
    const onProgress = ({ tokens }: { tokens: number }) => seen.push(tokens);
    const shared = await dump(request(at('shared'), { workers: [cpu, cpu, cpu], onProgress }));
    assert.equal({ ...shared, out: '' }, { ...alone, out: '' });
    await assertSameFolder(at('shared'), at('alone'));
    assert.is(seen.at(-1), 6000);
    assert.ok(seen.length > 12);
    for (const number of [0, 4, 11])
      await rm(join(at('shared'), `shard-000${String(number).padStart(2, '0')}.safetensors`));
    assert.is((await dump(request(at('shared'), { workers: [cpu, cpu] }))).written, 3);
    await assertSameFolder(at('shared'), at('alone'));
    assert.is((await dump(request(at('shared'), { workers: [cpu] }))).written, 0);
    assert.is((await planOf(request(at('none'), { workers: [cpu] }))).rowsPerShard, 16);
  }));

test("a caller's documents, fewer than there are workers; parts; another precision", () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    async function* documents() {
      for (let i = 0; i < 3; i++) yield `It was a windy Monday, number ${i}.`;
    }
    const few = (name: string, changes: Partial<DumpOptions>) =>
      dump(request(at(name), { corpus: documents(), precision: 'bfloat16', ...changes }));
    await few('alone', {});
    await few('shared', { workers: [cpu, cpu] });
    await assertSameFolder(at('shared'), at('alone'));
    const shard = { index: 1, count: 2 };
    await dump(request(at('part'), { shard }));
    await dump(request(at('shared part'), { shard, workers: [cpu, cpu] }));
    await assertSameFolder(at('shared part'), at('part'));
  }));

test('errors are reported as by one process', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const model = await Transformer.load('demo');
    const refused = (changes: Partial<DumpOptions>, pattern: RegExp) =>
      rejects(dump(request(out, { workers: [cpu, cpu], ...changes })), pattern);
    await refused({ workers: [] }, /workers must name one at least/);
    await refused({ model }, /workers load the model themselves: give it by name/);
    await refused({ device: model.device }, /the device is that of each worker/);
    const autoencoders = { mine: () => 'ae.pt' };
    await refused({ autoencoders }, /workers load autoencoders themselves: give 'mine' by name/);
    await refused({ model: 'no/such/folder' }, /no\/such\/folder/);
    await refused({ locations: '9/mlp/post_act' }, /9/);
    await refused({ context: 10_000 }, /context must be an integer from 1 to 256/);
    await refused({ workers: [cpu, { device: 'cuda:77' }] }, /cuda:77/);
    await refused({ workers: [cpu, { device: 'cpu', threads: 0 }] }, /threads/);
    await rejects(dump(request(out, { model, precision: 'bfloat16' })), /precision is for a model given by name/);
    assert.equal(await readdir(folder), []);
    const text = join(folder, 'a.txt');
    await writeFile(text, Buffer.concat([Buffer.from('It was windy. '.repeat(3000)), Buffer.from([0xff])]));
    const broken = { corpus: text, workers: [cpu, cpu] };
    await rejects(dump(request(out, { ...broken, limit: undefined as never })), /a\.txt, byte 42000: not valid UTF-8/);
    await using made = await openDump(out);
    assert.equal(await made.verify(), []);
  }));

test('a signal leaves a folder without anything unfinished, which goes on', () =>
  withFolder(async (folder) => {
    const [cut, whole] = [join(folder, 'cut'), join(folder, 'whole')];
    for (const stopAt of [0, 1000, 4000]) {
      const controller = new AbortController();
      const onProgress = ({ tokens }: { tokens: number }) => {
        if (tokens > stopAt) controller.abort(new Error('stopped here'));
      };
      const { signal } = controller;
      await rejects(dump(request(cut, { workers: [cpu, cpu], batch: 1, signal, onProgress })), /stopped here/);
      const names = Object.keys(await contentsOf(cut));
      assert.ok(
        names.every((name) => /^(index\.jsonl|manifest\.json|shard-\d{5}\.safetensors)$/.test(name)),
        names.join(' '),
      );
      await using made = await openDump(cut);
      assert.equal(await made.verify(), []);
    }
    await dump(request(cut));
    await dump(request(whole));
    await assertSameFolder(cut, whole);
  }));

const command = (out: string): string[] => [
  ...['dump', '--text', sampleText, '--hook', '1/mlp/post_act', '--shard-tokens', '512', '--context', '32'],
  ...['--workers', '2', '--batch', '1', '--out', out],
];

interface Started {
  readonly pid: number;
  readonly ended: Promise<{ code: number | null; stderr: string }>;
  /** Resolves when there is progress. */
  readonly working: Promise<void>;
}

function start(args: string[]): Started {
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  const working = new Promise<void>((resolve) => {
    child.stderr.on('data', (text) => {
      stderr += text;
      resolve();
    });
  });
  const ended = new Promise<{ code: number | null; stderr: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, stderr }));
  });
  return { pid: child.pid as number, ended, working };
}

if (process.platform === 'linux') {
  test('a worker that is killed, the process that is killed: the same bytes in the end', () =>
    withFolder(async (folder) => {
      const [out, whole] = [join(folder, 'out'), join(folder, 'whole')];
      const first = start(command(out));
      await first.working;
      const [, victim] = await childrenOf(first.pid);
      process.kill(victim as number, 'SIGKILL');
      const { code, stderr } = await first.ended;
      assert.is(code, 1, stderr);
      assert.match(stderr, /sonde: dump: worker 1 \(cpu\) was ended by SIGKILL\. .*run the same command again/);

      const second = start(command(out));
      await second.working;
      const workers = await childrenOf(second.pid);
      assert.is(workers.length, 2);
      process.kill(second.pid, 'SIGKILL');
      await second.ended;
      for (let i = 0; workers.some(isAlive) && i < 100; i++) await new Promise((resolve) => setTimeout(resolve, 50));
      assert.not(workers.some(isAlive), 'workers outlive their process');

      const last = await run(command(out));
      assert.is(last.code, 0, last.stderr);
      assert.is((await run(['dump', ...command(whole).slice(1, -4), '--out', whole])).code, 0);
      await assertSameFolder(out, whole);
    }));
}

test('two processes that are to write the same folder at once: one refuses', () =>
  withFolder(async (folder) => {
    const [out, whole] = [join(folder, 'out'), join(folder, 'whole')];
    const args = command(out)
      .map((arg) => (arg === '--text' ? '-' : arg))
      .filter((arg) => arg !== sampleText);
    const first = spawn(process.execPath, [main, ...args], { stdio: ['pipe', 'ignore', 'ignore'] });
    const ended = new Promise((resolve) => first.on('close', resolve));
    first.stdin.write((await readFile(sampleText)).subarray(0, 50_000));
    while (!(await readdir(folder)).includes('out') || !(await readdir(out)).includes('shard-00000.safetensors')) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const { code, stderr } = await run(command(out));
    assert.is(code, 1);
    assert.match(stderr, /out is being written by process \d+ on \S+: wait until it is done, or choose another folder/);
    first.stdin.end((await readFile(sampleText)).subarray(50_000));
    assert.is(await ended, 0);
    assert.is(
      (
        await run(
          args.map((arg) => (arg === out ? whole : arg)),
          { input: await readFile(sampleText, 'utf8') },
        )
      ).code,
      0,
    );
    await assertSameFolder(out, whole);
    // A killed process leaves its lease behind, on another machine or on this one.
    const gone = { token: 'a', host: 'elsewhere', place: 'another start', pid: 1 };
    await writeFile(join(out, 'manifest.json.claim'), JSON.stringify(gone));
    await writeFile(join(out, 'manifest.json.claim.0-1'), 'taken over, and not cleared away');
    await using made = await openDump(out);
    const problem = 'is the claim of a process that writes here, or was killed';
    assert.equal(
      await made.verify(),
      ['manifest.json.claim', 'manifest.json.claim.0-1'].map((file) => ({ file, problem })),
    );
    assert.is((await run(args, { input: await readFile(sampleText, 'utf8') })).code, 0);
    await assertSameFolder(out, whole);
  }));

test.run();
