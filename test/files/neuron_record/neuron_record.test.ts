// Oracle: files that the original wrote, and those that it wrote after reading old ones (test/fixtures/neuron_records).
import { open, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../../src/engine/native.js';
import {
  type ActivationRecord,
  calibrationActivationRecords,
  formatNeuronRecord,
  loadNeuronRecord,
  maxActivation,
  type NeuronRecord,
  parseNeuronRecord,
  saveNeuronRecord,
  testActivationRecords,
  trainActivationRecords,
  validActivationRecords,
} from '../../../src/files/neuron_record/neuron_record.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite, throws } from '../../support/harness.js';

const test = suite('neuron records');
const fixture = (name: string): string => join(packageRoot, 'test', 'fixtures', 'neuron_records', name);
const textOf = (name: string): Promise<string> => readFile(fixture(name), 'utf8');

const id = '"neuron_id":{"layer_index":1,"neuron_index":2}';
const parsed = (fields: string): NeuronRecord => parseNeuronRecord(`{${id}${fields && `,${fields}`}}`, 'it');
const withRecord = (record: string): string => `"random_sample":[{"tokens":[],"activations":[]},${record}]`;

test("the original's record is read, value for value", async () => {
  const record = await loadNeuronRecord(fixture('new.json'));
  assert.equal(record.neuronId, { layerIndex: 11, neuronIndex: 3071 });
  assert.equal(record.randomSample, [
    { tokens: [' the', ' caf', 'é'], activations: [-0.5, 0, 1] },
    { tokens: ['\ufffd', '\ufffd\ufffd'], activations: [-0.16998291015625, Math.fround(0.1)] },
  ]);
  assert.equal(record.randomSampleByQuantile, [[{ tokens: ['\n'], activations: [0.25] }], []]);
  assert.equal(record.quantileBoundaries, [0.5, 0.99]);
  const { mean, variance, skewness, kurtosis } = record;
  assert.equal([mean, variance, skewness, kurtosis], [-0.03125, 1.5e-7, null, 3.0000000000000004]);
  const [strange, small, pairs] = record.mostPositiveActivationRecords as ActivationRecord[];
  assert.equal(strange?.tokens, ['👋🏽', '"quoted"', '\\', '\t\x01\x7f', '\u2028', '<|endoftext|>']);
  assert.equal(strange?.activations, [1e16, 123456789012345680, 1e15, 1e20, 1e21, -1e22]);
  assert.equal(small?.activations, [1e-4, 1e-5, 1.5e-5, 9.99e-6, 1e-6, -1e-7, -0, 5e-324, 1.7976931348623157e308, 100]);
  assert.ok(Object.is(small?.activations[6], -0));
  assert.equal(pairs, { tokens: ['x', 'y', 'z'], activations: [1, 2, 3, NaN, 5, 6] });
});

test('it is written as the original writes it, byte for byte', async () => {
  const text = await textOf('new.json');
  assert.is(formatNeuronRecord(parseNeuronRecord(text, 'it')), text);
});

test('an old record is read: names, a layer in quotes, missing fields, literals of Python', async () => {
  const text = await textOf('old.json');
  const record = parseNeuronRecord(text, 'it');
  assert.equal(record, {
    neuronId: { layerIndex: 7, neuronIndex: 42 },
    randomSample: [],
    randomSampleByQuantile: null,
    quantileBoundaries: null,
    mean: NaN,
    variance: Infinity,
    skewness: -Infinity,
    kurtosis: null,
    mostPositiveActivationRecords: [{ tokens: ['NaN "Infinity', ' -Infinity\\', '🙂'], activations: [-1.25, 2, NaN] }],
  });
  // The original keeps the integer 2 of its input; ours writes floats.
  assert.is(formatNeuronRecord(record), (await textOf('old_again.json')).replace('-1.25,2,', '-1.25,2.0,'));
});

test('defaults, null, repeated and unknown fields', () => {
  const plain = parsed('');
  assert.equal([plain.mean, plain.kurtosis, plain.randomSampleByQuantile, plain.randomSample], [NaN, NaN, null, []]);
  const nulls = parsed(
    '"random_sample":null,"quantile_boundaries":null,"mean":null,"most_positive_activation_records":null',
  );
  assert.equal([nulls.mean, nulls.randomSample, nulls.mostPositiveActivationRecords], [null, [], []]);
  assert.is(parsed('"mean":1,"mean":2.5e0').mean, 2.5);
  assert.is(parsed('"mean":null,"mean":0').mean, 0);
  const unknown = parsed(
    '"__proto__":{"mean":7,"polluted":[true,false,null,{},[],NaN,"x"]},"constructor":1,"toString":[1,{"a":-1}]',
  );
  assert.equal(Object.keys(unknown), Object.keys(plain));
  assert.ok(Number.isNaN(unknown.mean));
  assert.is(({} as { polluted?: unknown }).polluted, undefined);
  assert.equal(parseNeuronRecord('{"neuron_id":{"neuron_index":"8","layer_index":" 12 "}}', 'it').neuronId, {
    layerIndex: 12,
    neuronIndex: 8,
  });
});

test('a text that is no record is refused, with the field', () => {
  const refused = (text: string, message: RegExp) => throws(() => parseNeuronRecord(text, 'it'), Error, message);
  refused('', /^it: the record: expected an object at character 0, but the text ends$/);
  refused('[]', /expected an object at character 0, but there is \[\]/);
  refused('{}', /^it: the record: neuron_id is missing/);
  refused('{"neuron_id":{"layer_index":1}}', /neuron_id: |neuron_index is missing/);
  refused('{"neuron_id":7}', /neuron_id: expected an object/);
  refused('{"neuron_id":{"layer_index":-1}}', /neuron_id\.layer_index: expected a whole number from 0 on/);
  refused('{"neuron_id":{"neuron_index":1.5}}', /neuron_id\.neuron_index: expected a whole number/);
  refused('{"neuron_id":{"idx":"1e3"}}', /neuron_id\.idx: expected a whole number/);
  refused('{"neuron_id":{"idx":NaN}}', /neuron_id\.idx: expected a whole number/);
  refused(`{${id}} x`, /expected nothing more at character/);
  refused(`{${id},}`, /expected a text/);
  refused(`{${id} "mean":1}`, /expected a comma or }/);
  refused(
    `{${id},"dataclass_name":"ActivationRecord"}`,
    /dataclass_name must be NeuronRecord, but is ActivationRecord/,
  );
  const fields: [string, RegExp][] = [
    ['"mean":"1"', /mean: expected a number or null at character \d+, but there is \\"1\\"/],
    ['"mean":01', /mean: expected a number/],
    ['"mean":+1', /mean: expected a number/],
    ['"mean":.5', /mean: expected a number/],
    ['"mean":nan', /mean: expected a number/],
    [`"mean":${'9'.repeat(1000)}`, /mean: expected a number of at most 400 digits/],
    ['"quantile_boundaries":[1,null]', /quantile_boundaries\[1\]: expected a number/],
    ['"random_sample":{}', /random_sample: expected a list/],
    ['"random_sample_by_quantile":[[],{}]', /random_sample_by_quantile\[1\]: expected a list/],
    [withRecord('7'), /random_sample\[1\]: expected an object/],
    [withRecord('{"tokens":[]}'), /random_sample\[1\]: activations is missing/],
    [withRecord('{"activations":[]}'), /random_sample\[1\]: tokens is missing/],
    [withRecord('{"tokens":["a",1]}'), /random_sample\[1\]\.tokens\[1\]: expected a text/],
    [withRecord('{"activations":["1"]}'), /random_sample\[1\]\.activations\[0\]: expected a number or null/],
    [withRecord('{"tokens":["a\nb"]}'), /tokens\[0\]: expected a text without control characters/],
    [withRecord('{"tokens":["a'), /tokens\[0\]: expected a text that ends/],
    [
      withRecord('{"tokens":["a","b","c"],"activations":[1,2,3,4,5]}'),
      /random_sample\[1\]: 3 tokens take 3 or 6 activations, but have 5/,
    ],
    [`"extra":${'['.repeat(100_000)}`, /extra: is nested more than 64 deep/],
  ];
  for (const [text, message] of fields) throws(() => parsed(text), Error, message);
});

