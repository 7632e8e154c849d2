// Oracle: the readers. Writers refuse, with a message, to write what readers would refuse as too large.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { HostTensor, StateValue } from '../../src/files/host_tensor.js';
import { allocate, checkMemory } from '../../src/files/memory.js';
import { loadNeuronRecord, type NeuronRecord, saveNeuronRecord } from '../../src/files/neuron_record/neuron_record.js';
import { safetensorsHeader, saveSafetensors } from '../../src/files/safetensors/safetensors.js';
import { loadTorchValue, saveTorch } from '../../src/files/torch/torch.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('limits');

/** Calls body on a system that reports a container with a limit, the rest of which is full of cached files. */
function withinContainer(limit: number, body: () => void): void {
  const { constrainedMemory, availableMemory } = process;
  Object.assign(process, { constrainedMemory: () => limit, availableMemory: () => 0 });
  try {
    body();
  } finally {
    Object.assign(process, { constrainedMemory, availableMemory });
  }
}

const record = (tokens: string[], activations: number[]): NeuronRecord => ({
  neuronId: { layerIndex: 0, neuronIndex: 0 },
  ...{ randomSample: [], randomSampleByQuantile: null, quantileBoundaries: null },
  ...{ mean: 0, variance: 0, skewness: 0, kurtosis: 0 },
  mostPositiveActivationRecords: [{ tokens, activations }],
});

test('records of neurons', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.json');
    const pairs = (tokens: number) =>
      record(new Array(tokens).fill('a'), new Array((tokens * (tokens + 1)) / 2).fill(1));
    const size =
      /^saveNeuronRecord: .*x\.json: a record of more than 268435456 bytes could not be read again: give it few/;
    await rejects(
      saveNeuronRecord(path, pairs(8191)),
      RangeError,
      /a record of 33558528 tokens and activations, more than 33554432, could not be read again/,
    );
    await rejects(saveNeuronRecord(path, record(['x'.repeat(2 ** 28)], [1])), RangeError, size);
    await rejects(saveNeuronRecord(path, record(['\0'.repeat(2 ** 27)], [1])), RangeError, size);
    assert.equal(await readdir(folder), []);
    const large = pairs(4000);
    await saveNeuronRecord(path, large);
    const [read] = (await loadNeuronRecord(path)).mostPositiveActivationRecords;
    assert.is(read?.activations.length, 8_002_000);
  }));

test('files of torch.save', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.pt');
    const tensors = (count: number): HostTensor[] =>
      Array.from({ length: count }, (_, i) => ({ dtype: 'uint8', shape: [1], data: Uint8Array.of(i) }));
    const cases: [StateValue, RegExp][] = [
      [tensors(99_998), /it has 99998 tensors, and an archive 100000 entries/],
      [Array.from({ length: 2 ** 20 }, () => []), /more than 2097152 lists/],
      ['x'.repeat(2 ** 26), /its description takes more than 67108864 bytes/],
    ];
    for (const [value, pattern] of cases) {
      const error = await rejects(saveTorch(path, value), RangeError, pattern);
      assert.match(error.message, /^saveTorch: the value could not be read again: .*: save it in several files$/);
    }
    assert.equal(await readdir(folder), []);
    await saveTorch(path, tensors(2000));
    assert.is(((await loadTorchValue(path)) as StateValue[]).length, 2000);
  }));

test('safetensors', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.safetensors');
    const one: HostTensor = { dtype: 'uint8', shape: [1], data: Uint8Array.of(1) };
    const header = /safetensors: the header would have \d+ bytes or more; it may have 100000000/;
    await rejects(saveSafetensors(path, { ['x'.repeat(2 ** 27)]: one }), RangeError, header);
    await rejects(saveSafetensors(path, { ['\0'.repeat(2 ** 26)]: one }), RangeError, header);
    await rejects(saveSafetensors(path, { a: one }, { text: 'x'.repeat(2 ** 27) }), RangeError, header);
    const names = Array.from({ length: 9000 }, (_, i) => [`${'n'.repeat(12_000)}${i}`, one] as const);
    throws(() => safetensorsHeader(names), RangeError, header);
    const huge = { dtype: 'float32', shape: [2 ** 50] } as const;
    throws(
      () =>
        safetensorsHeader([
          ['a', huge],
          ['b', huge],
        ]),
      RangeError,
      /with tensor b, the file would be larger than/,
    );
    assert.equal(await readdir(folder), []);
  }));

test('bytes that do not fit in memory are an error that says so', () => {
  throws(() => allocate('it', 2 ** 46), Error, /^it: no memory for 70368744177664 bytes$/);
  throws(() => allocate('it', 2 ** 60), Error, /^it: no memory for \d+ bytes$/);
  assert.is(allocate('it', 10).length, 10);
  throws(
    () => checkMemory('they', 2 ** 60, 'ask for less'),
    RangeError,
    /^they take \d+ bytes, and memory has room for \d+: ask/,
  );
  throws(() => checkMemory('they', Number.POSITIVE_INFINITY, 'ask for less'), RangeError, /^they take Infinity bytes/);
  checkMemory('they', 10, 'ask for less');
});

if (process.platform !== 'linux') test.skip('memory in a container', 'only Linux has them');
else {
  test('cached files of a container do not count as used memory, and its limit counts', () => {
    const bytes = 2 ** 27;
    withinContainer(process.memoryUsage().rss + 4 * bytes, () => {
      checkMemory('they', bytes, 'ask for less');
      assert.is(allocate('it', bytes).length, bytes);
      throws(
        () => checkMemory('they', 2 ** 33, 'ask for less'),
        RangeError,
        /^they take 8589934592 bytes, and memory has/,
      );
    });
    withinContainer(0, () => checkMemory('they', bytes, 'ask for less')); // 0 means that there is no limit
  });
}

test.run();
