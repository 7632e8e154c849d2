// Oracle: obstacles made by hand. Every writer names the obstacle and the path, before it has worked for long.
import { execFileSync } from 'node:child_process';
import { lstat, mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { saveNeuronRecord } from '../../src/files/neuron_record/neuron_record.js';
import { saveSafetensors } from '../../src/files/safetensors/safetensors.js';
import { DiskStore } from '../../src/files/store/disk_store.js';
import { saveTorch } from '../../src/files/torch/torch.js';
import { checkWritable, makeFolder, WriteError, writeError } from '../../src/files/write_failure.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';

const test = suite('write_failure');

const long = 'n'.repeat(300);
const tensor = { dtype: 'float32', shape: [1], data: Float32Array.of(1) } as const;
const record = {
  neuronId: { layerIndex: 0, neuronIndex: 0 },
  ...{ randomSample: [], randomSampleByQuantile: null, quantileBoundaries: null, mostPositiveActivationRecords: [] },
  ...{ mean: 0, variance: 0, skewness: 0, kurtosis: 0 },
};

const withObstacles = (body: (at: (name: string) => string) => Promise<void>): Promise<void> =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await writeFile(at('file'), '');
    await mkdir(at('folder'));
    await symlink('nowhere', at('dangling'));
    await symlink('loop', at('loop'));
    await symlink('folder', at('good'));
    await body(at);
    assert.equal((await readdir(folder)).sort(), ['dangling', 'file', 'folder', 'good', 'loop']);
    assert.equal(await readdir(at('folder')), []);
  });

test('a folder that cannot be made', () =>
  withObstacles(async (at) => {
    const cases: [string, RegExp][] = [
      ['file', /file: it is a file, not a folder \(EEXIST\): choose another path$/],
      ['file/below', /file\/below: \S*file is a file, not a folder \(E\w+\): choose another path$/],
      ['file/below/more', /more: \S*file is a file, not a folder/],
      ['dangling', /dangling: it is a link to nowhere, which is not there \(EEXIST\): choose another path$/],
      ['dangling/below', /below: \S*dangling is a link to nowhere, which is not there/],
      ['loop', /loop: it is a link that leads back to itself/],
      ['loop/below', /below: \S*loop is a link that leads back to itself/],
      [long, /: the name is too long: choose another path$/],
      [`folder/a/${long}`, /: the name is too long: choose another path$/],
      ['a\0b', /: it is no path: choose another path$/],
    ];
    for (const [name, pattern] of cases) {
      const error = await rejects(new DiskStore(at(name)).create(), WriteError, pattern);
      assert.ok(error.message.startsWith(`cannot write ${at(name)}: `), error.message);
    }
    await rejects(makeFolder(''), WriteError, /cannot write '': it is no path/);
  }));

test('a pipe or a device is not replaced', () =>
  withFolder(async (folder) => {
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const messages = /pipe: it is a device, a pipe or a socket, not a file \(EEXIST\): choose another path$/;
    await rejects(saveNeuronRecord(pipe, record), Error, messages);
    await rejects(checkWritable(pipe), WriteError, messages);
    assert.ok((await lstat(pipe)).isFIFO());
    assert.equal(await readdir(folder), ['pipe']);
  }));

test('a folder below /proc, where the system says that it is not there, is an error and no endless search', async () => {
  await rejects(makeFolder('/proc/sonde/out'), WriteError, /cannot write \/proc\/sonde\/out: /);
});

test('a folder is made with its parents, and they are removed as far as they are empty', () =>
  withObstacles(async (at) => {
    const undo = await makeFolder(at('good/a/b/c'));
    assert.equal(await readdir(at('folder/a/b')), ['c']);
    await undo();
    assert.equal(await readdir(at('folder')), []);
    await (await makeFolder(at('good')))();
  }));

test("the system's errors become messages that say why", async () => {
  const messages: [string, RegExp][] = [
    ['EACCES', /permission is denied$/],
    ['EPERM', /the system does not permit it$/],
    ['EROFS', /the disk can only be read$/],
    ['ENOSPC', /no space is left on the disk$/],
    ['EIO', /the disk reports an error$/],
    ['EUNKNOWN', /cannot write x: EUNKNOWN: whatever$/],
  ];
  for (const [code, pattern] of messages) {
    const cause = Object.assign(new Error(`${code}: whatever`), { code });
    const error = await writeError('x', 'folder', cause);
    assert.match(error.message, pattern);
    assert.is(error.needsOtherPath, false);
    assert.is(error.code, code);
  }
});

test('files that cannot be written', () =>
  withObstacles(async (at) => {
    const cases: [string, RegExp][] = [
      ['folder', /folder: it is a folder, not a file \(E\w+\): choose another path$/],
      ['file/below', /below: \S*file is a file, not a folder \(ENOTDIR\): choose another path$/],
      ['dangling/below', /below: \S*dangling is a link to nowhere, which is not there/],
      ['loop/below', /below: \S*loop is a link that leads back to itself/],
      ['none/below', /below: there is no folder \S*none \(ENOENT\)$/],
      [long, /: the name is too long/],
    ];
    const savers: [string, (path: string) => Promise<void>][] = [
      ['saveSafetensors', (path) => saveSafetensors(path, { tensor })],
      ['saveTorch', (path) => saveTorch(path, { tensor })],
      ['saveNeuronRecord', (path) => saveNeuronRecord(path, record)],
    ];
    for (const [name, pattern] of cases) {
      for (const [operation, save] of savers) {
        const error = await rejects(save(at(name)), Error, pattern);
        assert.ok(error.message.startsWith(`${operation}: cannot write ${at(name)}: `), error.message);
      }
    }
  }));

test.run();
