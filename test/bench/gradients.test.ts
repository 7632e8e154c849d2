// The benchmark of gradients on small shapes: its table against medians of its own times, computed here another way, beside
// a peer whose answers are known.
import { spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';

const test = suite('bench/gradients');
const rounds = 3;

/** Runs it with a peer that gives these seconds for what it was asked to prepare, in turns, and this error. */
function run(folder: string, seconds: readonly number[], error: number) {
  const program = `
    let [prepared, asked] = [-1, 0];
    require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
      const answers = {
        describe: () => ({ text: 'a peer' }),
        prepare: () => ({ prepared: ++prepared, error: ${error} }),
        time: () => ({ seconds: ${JSON.stringify(seconds)}[asked++ % ${seconds.length}] }),
        memory: () => ({ memory: { before: 1e6, peak: 5e6 } }),
      };
      console.log(JSON.stringify(answers[JSON.parse(line).do]()));
    });`;
  const python = join(folder, 'python');
  writeFileSync(join(folder, 'peer.cjs'), program);
  writeFileSync(python, `#!/bin/sh\nexec '${process.execPath}' '${join(folder, 'peer.cjs')}'\n`);
  chmodSync(python, 0o755);
  const file = join(packageRoot, 'build-test/bench/gradients.bench.js');
  const args = [file, '--scale', 'tiny', '--rounds', String(rounds), '--threads', '2', '--out', folder];
  return spawnSync(process.execPath, args, { encoding: 'utf8', env: { ...process.env, PYTHON: python } });
}

type Times = Record<string, Record<string, number[]>>;

const middle = (values: number[]): number => [...values].sort((a, b) => a - b)[1] as number;
const shown = (x: number): string => x.toFixed(x >= 100 ? 0 : x >= 10 ? 1 : 2);

test('passes, ways back and memory, beside a peer', () =>
  withFolder((folder) => {
    const { status, stdout, stderr } = run(folder, [100, 500, 700], 0);
    assert.is(status, 0, stdout + stderr);
    const text = readFileSync(join(folder, 'gradients.md'), 'utf8');
    assert.match(text, /2 threads/);
    const cells = text.split('\n').map((line) => line.split('|').map((cell) => cell.trim()));
    const rows = (name: string) => cells.filter(([, first]) => first === name);
    /** Demands that a cell begins with the number. */
    const says = (cell: string | undefined, x: number) => assert.is(cell?.split(' ')[0], shown(x));

    const { passes, backward, memory } = JSON.parse(readFileSync(join(folder, 'gradients.json'), 'utf8'));
    const ofPass = (passes as Times)['the pass alone']?.sonde as number[];
    for (const [i, name] of ['the pass alone', 'with activations', 'with parameters'].entries()) {
      const { sonde = [], PyTorch } = (passes as Times)[name] ?? {};
      const theirs = [100, 500, 700][i] as number;
      assert.equal([sonde.length, PyTorch], [rounds, Array(rounds).fill(theirs)]);
      assert.ok(sonde.every((own) => own > 0));
      const [[, , , , ratio, part, , judged] = []] = rows(name);
      says(ratio, middle(sonde.map((own) => theirs / own)));
      if (i === 0) continue;
      says(part, middle(sonde.map((own, round) => theirs / own / (100 / (ofPass[round] as number)))));
      assert.is(judged, 'not judged');
    }
    const [ways, memories] = rows('sonde');
    const [first = [], second = []] = ['to layer 0', 'to layer 1'].map((name) => (backward as Times)[name]?.sonde);
    says(ways?.[4], middle(second.map((own, round) => own / (first[round] as number))));
    if (process.platform !== 'linux') return;
    const added = memory.sonde.peak - memory.sonde.before;
    assert.ok(added > 0);
    assert.equal(memories?.slice(4, 6), [`${(added / 1e6).toFixed(0)} MB`, (added / 4e6).toFixed(2)]);
  }));

test('a gradient that is not the slope of the loss ends it', () =>
  withFolder((folder) => {
    const { status, stderr } = run(folder, [1], 0.2);
    assert.is(status, 1);
    assert.match(stderr, /PyTorch, the pass alone: the gradient is wrong by 0.2/);
  }));

test.run();
