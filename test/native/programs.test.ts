// Oracle: the C++ programs of this folder, which end with an error when a condition fails, and the symbol tables of the
// objects built for one instruction set.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { suite } from '../support/harness.js';
import { isInstalled } from '../support/machine.js';

const objects = join(packageRoot, 'build', 'Release', 'obj.target');

const test = suite('native programs');

test(
  'the queue, the allocator, the thread pool and the tables do what they promise',
  () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ['test/native/programs.mjs'], {
      cwd: packageRoot,
      encoding: 'utf8',
    });
    assert.is(status, 0, stdout + stderr);
    assert.match(stdout, /device_queue_test: good/);
    assert.match(stdout, /operations_test: good/);
  },
  { limit: 200_000 },
);

// An inline function that is not inlined exists once per object, and the linker keeps any one of them: kept from an
// AVX-512 object, it would end the process on a processor without. Only names of the object's own namespace are safe.
for (const isa of ['avx2', 'avx512', 'avx512_bf16']) {
  const folder = join(objects, `cpu_${isa}`, 'native', 'cpu');
  const title = `objects built for ${isa} share no inline function with the others`;
  if (!existsSync(folder)) test.skip(title, `there is no ${isa} build on ${process.arch}`);
  else if (!isInstalled('nm')) test.skip(title, 'nm is not installed');
  else
    test(title, () => {
      const files = readdirSync(folder).filter((name) => name.endsWith('.o'));
      assert.ok(files.length > 0, `no objects in ${folder}`);
      const { stdout, status, stderr } = spawnSync('nm', ['-A', ...files], { cwd: folder, encoding: 'utf8' });
      assert.is(status, 0, stderr);
      const own = `5sonde${isa.length}${isa}`;
      const shared = stdout.split('\n').filter((line) => / [uVW] /.test(line) && !line.includes(own));
      assert.equal(shared, []);
    });
}

test.run();