test('reading a file takes memory in proportion to its size', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.json');
    await writeFile(path, `{${id},"quantile_boundaries":[${'0,'.repeat(2 ** 25)}0]}`);
    await rejects(loadNeuronRecord(path), Error, /quantile_boundaries\[33554432\]: more than 33554432 elements in all/);
    await writeFile(path, Uint8Array.of(0x7b, 0xff, 0x7d));
    await rejects(loadNeuronRecord(path), Error, /loadNeuronRecord: .*x\.json: is no UTF-8/);
    await rejects(loadNeuronRecord(join(folder, 'none.json')), Error, /there is no such file/);
    await rejects(loadNeuronRecord('/dev/zero'), Error, /no regular file/);
    const big = await open(path, 'w');
    await big.truncate(2 ** 28 + 1);
    await big.close();
    await rejects(loadNeuronRecord(path), Error, /a record has 268435456 bytes at most/);
  }));

test('a damaged file is an error that says why, whichever byte is wrong', async () => {
  const bytes = await readFile(fixture('new.json'));
  for (let at = 0; at < bytes.length; at += 7) {
    for (const byte of [0, 0x22, 0x5b, 0x7d, 0x39]) {
      const damaged = Uint8Array.from(bytes);
      damaged[at] = byte;
      const outcome = await loadNeuronRecord(damaged).catch((error: unknown) => error);
      if (outcome instanceof Error) assert.match(outcome.message, /^loadNeuronRecord: the bytes: /);
    }
    await rejects(loadNeuronRecord(bytes.subarray(0, at)), Error, /^loadNeuronRecord: the bytes: /);
  }
});

