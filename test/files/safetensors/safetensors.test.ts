// Oracle: round trips, the format's description (headers put together by hand), Python's json and struct, and the loss
// that the reference computed from the logits beside it.
import { spawnSync } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import {
  bfloat16ToFloat,
  elementCount,
  float16ToFloat,
  floatToBfloat16,
  floatToFloat16,
  type HostTensor,
  hostDTypes,
  mismatch,
  toFloat32,
} from '../../../src/files/host_tensor.js';
import {
  loadSafetensors,
  openSafetensors,
  safetensorsHeader,
  saveSafetensors,
} from '../../../src/files/safetensors/safetensors.js';
import { close } from '../../support/close.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite, throws } from '../../support/harness.js';
import { random } from '../../support/random.js';
import { goldenFolders, goldens } from '../fixtures.js';

const test = suite('safetensors');

const everything = (): Record<string, HostTensor> => ({
  '5/mlp/post_act': { dtype: 'float32', shape: [2, 3], data: Float32Array.of(1, -2, NaN, Infinity, 5, 6) },
  odd: { dtype: 'int8', shape: [3], data: Int8Array.of(-1, 0, 127) },
  unaligned: { dtype: 'float64', shape: [1], data: Float64Array.of(Math.PI) },
  scalar: { dtype: 'int64', shape: [], data: BigInt64Array.of(-(2n ** 63n)) },
  empty: { dtype: 'float16', shape: [0, 7], data: new Uint16Array(0) },
  half: { dtype: 'float16', shape: [1, 2], data: Uint16Array.of(0x3c00, 0xc000) },
  bfloat: { dtype: 'bfloat16', shape: [2], data: Uint16Array.of(0x3f80, 0xff80) },
  int32: { dtype: 'int32', shape: [2, 1], data: Int32Array.of(-7, 2 ** 31 - 1) },
  int16: { dtype: 'int16', shape: [1], data: Int16Array.of(-300) },
  uint16: { dtype: 'uint16', shape: [2], data: Uint16Array.of(65_535, 1) },
  uint8: { dtype: 'uint8', shape: [2], data: Uint8Array.of(255, 0) },
  bool: { dtype: 'bool', shape: [3], data: Uint8Array.of(1, 0, 1) },
  '"quoted"\n漢\u0000': { dtype: 'uint8', shape: [1], data: Uint8Array.of(9) },
  __proto__x: { dtype: 'uint8', shape: [1], data: Uint8Array.of(1) },
});

test('saved tensors are loaded, and the bytes are always the same', async () => {
  await withFolder(async (folder) => {
    const path = join(folder, 'x.safetensors');
    const metadata = { format: 'pt', 'a "key"': '漢\n' };
    await saveSafetensors(path, everything(), metadata);
    const loaded = await loadSafetensors(path);
    assert.is(Object.getPrototypeOf(loaded), null);
    assert.equal(Object.keys(loaded), Object.keys(everything()));
    for (const [name, { data, ...rest }] of Object.entries(everything())) {
      const { data: got, ...gotRest } = loaded[name] as HostTensor;
      assert.equal(gotRest, rest);
      assert.equal(Buffer.from(got.buffer), Buffer.from(data.buffer), name);
      assert.is(got.constructor, data.constructor);
    }
    await using file = await openSafetensors(path);
    assert.equal({ ...file.metadata }, metadata);
    const first = await readFile(path);
    const lazily = Object.entries(everything()).map(([name, { data, ...rest }]) => {
      return [name, { ...rest, read: async () => data }] as const;
    });
    await saveSafetensors(path, Object.fromEntries(lazily), metadata);
    assert.ok(first.equals(await readFile(path)));
    assert.is(Number(first.readBigUInt64LE()) % 8, 0);
    assert.equal(await readdir(folder), ['x.safetensors']);
  });
});

test('Python finds every tensor where the header says', async () => {
  const script = `
import json, struct, sys
content = open(sys.argv[1], 'rb').read()
length, = struct.unpack('<Q', content[:8])
header = json.loads(content[8:8 + length])
a, b = header['int32']['data_offsets']
print(json.dumps([struct.unpack('<2i', content[8 + length + a:8 + length + b]), header['__metadata__'], list(header)]))
`;
  await withFolder(async (folder) => {
    const path = join(folder, 'x.safetensors');
    await saveSafetensors(path, everything(), { k: 'v' });
    const { stdout, stderr } = spawnSync('python3', ['-c', script, path], { encoding: 'utf8' });
    assert.is(stderr, '');
    const names = ['__metadata__', ...Object.keys(everything())];
    assert.equal(JSON.parse(stdout), [[-7, 2 ** 31 - 1], { k: 'v' }, names]);
  });
});

