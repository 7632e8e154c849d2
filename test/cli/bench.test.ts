// Oracle: sums over what the command itself wrote as JSON. No figure is judged: machines differ.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { run } from './command.js';

const test = suite('sonde bench');
const few = [
  '--model',
  'demo',
  '--context',
  '16',
  '--batch',
  '2',
  '--rounds',
  '2',
  '--latents',
  '64',
  '--device',
  'cpu',
];

interface Entry {
  operation: string;
  section: string;
  filter?: { groups: number; fellBack: number; candidates: number };
}

interface Written {
  settings: object;
  ceilings: { float32: number };
  cases: { name: string; tokens: number; seconds: number[]; floor: number; entries?: Entry[] }[];
}

test('a table, and the same as JSON with the machine', () =>
  withFolder(async (folder) => {
    const json = join(folder, 'bench.json');
    const { code, stdout, stderr } = await run(['bench', ...few, '--json', json]);
    assert.is(code, 0, stderr);
    assert.match(stdout, /ceilings: float32 \d+ GFLOP\/s/);
    const written = JSON.parse(await readFile(json, 'utf8')) as Written;
    assert.equal(written.settings, { model: 'demo', dtype: 'float32', context: 16, batch: 2, rounds: 2 });
    for (const { name, tokens, seconds, floor, entries } of written.cases) {
      assert.ok(stdout.includes(name), name);
      assert.is(seconds.length, 2);
      assert.ok(tokens > 0 && floor > 0 && seconds.every((s) => s > 0), name);
      assert.is(entries, undefined);
    }
    assert.is(written.cases.length, 4);
  }));

test('--profile: layers and operations, each once', () =>
  withFolder(async (folder) => {
    const json = join(folder, 'bench.json');
    const { code, stdout, stderr } = await run(['bench', ...few, '--profile', '--json', json]);
    assert.is(code, 0, stderr);
    const lines = stdout.split('\n').map((line) => line.trim());
    for (const word of ['embedding ', 'layer 0', 'layer 1', 'end ', 'attention', 'layerNorm', 'waiting']) {
      assert.ok(
        lines.some((line) => line.startsWith(word)),
        word,
      );
    }
    const written = JSON.parse(await readFile(json, 'utf8')) as Written;
    const counted = lines.find((line) => line.startsWith('layer 0'))?.split(/ {2,}/)[1];
    const entries = written.cases[0]?.entries ?? [];
    assert.is(Number(counted), entries.filter(({ section }) => section === 'layer 0').length);
  }));

test('--profile: what the filter of an encoder left, where it has one', () =>
  withFolder(async (folder) => {
    const json = join(folder, 'bench.json');
    const profiled = (filter: '0' | '1') =>
      run(['bench', ...few, '--profile', '--json', json], { env: { SONDE_FILTER: filter } });
    const without = await profiled('0');
    assert.is(without.code, 0, without.stderr);
    assert.not.match(without.stdout, /filter of/);
    const { code, stdout, stderr } = await profiled('1');
    assert.is(code, 0, stderr);
    const written = JSON.parse(await readFile(json, 'utf8')) as Written;
    const entries = written.cases[2]?.entries ?? [];
    assert.equal(
      entries.map(({ operation }) => operation),
      ['sparseEncode'],
    );
    const { groups = 0, fellBack, candidates = 0 } = entries[0]?.filter ?? {};
    assert.ok(groups > 0 && candidates >= 0);
    const cells = stdout
      .split('\n')
      .find((line) => line.includes('sparseEncode 32 x '))
      ?.trim()
      .split(/ {2,}/);
    assert.equal(cells, ['sparseEncode 32 x 64 -> 64', (candidates / 32).toFixed(1), `${fellBack} of ${groups}`]);
  }));

test('wrong options are named', async () => {
  const { code, stderr } = await run(['bench', '--rounds', '0']);
  assert.is(code, 2);
  assert.match(stderr, /--rounds.*It must be a whole number of 1 or more/);
});

test.run();