test('saved records are read back; a record that cannot be saved leaves no file', () =>
  withFolder(async (folder) => {
    const path = join(folder, '5.json');
    const record = await loadNeuronRecord(fixture('new.json'));
    await saveNeuronRecord(path, record);
    assert.equal(await loadNeuronRecord(path), record);
    const text: unknown = 'text';
    type Field = [Partial<NeuronRecord>, RegExp];
    const wrong: Field[] = [
      [{ neuronId: { layerIndex: -1, neuronIndex: 0 } }, /neuronId\.layerIndex must be a whole number/],
      [{ mean: text as number }, /mean must be a number or null/],
      [{ quantileBoundaries: [text as number] }, /quantileBoundaries must be a list of numbers/],
      [{ randomSample: text as [] }, /randomSample must be a list/],
      [
        { randomSampleByQuantile: [[{ tokens: ['a'], activations: [] }]] },
        /randomSampleByQuantile\[0\]\[0\] must be as/,
      ],
      [
        { mostPositiveActivationRecords: [{ tokens: [7 as unknown as string], activations: [1] }] },
        /\[0\]\.tokens must/,
      ],
    ];
    for (const [change, message] of wrong) {
      await rejects(saveNeuronRecord(path, { ...record, ...change }), TypeError, message);
    }
    assert.equal(await readdir(folder), ['5.json']);
    assert.equal(await loadNeuronRecord(path), record);
    await symlink(path, join(folder, 'link.json'));
    assert.equal(await loadNeuronRecord(join(folder, 'link.json')), record);
  }));

test('the largest activation and the splits are those of the original', async () => {
  const expected = JSON.parse(await textOf('splits.json'));
  const sample = (name: string, count: number, sign: number): ActivationRecord[] =>
    Array.from({ length: count }, (_, i) => ({ tokens: [`${name} ${i}`], activations: [sign * i] }));
  const record = {
    ...parsed(''),
    mostPositiveActivationRecords: sample('top', 11, 1),
    randomSample: sample('random', 7, -1),
  };
  assert.is(maxActivation(record), expected.max_activation);
  throws(() => maxActivation(parsed('')), RangeError, /no most positive activation records/);
  const splits = {
    train: trainActivationRecords,
    calibration: calibrationActivationRecords,
    valid: validActivationRecords,
    test: testActivationRecords,
  };
  for (const nExamplesPerSplit of [undefined, 1, 2]) {
    for (const [name, split] of Object.entries(splits)) {
      const found = split(record, { nExamplesPerSplit }).map(({ tokens }) => tokens[0]);
      assert.equal(found, expected.splits[String(nExamplesPerSplit ?? 'None')][name], name);
    }
  }
  const tooMany = /validActivationRecords: 3 splits of 3 take 9 random records, but there are 7/;
  const longer = { ...record, mostPositiveActivationRecords: sample('top', 12, 1) };
  throws(() => validActivationRecords(longer, { nExamplesPerSplit: 3 }), RangeError, tooMany);
  throws(() => trainActivationRecords(record, { nExamplesPerSplit: 3 }), RangeError, /4 splits of 3 take 12 most/);
  throws(() => trainActivationRecords(record, { nExamplesPerSplit: -1 }), RangeError, /must be a whole number/);
});

test.run();