test('tensors and rows are read on demand', async () => {
  await withFolder(async (folder) => {
    const path = join(folder, 'x.safetensors');
    const data = Float32Array.from({ length: 60 }, (_, i) => i);
    await saveSafetensors(path, {
      before: { dtype: 'uint8', shape: [1], data: Uint8Array.of(1) },
      x: { dtype: 'float32', shape: [5, 4, 3], data },
    });
    await using file = await openSafetensors(path);
    const all: number[] = [];
    const { dtype, shape, slices, read } = file.stored('x');
    assert.equal([dtype, [...shape]], ['float32', [5, 4, 3]]);
    for await (const slice of slices(new ArrayBuffer(32))) all.push(...(slice as Float32Array));
    assert.equal(all, [...data]);
    assert.equal((await read()).data, data);
    await rejects(async () => file.stored('y'), RangeError, /has no tensor y/);
    const rows = await file.readRows('x', 2, 4);
    assert.equal(rows.shape, [2, 4, 3]);
    assert.equal(rows.data, data.slice(24, 48));
    assert.equal((await file.readRows('x', 5, 5)).shape, [0, 4, 3]);
    assert.is(file.tensors.get('x')?.bytes, 240);
    for (const [from, to] of [
      [-1, 2],
      [0, 6],
      [3, 2],
      [0.5, 1],
      [0, NaN],
    ] as const) {
      await rejects(file.readRows('x', from, to), RangeError, /rows of x \[5, 4, 3\]/);
    }
    await rejects(file.read('y'), RangeError, /has no tensor y/);
    await rejects(file.read('constructor'), RangeError, /has no tensor constructor/);
  });
});

// The mean of -log softmax(logits)[next token], over all positions that have a next token.
function crossEntropy(logits: Float32Array, tokens: number[], seq: number, vocab: number): number {
  let sum = 0;
  let count = 0;
  for (let at = 0; at < tokens.length; at++) {
    if (at % seq === seq - 1) continue;
    const row = logits.subarray(at * vocab, (at + 1) * vocab);
    const most = Math.max(...row);
    const total = row.reduce((sum, x) => sum + Math.exp(x - most), 0);
    sum += most + Math.log(total) - (row[tokens[at + 1] as number] as number);
    count++;
  }
  return sum / count;
}

for (const folder of goldenFolders) {
  test(`the reference values of ${folder} read`, async () => {
    const all = await loadSafetensors(join(goldens, folder, 'golden.safetensors'));
    assert.ok(Object.keys(all).length > 100);
    for (const tensor of Object.values(all)) assert.is(mismatch(tensor), undefined);
    const { logits, tokens, loss } = all as Record<'logits' | 'tokens' | 'loss', HostTensor>;
    const [batch, seq, vocab] = logits.shape as [number, number, number];
    assert.equal(tokens.shape, [batch, seq]);
    const computed = crossEntropy(toFloat32(logits), Array.from(tokens.data, Number), seq, vocab);
    close([computed], toFloat32(loss), { rtol: 1e-5 });
  });
}

const framed = (header: string | Buffer, data: number, length?: number): Buffer => {
  const text = Buffer.from(header);
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(length ?? text.length));
  return Buffer.concat([head, text, Buffer.alloc(data)]);
};
const entry = (offsets: string, shape = '[2]', dtype = '"F32"') =>
  `{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}`;

