// Oracle: the contract of the command, which is its arguments, files and exit codes. Records are tested in
// dump/report/collate.test.ts.
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { dump } from '../../src/dump/run.js';
import { loadNeuronRecord } from '../../src/files/neuron_record/neuron_record.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { run } from './command.js';

const test = suite('sonde collate');

async function* documents() {
  for (let i = 0; i < 8; i++) yield `It was a windy Monday, number ${i}. The wind moved the trees.`;
}

const withDump = (body: (cwd: string) => Promise<void>): Promise<void> =>
  withFolder(async (cwd) => {
    const locations = ['1/mlp/post_act', '1/resid/delta_mlp -> ae-resid-delta-mlp'];
    await dump({ model: 'demo', corpus: documents(), locations, out: join(cwd, 'in'), context: 8 });
    await body(cwd);
  });

test('numbers, ranges, lists and * become records', () =>
  withDump(async (cwd) => {
    const select = ['1/mlp/post_act=3,5,9-12', '1/resid/delta_mlp/latents=0-1', '1/mlp/post_act=3'];
    const counts = ['--top', '2', '--random', '3', '--seed', '4'];
    const { code, stdout, stderr } = await run(
      ['collate', 'in', '--select', ...select, '--out', 'records', ...counts],
      { cwd },
    );
    assert.is(code, 0, stderr);
    assert.match(stdout, /^records: 8 records of \d+ rows\n$/);
    assert.match(stderr, /tokens\/s, 8 of 8 records\n$/);
    const neurons = join(cwd, 'records', 'mlp_post_act', '1');
    assert.equal((await readdir(neurons)).sort(), ['10.json', '11.json', '12.json', '3.json', '5.json', '9.json']);
    const record = await loadNeuronRecord(join(neurons, '10.json'));
    assert.is(record.mostPositiveActivationRecords.length, 2);
    assert.is(record.randomSample.length, 3);
    const all = await run(['collate', 'in', '--select', '1/mlp/post_act=*', '--out', 'all'], { cwd });
    assert.is(all.code, 0, all.stderr);
    assert.is((await readdir(join(cwd, 'all', 'mlp_post_act', '1'))).length, 256);
  }));

test('a failure is reported in one line', () =>
  withDump(async (cwd) => {
    await writeFile(join(cwd, 'file'), '');
    const select = (text: string) => ['in', '--select', text, '--out', 'x'];
    const cases: [string[], number, RegExp][] = [
      [['in', '--out', 'x'], 2, /required option '--select <name=indices\.\.\.>' not specified/],
      [['in', '--select', '1/mlp/post_act=1'], 2, /required option '--out <folder>'/],
      [select('1/mlp/post_act'), 2, /It must read NAME=INDICES/],
      [select('=3'), 2, /It must read NAME=INDICES/],
      [select('1/mlp/post_act='), 2, /Indices are numbers, ranges such as 0-127, or \*; what is ''\?/],
      [select('1/mlp/post_act=5-3'), 2, /what is '5-3'\?/],
      [select('1/mlp/post_act=-3'), 2, /what is '-3'\?/],
      [select('1/mlp/post_act=0-99999999'), 2, /what is '0-99999999'\?/],
      [[...select('1/mlp/post_act=1'), '--top', 'x'], 2, /must be a whole number of 0 or more/],
      [select('1/mlp/post_act=999'), 1, /has indices from 0 to 255, but 999 is asked for/],
      [select('1/mlp/pre_act=1'), 1, /has no "1\/mlp\/pre_act"; it has 1\/mlp\/post_act/],
      [['nowhere', ...select('1/mlp/post_act=1').slice(1)], 1, /there is no such folder/],
      [['in', '--select', '1/mlp/post_act=1', '--out', 'file'], 1, /cannot write file\/mlp_post_act/],
    ];
    for (const [args, expected, message] of cases) {
      const { code, stdout, stderr } = await run(['collate', ...args], { cwd });
      assert.is(code, expected, `${args.join(' ')}: ${stderr}`);
      assert.match(stderr, message);
      assert.is(stdout, '');
    }
    assert.equal((await readdir(cwd)).sort(), ['file', 'in']);
  }));

test('an interrupted run says so, and leaves whole files', () =>
  withDump(async (cwd) => {
    const args = ['collate', 'in', '--select', '1/resid/delta_mlp/latents=*', '--out', 'records', '--top', '1000'];
    const { code, stderr } = await run(args, { cwd, interrupt: { signal: 'SIGINT' } });
    assert.is(code, 130, stderr);
    assert.match(stderr, /sonde: interrupted: the records in records are whole, but not all are there\n$/);
    const files = await readdir(join(cwd, 'records'), { recursive: true }).catch(() => []);
    assert.is(files.filter((name) => name.endsWith('.partial')).length, 0);
    for (const name of files.filter((name) => name.endsWith('.json'))) {
      await loadNeuronRecord(join(cwd, 'records', name));
    }
  }));

test.run();
