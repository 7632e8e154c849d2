// The choice of the instruction sets that are built. Oracle: the names, the processor that the addon finds, and a
// backend that was built without any.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { openDevice } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import { onCpu } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { suite, throws } from '../support/harness.js';

type ChooseIsas = (requested?: string, machine?: { arch?: string; macros?: () => string }) => string[];
const path = join(packageRoot, 'native', 'build.mjs');
const { chooseIsas, compiler }: { chooseIsas: ChooseIsas; compiler: string } = await import(pathToFileURL(path).href);

const test = suite('native/build');

const all = ['avx512_bf16', 'avx512', 'avx2', 'portable'];
const defined = (...names: string[]) => names.map((name) => `#define __${name}__ 1\n`).join('');
const of2013 = ['AVX2', 'FMA', 'F16C'];
const of2017 = [...of2013, 'AVX512F', 'AVX512BW', 'AVX512DQ', 'AVX512VL'];

test('SONDE_ISAS: some of the names, in any order; all of them where nothing is said', () => {
  const machine = { arch: 'x64', macros: () => defined(...of2013) };
  assert.equal(chooseIsas('', machine), all);
  assert.equal(chooseIsas(undefined, machine), all);
  assert.equal(chooseIsas('portable, avx2', machine), ['avx2', 'portable']);
  assert.equal(chooseIsas('avx512', machine), ['avx512'], 'to look at its code, on whatever processor');
  assert.equal(chooseIsas('native,avx2,portable', machine), ['avx2', 'portable']);
  for (const requested of ['mmx', 'avx2,', 'avx', 'AVX2', ' ']) {
    throws(() => chooseIsas(requested, machine), Error, /SONDE_ISAS must be native or some of avx512_bf16,.*but is '/);
  }
});

test('native: the best one that has all that it uses', () => {
  const native = (...names: string[]) => chooseIsas('native', { arch: 'x64', macros: () => defined(...names) });
  assert.equal(native(), ['portable']);
  assert.equal(native('AVX', 'SSE4_2', 'AVX512BF16'), ['portable']);
  assert.equal(native('AVX2', 'FMA'), ['portable'], 'halves are converted, too');
  assert.equal(native(...of2013), ['avx2']);
  assert.equal(native(...of2013, 'AVX512F', 'AVX512BW', 'AVX512DQ'), ['avx2']);
  assert.equal(native(...of2017), ['avx512']);
  assert.equal(native(...of2017, 'AVX512BF16'), ['avx512_bf16']);
});

test('other processors have one instruction set, and the compiler is not asked', () => {
  const macros = (): never => {
    throw new Error('it was asked');
  };
  for (const requested of ['', 'portable', 'native', 'native,portable']) {
    assert.equal(chooseIsas(requested, { arch: 'arm64', macros }), ['portable']);
  }
  assert.equal(chooseIsas('native', { arch: 'arm64', macros: () => defined('ARM_NEON') }), ['portable']);
  throws(
    () => chooseIsas('avx2', { arch: 'arm64', macros }),
    Error,
    /must be native or some of portable, but is 'avx2'/,
  );
});

if (onCpu && !process.env.SONDE_ISAS && !process.env.SONDE_ISA) {
  test('native: on this processor, the one that it picks', () => {
    const titles = ['AVX-512 with bfloat16', 'AVX-512', 'AVX2', 'SSE2'];
    const { description } = openDevice('cpu');
    const at = titles.findIndex((title) => description.startsWith(title));
    assert.equal(chooseIsas('native'), [all[at] ?? 'portable'], description);
  });
}

test('a bad SONDE_ISAS ends the build before it begins', () => {
  const { status, stderr, stdout } = spawnSync(process.execPath, [path], {
    encoding: 'utf8',
    env: { ...process.env, SONDE_ISAS: 'mmx' },
  });
  assert.is(status, 2);
  assert.match(stderr, /^sonde: SONDE_ISAS must be native or some of .*portable, but is 'mmx'\n$/);
  assert.is(stdout, '');
});

test(
  'what is not built cannot be picked, and is not linked',
  () =>
    withFolder((folder) => {
      const source = `
      #include <cstdio>
      #include "cpu/backend.h"
      int main() {
        sonde::Status status;
        if (!sonde::cpu_backend.open(0, 1, &status)) puts(status.text);
      }`;
      const native = join(packageRoot, 'native');
      const program = join(folder, 'program');
      const sources = ['backend.cc', 'threads.cc'].map((name) => join(native, 'cpu', name));
      const options = ['-std=c++20', '-O1', `-I${native}`, '-DSONDE_ISAS=",none,"', '-pthread', '-o', program];
      const built = spawnSync(compiler, [...options, ...sources, '-x', 'c++', '-'], {
        input: source,
        encoding: 'utf8',
      });
      assert.is(built.status, 0, built.stderr);
      const said = (SONDE_ISA: string) =>
        spawnSync(program, { encoding: 'utf8', env: { ...process.env, SONDE_ISA } }).stdout;
      assert.match(
        said(''),
        /^this processor has no instruction set that is built \(\); node native\/build\.mjs builds all/,
      );
      assert.match(said('portable'), /^SONDE_ISA is portable, which is not built; node native\/build\.mjs builds it/);
      assert.match(said('mmx'), /^SONDE_ISA must be one of .*portable, but is 'mmx'/);
    }),
  { limit: 200_000 },
);

test.run();
