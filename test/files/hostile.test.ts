// Oracle: reading any file ends soon, in an error that begins with the reader's name or in a well-formed value. Files
// that ask for calls, for memory or for time are made by hand; others are reference files with flipped bits, cut short
// or with bytes replaced, at seeded positions.
import { readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import * as assert from 'uvu/assert';
import { isHostTensor, mismatch } from '../../src/files/host_tensor.js';
import { openSafetensors } from '../../src/files/safetensors/safetensors.js';
import { loadTorch, loadTorchValue, UnsafePickleError } from '../../src/files/torch/torch.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite } from '../support/harness.js';
import { type Random, random } from '../support/random.js';
import {
  call,
  dict,
  type Entry,
  entriesOf,
  goldens,
  int,
  list,
  storage,
  streamOf,
  tensor,
  text,
  tuple,
  zipOf,
} from './fixtures.js';

const test = suite('hostile');

// calls

const marker = join(tmpdir(), 'sonde-was-hacked');
const calls: [wants: string, pickle: string][] = [
  ['posix.system', call('posix.system', text(`touch ${marker}`))],
  ['os.system', call('os.system', text('true'))],
  ['os.system', `${text('os')}${text('system')}\x93(${text('true')}tR`],
  ['builtins.eval', call('builtins.eval', text('1'))],
  ['builtins.eval', call('__builtin__.eval', text('1'))],
  ['builtins.getattr', call('builtins.getattr', text('a'), text('b'))],
  ['torch.load', call('torch.load', text('x'))],
  ['torch.serialization.load', call('torch.serialization.load', text('x'))],
  ['constructor.constructor', call('constructor.constructor', text('1'))],
  ['__proto__.toString', call('__proto__.toString')],
  ['numpy.core.multiarray._reconstruct', call('numpy.core.multiarray._reconstruct')],
  ['a\\nb.c\\u001b[2J', `${text('a\nb')}${text('c\x1b[2J')}\x93)R`],
];
for (const [wants, pickle] of calls) {
  test(`a file that wants to call ${wants} is refused`, async () => {
    for (const file of [streamOf(pickle), zipOf(entriesOf(pickle)), streamOf(dict(text('a'), pickle))]) {
      const error = await rejects(loadTorch(file), UnsafePickleError, /nothing was called$/);
      assert.ok(error.message.includes(`wants to call ${wants},`), error.message);
      assert.is(error.name, 'UnsafePickleError');
    }
    await rejects(readFile(marker), /ENOENT/);
  });
}

// pickles that are wrong

const one = storage('0', 1);
const block = [{ key: '0', data: Float32Array.of(7) }];
const nested = (depth: number) => `${']'.repeat(depth)}${'a'.repeat(depth - 1)}`;
// Each list holds the one before ten times: 10^30 elements when written out.
const laughs = `${list(int(1))}q\x00${`0](${'h\x00'.repeat(10)}eq\x00`.repeat(30)}`;

const wrong: [what: string, pickle: string, said: RegExp][] = [
  ['a call of a list', `]${tuple()}R`, /calls what is no known function/],
  ['a call of a dtype', `ctorch\nfloat32\n${tuple()}R`, /calls what is no known function/],
  ['a call of a storage type', `ctorch\nFloatStorage\n${tuple()}R`, /calls what is no known function/],
  ['arguments that are no tuple', 'ccollections\nOrderedDict\nNR', /calls what is no known function/],
  ['state for a list', ']}b', /sets the state of what is no dictionary/],
  ['a class as a value', 'ctorch\nFloatStorage\n', /class or a bare storage/],
  ['a storage as a value', one, /class or a bare storage/],
  ['an unknown opcode', '\xff', /opcode 0xff at byte/],
  ['an extension', '\x82\x01', /opcode 0x82/],
  ['a newer protocol', '\x80\x06', /protocol 6/],
  ['an empty stack', '0', /empty stack/],
  ['an append to nothing', 'Na', /no list|empty stack/],
  ['a key without a value', '}(Nu', /key without a value/],
  ['an item of a list', ']NNs', /no dictionary/],
  ['a mark that is not there', 't', /no mark/],
  ['a value that was not remembered', 'h\x05', /never remembered/],
  ['a negative memo key', 'Np-1\n', /remembers under the key -1/],
  ['text of 4 GB', 'X\xff\xff\xff\xff', /ends early/],
  ['bytes of 2^63', '\x8e\0\0\0\0\0\0\0\x80', /element of 9223372036854775808 bytes/],
  ['text that is no UTF-8', 'X\x01\0\0\0\xff', /no UTF-8/],
  ['a line that is no number', 'Iabc\n', /abc is no whole number/],
  ['a line that is no float', 'F0x10\n', /0x10 is no number/],
  ['a line of a megabyte', `I${'1'.repeat(2 ** 20)}\n`, /a line of 1048576 bytes/],
  ['a long of 4 GB', '\x8b\xff\xff\xff\xff', /whole number of 4294967295 bytes/],
  ['a persistent id that is no storage', `${tuple(text('module'))}Q`, /no storage/],
  ['a persistent id that is no tuple', 'NQ', /no storage/],
  ['a storage without a type', `${tuple(text('storage'), 'N', text('0'), text('cpu'), int(1))}Q`, /no known type/],
  [
    'a storage of a function',
    `${tuple(text('storage'), 'ctorch\nSize\n', text('0'), text('cpu'), int(1))}Q`,
    /no known type/,
  ],
  [
    'a storage with a list as its key',
    `${tuple(text('storage'), 'ctorch\nIntStorage\n', ']', 'N', int(1))}Q`,
    /no key/,
  ],
  ['a storage of negative length', storage('0', -1), /larger than the file/],
  ['a storage of 2^62 elements', storage('0', 2n ** 62n), /larger than the file/],
  ['a storage larger than the file', storage('0', 100_000), /larger than the file/],
  ['a storage with two lengths', list(one, storage('0', 2)), /described twice, and differently/],
  ['a storage with two types', list(one, storage('0', 1, 'IntStorage')), /described twice, and differently/],
  ['a negative offset', tensor(one, -1, [1], [1]), /the offset -1/],
  ['an offset beyond the storage', tensor(one, 1, [1], [1]), /offset 1, but the storage has 1/],
  ['a negative size', tensor(one, 0, [-1], [1]), /the shape \[-1\]/],
  ['a product that overflows', tensor(one, 0, [2 ** 40, 2 ** 40], [0, 0]), /the shape/],
  ['a size of 2^70', tensor(one, 0, [2n ** 70n], [0]), /the shape \[1180591620717411303424\]/],
  ['a negative stride', tensor(one, 0, [1], [-1]), /the strides \[-1\]/],
  ['a stride beyond the storage', tensor(one, 0, [2], [1]), /but the storage has 1 elements/],
  ['a stride of 2^52', tensor(one, 0, [2, 2 ** 40], [2 ** 52, 2 ** 52]), /but the storage has/],
  ['a stride of 0 that repeats without end', tensor(one, 0, [2 ** 40], [0]), /repeat their storages/],
  ['shape and strides that differ', tensor(one, 0, [1, 1], [1]), /no shape and strides of one length/],
  ['too many dimensions', tensor(one, 0, Array(65).fill(1), Array(65).fill(1)), /no shape and strides/],
  [
    'a shape of texts',
    call('torch._utils._rebuild_tensor', one, int(0), tuple(text('1')), tuple(int(1))),
    /the shape \[1\]/,
  ],
  [
    'a shape of NaN',
    call('torch._utils._rebuild_tensor', one, int(0), tuple('Fnan\n'), tuple(int(1))),
    /the shape \[NaN\]/,
  ],
  ['a tensor of nothing', call('torch._utils._rebuild_tensor_v2'), /no storage/],
  ['a parameter of nothing', call('torch._utils._rebuild_parameter', 'N'), /no tensor/],
  ['a dictionary of no pairs', call('collections.OrderedDict', list(int(1))), /no pairs/],
  ['a set of a number', call('builtins.set', int(2 ** 40)), /no list/],
  ['a bytearray of 2^40', call('builtins.bytearray', int(2 ** 40)), /wants to encode/],
  ['another encoding', call('_codecs.encode', text('a'), text('rot13')), /wants to encode with rot13/],
  ['a list that holds itself', `]q\x00h\x00a`, /contains itself/],
  ['a dictionary that holds itself', `}q\x00${text('a')}](h\x00es`, /contains itself/],
  ['lists nested 100 000 deep', nested(100_000), /nested more than 200/],
  [
    'lists nested 201 deep by sharing',
    `](${nested(150)}q\x00${']'.repeat(100)}h\x00${'a'.repeat(100)}e`,
    /nested more than 200/,
  ],
  ['lists that are beyond measure', laughs, /parts when written out/],
  ['a key that is a tuple', dict(tuple(int(1)), 'N'), /key of a dictionary is a list/],
  ['keys that read the same', dict(int(1), 'N', text('1'), 'N'), /two keys that read 1/],
  ['millions of lists', `](${')'.repeat(2 ** 21 + 1)}e`, /more than 2097152 lists/],
  ['millions of marks', '('.repeat(2 ** 21 + 1), /more than 2097152 lists/],
  [
    'a set copied again and again',
    `(${'K\x01'.repeat(100_000)}lq\x000${'cbuiltins\nset\n(h\x00tR0'.repeat(1000)}N`,
    /repeats itself more than its size allows/,
  ],
];
for (const [what, pickle, said] of wrong) {
  test(`${what} is refused`, async () => {
    const error = await rejects(loadTorchValue(streamOf(pickle, pickle.includes(one) ? block : [])), said);
    assert.ok(error.message.startsWith('loadTorchValue: the bytes: '), error.message);
    assert.ok(error.message.length < 600, 'the message is short');
  });
}

test('sharing within the limits is kept', async () => {
  const [a, b] = (await loadTorchValue(streamOf(`](]q\x00h\x00e`))) as unknown[];
  assert.is(a, b);
  assert.equal(await loadTorchValue(streamOf(nested(200))), JSON.parse('['.repeat(200) + ']'.repeat(200)));
});

// archives that are wrong

const value = tensor(one, 0, [1], [1]);
const entries = () => entriesOf(value, block) as [Entry, Entry, Entry];
const without = (name: string) => entries().filter((entry) => entry.name !== name);
const changed = (name: string, change: Partial<Entry>) =>
  entries().map((e) => (e.name === name ? { ...e, ...change } : e));

const archives: [what: string, archive: Buffer, said: RegExp][] = [
  ['no data.pkl', zipOf(without('a/data.pkl')), /without data\.pkl/],
  ['no storage', zipOf(without('a/data/0')), /has no entry a\/data\/0/],
  ['two entries of one name', zipOf([...entries(), ...entries().slice(2)]), /two entries have the name a\/data\/0/],
  ['two pickles', zipOf([...entries(), { name: 'b/data.pkl', content: Buffer.from('N.') }]), /more than one data\.pkl/],
  [
    'a TorchScript program',
    zipOf([...entries(), { name: 'a/constants.pkl', content: Buffer.from('N.') }]),
    /TorchScript/,
  ],
  ['a compressed storage', zipOf(changed('a/data/0', { compressed: true, content: Buffer.alloc(4) })), /is compressed/],
  ['a compressed pickle', zipOf(changed('a/data.pkl', { compressed: true })), /is compressed/],
  ['another byte order', zipOf(changed('a/byteorder', { content: Buffer.from('big') })), /byte order big/],
  [
    'a storage of another size',
    zipOf(changed('a/data/0', { content: Buffer.alloc(8) })),
    /has 8 bytes, but must have 4/,
  ],
  ['a wrong check sum', zipOf(changed('a/data/0', { crc: 1 })), /its CRC-32 does not fit/],
  ['an entry beyond the end', zipOf(changed('a/data/0', { at: 1e6 })), /damaged zip/],
  ['an entry at no header', zipOf(changed('a/data/0', { at: 3 })), /damaged zip/],
  ['an entry at another header', zipOf(changed('a/data/0', { at: 0 })), /has another name where its data lie/],
  ['an entry larger than the file', zipOf(changed('a/data/0', { size: 2 ** 31 })), /damaged zip/],
  ['an entry of 2^60 bytes', zipOf(changed('a/data/0', { size: 2 ** 60 }), { zip64: true }), /damaged zip/],
  [
    'a name that leads out',
    zipOf([...entries(), { name: '../x', content: Buffer.alloc(0) }]),
    /damaged zip.*invalid relative path/,
  ],
  ['a program behind a value', zipOf(changed('a/data.pkl', { content: Buffer.alloc(0) })), /ends early/],
];
for (const [what, archive, said] of archives) {
  test(`an archive with ${what} is refused`, async () => {
    const error = await rejects(loadTorchValue(archive), said);
    assert.ok(error.message.startsWith('loadTorchValue: the bytes: '), error.message);
  });
}

test('entries on top of each other are refused', async () => {
  // data.pkl reaches over the storage behind it, and its check sum fits.
  const plain = zipOf(entries());
  const all = plain.subarray(plain.indexOf('\x80\x02', 0, 'latin1'), plain.indexOf('PK\x01\x02', 0, 'latin1'));
  const archive = zipOf(changed('a/data.pkl', { size: all.length, crc: crc32(all) }));
  await rejects(loadTorchValue(archive), /entries a\/data\.pkl and a\/data\/0 overlap/);
});

test('storages of the older stream that do not fit are refused', async () => {
  const cases: [Buffer, RegExp][] = [
    [streamOf(value), /does not list storage 0/],
    [streamOf(value, [{ key: '1', data: Float32Array.of(1) }]), /lists storage 1, which no tensor has/],
    [streamOf(value, [...block, ...block]), /or lists it twice/],
    [streamOf(value, [{ key: '0', data: Float32Array.of(1, 2) }]), /has 2 elements, but its tensors say 1/],
    [streamOf(value, block).subarray(0, -1), /cut short/],
    [streamOf(value, block).subarray(0, -6), /cut short/],
  ];
  for (const [file, said] of cases) await rejects(loadTorchValue(file), said);
});

// damage at random

const wellFormed = (x: unknown): boolean => {
  if (typeof x !== 'object' || x === null) return x !== undefined;
  if (isHostTensor(x)) return mismatch(x) === undefined;
  if (ArrayBuffer.isView(x) || x instanceof Map || x instanceof Set) return false;
  return Object.values(x).every(wellFormed);
};

function damage(file: Buffer, r: Random, within: number): Buffer {
  const out = Buffer.from(file);
  const at = () => (r.next() < 0.8 ? r.integer(0, Math.min(within, out.length)) : r.integer(0, out.length));
  const kind = r.integer(0, 5);
  if (kind === 0) return out.subarray(0, at());
  if (kind === 1) return Buffer.concat([out.subarray(0, at()), out.subarray(at())]);
  for (let n = r.integer(1, 4); n > 0; n--) {
    const position = at();
    if (kind === 2) out[position] = (out[position] as number) ^ (1 << r.integer(0, 8));
    else out[position] = kind === 3 ? r.integer(0, 256) : r.pick([0, 0xff, 0x80, 0x7f, 0x2e, 0x28, 0x52, 0x51]);
  }
  return out;
}

async function survives(file: Buffer, what: string): Promise<'read' | 'refused'> {
  const began = performance.now();
  try {
    assert.ok(wellFormed(await loadTorchValue(file)), `${what}: the value is not well-formed`);
    return 'read';
  } catch (error) {
    assert.instance(error, Error);
    const { message, stack } = error as Error;
    assert.ok(message.startsWith('loadTorchValue: the bytes: '), `${what}: ${stack}`);
    return 'refused';
  } finally {
    assert.ok(performance.now() - began < 2000, `${what} took too long`);
  }
}

// The bytes of the descriptions, which damage should hit most.
const targets = [
  { file: 'tiny/ae_relu_legacy.pt', cases: 1500, within: 1100 },
  { file: 'narrow-attn/ae_relu_legacy.pt', cases: 500, within: 1100 },
  { file: 'tiny/ae_topk.pt', cases: 300, within: 1400 },
  { file: 'tiny/model_pieces/final_ln.bias.pt', cases: 1500, within: 2000 },
];
for (const { file, cases, within } of targets) {
  test(`${file} with damage is read or refused`, async () => {
    const r = random(cases);
    const content = await readFile(join(goldens, file));
    const count = { read: 0, refused: 0 };
    for (let i = 0; i < cases; i++) count[await survives(damage(content, r, within), `${file}, case ${i}`)]++;
    assert.ok(count.refused > cases / 3, `only ${count.refused} were refused`);
  });
}

test('damaged pickles are read or refused', async () => {
  const r = random(5);
  const pickles = wrong.map(([, pickle]) => pickle).filter((pickle) => pickle.length < 4000);
  const good = dict(
    text('a'),
    value,
    text('b'),
    list(int(3), text('x'), tuple('N', '\x88')),
    text('c'),
    call('torch.Size', tuple(int(1))),
  );
  for (let i = 0; i < 4000; i++) {
    const pickle = Buffer.from(r.next() < 0.6 ? good : r.pick(pickles), 'latin1');
    await survives(streamOf(damage(pickle, r, pickle.length).toString('latin1'), block), `case ${i}`);
  }
});

test('pickles of random opcodes are read or refused', async () => {
  const r = random(6);
  const codes = [
    'N',
    '\x88',
    'K\x03',
    int(2),
    text('k'),
    '(',
    't',
    ']',
    '}',
    ')',
    'a',
    'e',
    's',
    'u',
    'l',
    'd',
    'q\x00',
    'h\x00',
    'q\x01',
    'h\x01',
    '0',
    '1',
    '2',
    '\x85',
    '\x86',
    '\x87',
    '\x8f',
    '\x90',
    '\x91',
    '\x94',
    'R',
    '\x81',
    'b',
    'Q',
    one,
    value,
    'ccollections\nOrderedDict\n',
    'cbuiltins\nset\n',
    'ctorch\nSize\n',
  ];
  let read = 0;
  for (let i = 0; i < 6000; i++) {
    const pickle = Array.from({ length: r.integer(1, 14) }, () => r.pick(codes)).join('');
    if (
      (await survives(streamOf(pickle, pickle.includes(one) ? block : []), `case ${i}: ${JSON.stringify(pickle)}`)) ===
      'read'
    )
      read++;
  }
  assert.ok(read > 100, `only ${read} were read`);
});

test('safetensors files with damage are read or refused', async () => {
  await withFolder(async (folder) => {
    const path = join(folder, 'x.safetensors');
    const header =
      '{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},' +
      '"b":{"dtype":"BOOL","shape":[3],"data_offsets":[8,11]}}';
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    const content = Buffer.concat([length, Buffer.from(header), Buffer.alloc(11, 1)]);
    const r = random(7);
    let read = 0;
    for (let i = 0; i < 1500; i++) {
      await writeFile(path, damage(content, r, content.length));
      try {
        await using file = await openSafetensors(path);
        for (const name of file.tensors.keys()) assert.ok(wellFormed(await file.read(name)));
        read++;
      } catch (error) {
        assert.ok((error as Error).message.startsWith(`openSafetensors: ${path}: `), (error as Error).stack);
      }
    }
    assert.ok(read > 20, `only ${read} were read`);
  });
});

test.run();