const damaged: [what: string, content: Buffer, said: RegExp][] = [
  ['an empty file', Buffer.alloc(0), /it has 0 bytes/],
  ['a header longer than the file', framed('{}', 0, 3), /a header of 3 bytes in 10/],
  ['a huge header', framed('{}', 0, 2 ** 40), /a header of/],
  ['no JSON', framed('hello', 0), /\{ is expected/],
  ['an end too early', framed('{"a":', 0), /\{ is expected/],
  ['text that does not end', framed('{"a', 0), /a text does not end/],
  ['text that ends in an escape', framed('{"a\\', 0), /a text does not end/],
  ['no UTF-8', framed(Buffer.from([0x7b, 0xff, 0x7d]), 0), /no UTF-8/],
  ['lists in lists', framed(`{"a":{"shape":${'['.repeat(100_000)}`, 0), /a whole number/],
  ['something behind', framed('{} {}', 0), /nothing more/],
  ['a name that comes twice', framed(`{"a":${entry('[0,8]')},"a":${entry('[8,16]')}}`, 16), /tensor a comes twice/],
  [
    'a name that comes twice, escaped',
    framed(`{"a":${entry('[0,8]')},"\\u0061":${entry('[8,16]')}}`, 16),
    /a comes twice/,
  ],
  ['an unknown dtype', framed(`{"a":${entry('[0,8]', '[2]', '"F8_E4M3"')}}`, 8), /dtype F8_E4M3 is not supported/],
  ['a dtype of Object', framed(`{"a":${entry('[0,8]', '[2]', '"constructor"')}}`, 8), /dtype constructor/],
  ['overlapping tensors', framed(`{"a":${entry('[0,8]')},"b":${entry('[4,12]')}}`, 12), /b begins at byte/],
  ['a hole', framed(`{"a":${entry('[0,8]')},"b":${entry('[12,20]')}}`, 20), /b begins at byte/],
  ['a tensor beyond the end', framed(`{"a":${entry('[0,8]')}}`, 4), /but its header announces/],
  ['bytes behind the last tensor', framed(`{"a":${entry('[0,8]')}}`, 9), /but its header announces/],
  ['a size that does not fit', framed(`{"a":${entry('[0,8]', '[3]')}}`, 8), /has 12 bytes, not 0 to 8/],
  ['a product that overflows', framed(`{"a":${entry('[0,8]', '[4294967296,4294967296,2]')}}`, 8), /is too large/],
  ['a negative size', framed(`{"a":${entry('[0,8]', '[-2]')}}`, 8), /a whole number/],
  ['a fractional size', framed(`{"a":${entry('[0,8]', '[2.0]')}}`, 8), /a whole number/],
  ['an exponent', framed(`{"a":${entry('[0,8]', '[2e0]')}}`, 8), /a whole number/],
  ['a huge size', framed(`{"a":${entry('[0,8]', '[99999999999999999999]')}}`, 8), /a whole number/],
  ['offsets in reverse', framed(`{"a":${entry('[8,0]')}}`, 8), /not 8 to 0/],
  ['three offsets', framed(`{"a":${entry('[0,8,8]')}}`, 8), /more than 2 numbers/],
  ['one offset', framed(`{"a":${entry('[0]')}}`, 8), /must be two/],
  ['too many dimensions', framed(`{"a":${entry('[0,8]', `[${Array(65).fill(1)}]`)}}`, 8), /more than 64/],
  ['a member too many', framed(`{"a":{"dtype":"F32","x":1}}`, 8), /x is unknown/],
  [
    'a member that is missing',
    framed(`{"a":{"dtype":"F32","shape":[]}}`, 8),
    /must have dtype, shape and data_offsets/,
  ],
  ['metadata that is no text', framed('{"__metadata__":{"a":1}}', 0), /" is expected/],
  ['metadata that comes twice', framed('{"__metadata__":{},"__metadata__":{}}', 0), /comes twice/],
];

for (const [what, content, said] of damaged) {
  test(`${what} is refused`, async () => {
    await withFolder(async (folder) => {
      const path = join(folder, 'x.safetensors');
      await writeFile(path, content);
      const error = await rejects(loadSafetensors(path), said);
      assert.ok(error.message.startsWith(`loadSafetensors: ${path}: `), error.message);
    });
  });
}

test('any order of names, spaces and no tensor at all are well-formed', async () => {
  await withFolder(async (folder) => {
    const path = join(folder, 'x.safetensors');
    await writeFile(
      path,
      framed(` {"b" : ${entry('[8, 16]')} ,\n"__proto__":${entry('[0,8]')},"c":${entry('[8,8]', '[0]')}} `, 16),
    );
    assert.equal(Object.keys(await loadSafetensors(path)), ['b', '__proto__', 'c']);
    await writeFile(path, framed('{}', 0));
    assert.equal(Object.keys(await loadSafetensors(path)), []);
  });
});

test('tensors that cannot be saved are refused, and no file is left behind', async () => {
  await withFolder(async (folder) => {
    const path = join(folder, 'x.safetensors');
    const good = { dtype: 'float32', shape: [2], data: new Float32Array(2) } as const;
    await rejects(
      saveSafetensors(path, { a: { ...good, shape: [3] } }),
      TypeError,
      /tensor a: data must have 3 elements/,
    );
    const late = { dtype: 'float32', shape: [2], read: async () => new Float32Array(3) } as const;
    await rejects(saveSafetensors(path, { a: good, b: late }), TypeError, /tensor b: data must have 2 elements/);
    const broken = { ...late, read: () => Promise.reject(new Error('planted')) };
    await rejects(saveSafetensors(path, { a: good, b: broken }), /planted/);
    await rejects(saveSafetensors(path, { __metadata__: good }), /cannot have the name __metadata__/);
    await rejects(saveSafetensors(path, { a: good }, { k: 1 } as never), TypeError, /metadata k must be text/);
    await rejects(saveSafetensors(path, { '\ud800': good }), TypeError, /half a surrogate/);
    assert.equal(await readdir(folder), []);
    await saveSafetensors(path, { old: good });
    await rejects(saveSafetensors(path, { a: good, b: broken }), /planted/);
    assert.equal(Object.keys(await loadSafetensors(path)), ['old']);
    assert.equal(await readdir(folder), ['x.safetensors']);
  });
});

test('safetensorsHeader gives planned tensors their locations', () => {
  const plan = [
    ['a', { dtype: 'float16', shape: [3] }],
    ['b', { dtype: 'int32', shape: [2, 2] }],
  ] as const;
  const { header, placed, bytes } = safetensorsHeader(plan, { k: 'v' });
  assert.is(header.length % 8, 0);
  assert.is(placed.get('a')?.byteOffset, header.length);
  assert.is(placed.get('b')?.byteOffset, header.length + 6);
  assert.is(bytes, header.length + 22);
  throws(() => safetensorsHeader([...plan, ...plan]), Error, /cannot have the name a/);
  throws(() => safetensorsHeader([['a', { dtype: 'int8', shape: [1.5] }]]), RangeError, /tensor a has shape \[1\.5\]/);
});

test('16-bit floats and bits are converted as the formats say', () => {
  const halves: [number, number][] = [
    [0, 0],
    [1, 0x3c00],
    [-2, 0xc000],
    [65_504, 0x7bff],
    [2 ** -24, 1],
    [2 ** -14, 0x400],
    [Infinity, 0x7c00],
    [-Infinity, 0xfc00],
  ];
  for (const [value, bits] of halves) {
    assert.is(floatToFloat16(value), bits);
    assert.is(float16ToFloat(bits), value);
  }
  assert.is(floatToFloat16(-0), 0x8000);
  assert.ok(Number.isNaN(float16ToFloat(floatToFloat16(NaN))));
  assert.is(floatToFloat16(65_519.999), 0x7bff);
  assert.is(floatToFloat16(65_520), 0x7c00);
  assert.is(floatToFloat16(2 ** -25), 0);
  assert.is(floatToFloat16(2 ** -25 * (1 + 2 ** -40)), 1);
  assert.is(floatToFloat16(1 + 2 ** -11), 0x3c00);
  assert.is(floatToFloat16(1 + 2 ** -11 + 2 ** -45), 0x3c01, 'one rounding, not two');
  assert.is(floatToFloat16(1 + 3 * 2 ** -11), 0x3c02);
  for (let bits = 0; bits < 65_536; bits++) {
    const half = float16ToFloat(bits);
    const bfloat = bfloat16ToFloat(bits);
    if (!Number.isNaN(half)) assert.is(floatToFloat16(half), bits);
    if (!Number.isNaN(bfloat)) assert.is(floatToBfloat16(bfloat), bits);
  }
  assert.is(floatToBfloat16(1 + 2 ** -8), 0x3f80);
  assert.is(floatToBfloat16(1 + 2 ** -8 + 2 ** -45), 0x3f81);
  assert.is(floatToBfloat16(3.4e38), 0x7f80);
  assert.is(floatToBfloat16(1e300), 0x7f80);
  assert.ok(Number.isNaN(bfloat16ToFloat(floatToBfloat16(NaN))));
});

test('toFloat32 widens and narrows every dtype', () => {
  const r = random(4);
  for (const [name, tensor] of Object.entries(everything())) {
    const wide = toFloat32(tensor);
    assert.is(wide.length, tensor.data.length, name);
  }
  assert.equal(
    toFloat32({ dtype: 'float16', shape: [2], data: Uint16Array.of(0x3c00, 0x8001) }),
    Float32Array.of(1, -(2 ** -24)),
  );
  assert.equal(
    toFloat32({ dtype: 'bfloat16', shape: [2], data: Uint16Array.of(0x3f80, 0xff80) }),
    Float32Array.of(1, -Infinity),
  );
  assert.equal(
    toFloat32({ dtype: 'int64', shape: [2], data: BigInt64Array.of(-3n, 2n ** 40n) }),
    Float32Array.of(-3, 2 ** 40),
  );
  assert.equal(toFloat32({ dtype: 'bool', shape: [2], data: Uint8Array.of(1, 0) }), Float32Array.of(1, 0));
  const doubles = Float64Array.from(r.floats(100));
  assert.equal(toFloat32({ dtype: 'float64', shape: [100], data: doubles }), Float32Array.from(doubles));
  throws(() => toFloat32({ dtype: 'float32', shape: [2], data: new Float32Array(3) }), TypeError, /2 elements/);
  assert.is(elementCount([2 ** 40, 2 ** 40, 0]), 0);
  assert.is(elementCount([2 ** 40, 2 ** 40]), undefined);
  assert.is(elementCount([-1, 0]), undefined);
  assert.is(hostDTypes.length, 11);
});

test.run();
