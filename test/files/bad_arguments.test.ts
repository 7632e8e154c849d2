// Arguments that make no sense: every function for files answers with an error of its own, which says which argument is
// wrong. Oracle: the beginning of the message; an engine's own errors, and the system's, have none.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { fetchBlob, fetchBlobs, openBlob } from '../../src/files/blob/blob.js';
import { type HostTensor, toFloat32 } from '../../src/files/host_tensor.js';
import {
  calibrationActivationRecords,
  loadNeuronRecord,
  maxActivation,
  type NeuronRecord,
  saveNeuronRecord,
  testActivationRecords,
  trainActivationRecords,
  validActivationRecords,
} from '../../src/files/neuron_record/neuron_record.js';
import { loadSafetensors, openSafetensors, saveSafetensors } from '../../src/files/safetensors/safetensors.js';
import { modelTokenizer } from '../../src/files/tokenizer/model_tokenizer.js';
import { gpt2Tokenizer } from '../../src/files/tokenizer/tokenizer.js';
import { loadTorch, loadTorchValue, saveTorch } from '../../src/files/torch/torch.js';
import { type Call, exactly, noOptions, refusesGarbage } from '../support/arguments/garbage.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';

const test = suite('bad arguments of files');

const record: NeuronRecord = {
  neuronId: { layerIndex: 0, neuronIndex: 0 },
  randomSample: [],
  randomSampleByQuantile: null,
  quantileBoundaries: null,
  mean: 0,
  variance: 0,
  skewness: 0,
  kurtosis: 0,
  mostPositiveActivationRecords: [],
};
const tensor: HostTensor = { dtype: 'float32', shape: [2], data: Float32Array.of(1, 2) };
const splits = { trainActivationRecords, calibrationActivationRecords, validActivationRecords, testActivationRecords };

test('each argument', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x');
    await writeFile(path, 'text');
    const before = process.cwd();
    process.chdir(folder); // where a file of the name x may be written
    await saveSafetensors(join(folder, 'y'), { a: tensor });
    await using file = await openBlob(path);
    await using tensors = await openSafetensors(join(folder, 'y'));
    const opened = async (work: Promise<AsyncDisposable>): Promise<void> => (await work)[Symbol.asyncDispose]();
    const readers = { loadTorch, loadTorchValue, loadSafetensors, openSafetensors, loadNeuronRecord };
    const wrong: string[] = [];
    const ofTensor = (member: string, valid: readonly unknown[] = []): [string, Call, readonly unknown[]][] => [
      [
        '^saveSafetensors: ',
        (value) => saveSafetensors(join(folder, 'z'), { a: { ...tensor, [member]: value } as never }),
        valid,
      ],
      [
        '^saveTorch: ', // without data, it is a dictionary with a key of that name
        (value) => saveTorch(join(folder, 'z'), { a: { ...tensor, [member]: value } as never }),
        member === 'data' ? storable : valid,
      ],
      ['^toFloat32: ', (value) => void toFloat32({ ...tensor, [member]: value } as never), valid],
    ];
    const ofRecord = (field: string, valid: readonly unknown[] = []): [string, Call, readonly unknown[]] => [
      `^saveNeuronRecord: ${field}`,
      (value) => saveNeuronRecord(join(folder, 'z'), { ...record, [field]: value }),
      valid,
    ];
    const numbers = [5, -1, 0.5, NaN, null];
    for (const [prefix, call, valid = []] of [
      ...Object.entries(readers).map(([name, read]): [string, Call] => [
        `^${name}: `,
        (value) => read(value as never) as Promise<unknown>,
      ]),
      ['^openBlob: expected a path', (value) => opened(openBlob(value as never)), ['x']],
      ["^openBlob: (options must|'0' is no)", (value) => opened(openBlob(path, value as never)), noOptions],
      ['^openBlob: timeout must', (value) => opened(openBlob(path, { timeout: value as never })), [undefined, 5, 0.5]],
      ['^openBlob: refresh must', (value) => opened(openBlob(path, { refresh: value as never })), [undefined, true]],
      ['^openBlob: signal must', (value) => opened(openBlob(path, { signal: value as never })), [undefined]],
      [
        '^openBlob: onProgress must',
        (value) => opened(openBlob(path, { onProgress: value as never })),
        [undefined, () => {}],
      ],
      ["^fetchBlob: (options must|'0' is no)|is no address", (value) => fetchBlob('http:', value as never)],
      ["^fetchBlobs: (options must|'0' is no)", (value) => fetchBlobs([], value as never), noOptions],
      ['^read: position must|cut short', (value) => file.read(value as never, 0), [undefined]],
      ['^read: length must|cut short', (value) => file.read(0, value as never), [undefined]],
      ['^saveTorch: path must|^saveTorch: cannot write', (value) => saveTorch(value as never, {}), ['x']],
      ['^saveTorch: value(\\[0\\])? must', (value) => saveTorch(join(folder, 'z'), value as never), storable],
      [
        '^saveSafetensors: path must|^saveSafetensors: cannot write',
        (value) => saveSafetensors(value as never, {}),
        ['x'],
      ],
      [
        '^saveSafetensors: (tensors|tensor 0) must',
        (value) => saveSafetensors(join(folder, 'z'), value as never),
        emptyObjects,
      ],
      ['^saveSafetensors: tensor a must', (value) => saveSafetensors(join(folder, 'z'), { a: value as never })],
      [
        '^saveSafetensors: read of tensor a must|^saveSafetensors: tensor a: data of dtype',
        (value) => saveSafetensors(join(folder, 'z'), { a: { dtype: 'float32', shape: [2], read: value as never } }),
      ],
      [
        '^saveSafetensors: tensor a: data of dtype',
        (value) =>
          saveSafetensors(join(folder, 'z'), { a: { ...tensor, data: undefined, read: () => value } as never }),
      ],
      ...ofTensor('dtype'),
      ...ofTensor('shape'),
      ...ofTensor('data'),
      [
        '^saveSafetensors: metadata must|^safetensors: metadata',
        (value) => saveSafetensors(join(folder, 'z'), {}, value as never),
        [undefined, ...emptyObjects],
      ],
      [
        '^safetensors: metadata a must',
        (value) => saveSafetensors(join(folder, 'z'), {}, { a: value as never }),
        ['x', ''],
      ],
      ['^read: name must|has no tensor x|has no tensor $', (value) => tensors.read(value as never)],
      ['^stored: name must|has no tensor x|has no tensor $', (value) => tensors.stored(value as never)],
      ['^readRows: name must|has no tensor x|has no tensor $', (value) => tensors.readRows(value as never, 0, 1)],
      ['^readRows: from and to must', (value) => tensors.readRows('a', value as never, 1)],
      ['^readRows: from and to must', (value) => tensors.readRows('a', 0, value as never)],
      [
        '^saveNeuronRecord: path must|^saveNeuronRecord: cannot write',
        (value) => saveNeuronRecord(value as never, record),
        ['x'],
      ],
      ['^saveNeuronRecord: (record|neuronId)', (value) => saveNeuronRecord(join(folder, 'z'), value as never)],
      ofRecord('neuronId'),
      ofRecord('mean', numbers),
      ofRecord('randomSample', [[]]),
      ofRecord('randomSampleByQuantile', [null, [], [[]]]),
      ofRecord('quantileBoundaries', [null, []]),
      ofRecord('mostPositiveActivationRecords', [[]]),
      [
        '^saveNeuronRecord: randomSample\\[0\\]',
        (value) => saveNeuronRecord(join(folder, 'z'), { ...record, randomSample: [value as never] }),
      ],
      ['^maxActivation: (record|mostPositive)', (value) => maxActivation(value as never)],
      [
        '^maxActivation: mostPositiveActivationRecords',
        (value) => maxActivation({ ...record, mostPositiveActivationRecords: [value as never] }),
      ],
      ...Object.entries(splits).flatMap(([name, split]): [string, Call, (readonly unknown[])?][] => [
        [`^${name}: (record|mostPositive)`, (value) => split(value as never)],
        [`^${name}: (options must|'0' is no)`, (value) => split(record, value as never), noOptions],
        [
          `^${name}: (nExamplesPerSplit must|\\d splits of)`,
          (value) => split(record, { nExamplesPerSplit: value as never }),
          [undefined],
        ],
      ]),
      ...[gpt2Tokenizer(), modelTokenizer(50_300), modelTokenizer(7, { differs: 'x' })].flatMap(
        (tokenizer): [string, Call, (readonly unknown[])?][] => [
          [
            '^encode: text must',
            (value) => tokenizer.encode(value as never),
            ['x', ''], // the third one has an error of its own for these
          ],
          ['^decode: (tokens|token 0) must', (value) => tokenizer.decode(value as never), lists],
          ['^decodeBytes: (tokens|token 0) must', (value) => tokenizer.decodeBytes(value as never), lists],
          [
            '^decodeBatch: (tokens|row 0: tokens?.*) must',
            (value) => tokenizer.decodeBatch(value as never),
            [...lists.slice(0, 2), [[]]],
          ],
          ['^decode: token 0 must', (value) => tokenizer.decode([value as never]), [5]],
        ],
      ),
    ] as [string, Call, unknown[]?][]) {
      await refusesGarbage(new RegExp(`${prefix}|^encode: the model takes`), call, valid).catch((e) =>
        wrong.push(e.message),
      );
    }
    process.chdir(before);
    assert.is(wrong.join('\n'), '');
  }));

/** Those that saveTorch writes. */
const storable: readonly unknown[] = [null, true, 5, -1, 0.5, NaN, 1n, 'x', '', {}, [], [[]], Object.create(null)];
const emptyObjects = noOptions.filter((value) => value !== undefined);
const lists: readonly unknown[] = [[], new Map(), new Uint8Array(3)];

test('an unknown option is refused, with the nearest one that is known', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x');
    await writeFile(path, 'text');
    for (const [call, message] of [
      [
        () => openBlob(path, { refrsh: true } as never),
        "openBlob: 'refrsh' is no option; the nearest one is 'refresh'",
      ],
      [
        () => openBlob(path, { on_progress: 1 } as never),
        "openBlob: 'on_progress' is no option; the nearest one is 'onProgress'",
      ],
      [() => fetchBlob(path, { most: 1 } as never), "fetchBlob: 'most' is no option; the nearest one is"],
      [
        () => fetchBlobs([path], { time_out: 1 } as never),
        "fetchBlobs: 'time_out' is no option; the nearest one is 'timeout'",
      ],
      ...Object.entries(splits).map(([name, split]): [() => unknown, string] => [
        () => split(record, { nExamples: 1 } as never),
        `${name}: 'nExamples' is no option; the nearest one is 'nExamplesPerSplit'`,
      ]),
    ] as [() => unknown, string][]) {
      await rejects((async () => call())(), TypeError, exactly(message));
    }
  }));

test('names that a system cannot take', async () => {
  for (const read of [loadTorch, loadSafetensors, loadNeuronRecord, openBlob] as ((
    path: string,
  ) => Promise<unknown>)[]) {
    await rejects(read('a\0b'), Error, /a\0b: it is no path/);
  }
  await rejects(saveTorch('a\0b', {}), Error, /^saveTorch: cannot write a\0b: it is no path/);
});

test.run();
