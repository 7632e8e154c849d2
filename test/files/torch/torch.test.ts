// Oracle: a reader in Python (zipfile and pickle, no torch), hand-made files with known values, and the reference
// files, which hold the same autoencoder in several containers.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { type HostTensor, isHostTensor, mismatch, type StateDict, toFloat32 } from '../../../src/files/host_tensor.js';
import { loadTorch, loadTorchValue, openTorchTensor, saveTorch } from '../../../src/files/torch/torch.js';
import { close } from '../../support/close.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import {
  call,
  dict,
  entriesOf,
  goldenAutoencoders,
  goldenFolders,
  goldens,
  int,
  list,
  storage,
  streamOf,
  tensor,
  text,
  tuple,
  zipOf,
} from '../fixtures.js';

const test = suite('torch');

// Prints each tensor's dtype, shape and the SHA-256 of its bytes, and all other values as they are.
const reader = String.raw`
import collections, hashlib, json, pickle, sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
assert archive.testzip() is None
assert all(i.compress_type == zipfile.ZIP_STORED for i in archive.infolist())
folder = archive.namelist()[0].split('/')[0]
assert archive.namelist()[0] == folder + '/data.pkl' and archive.read(folder + '/byteorder') == b'little'
assert archive.read(folder + '/version') == b'3\n'
widths = dict(Double=8, Float=4, Half=2, BFloat16=2, Long=8, Int=4, Short=2, Char=1, Byte=1, Bool=1)

def rebuild(storage, offset, shape, strides, grad, hooks, *more):
    kind, data = storage
    width = widths[kind]
    at = [offset]
    for n, step in zip(shape, strides):
        at = [a + i * step for a in at for i in range(n)]
    packed = b''.join(data[a * width:(a + 1) * width] for a in at)
    return dict(tensor=[kind, list(shape), hashlib.sha256(packed).hexdigest()])

class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if module == 'torch' and name.endswith('Storage'):
            return name[:-len('Storage')]
        known = {'torch._utils._rebuild_tensor_v2': rebuild, 'collections.OrderedDict': collections.OrderedDict}
        return known[module + '.' + name]
    def persistent_load(self, pid):
        word, kind, key, where, length = pid
        data = archive.read(folder + '/data/' + key)
        assert word == 'storage' and where == 'cpu' and len(data) == length * widths[kind]
        return kind, data

json.dump(Reader(archive.open(folder + '/data.pkl')).load(), sys.stdout)
`;

function readByPython(path: string): unknown {
  const { status, stdout, stderr } = spawnSync('python3', ['-c', reader, path], {
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  assert.is(status, 0, stderr);
  return JSON.parse(stdout);
}

const storageNames: Record<string, string> = {
  float64: 'Double',
  float32: 'Float',
  float16: 'Half',
  bfloat16: 'BFloat16',
  int64: 'Long',
  int32: 'Int',
  int16: 'Short',
  int8: 'Char',
  uint8: 'Byte',
  bool: 'Bool',
};

const digested = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (_, x) => {
      if (!isHostTensor(x)) return x;
      const { buffer, byteOffset, byteLength } = x.data;
      const bytes = new Uint8Array(buffer, byteOffset, byteLength);
      return { tensor: [storageNames[x.dtype], x.shape, createHash('sha256').update(bytes).digest('hex')] };
    }),
  );

const numbers = (x: unknown): number[] => Array.from((x as HostTensor).data as Float32Array, Number);

for (const folder of goldenFolders) {
  test(`the autoencoders of ${folder} read as Python reads them`, async () => {
    for (const kind of goldenAutoencoders.filter((kind) => kind !== 'relu_legacy')) {
      const path = join(goldens, folder, `ae_${kind}.pt`);
      assert.equal(digested(await loadTorch(path)), readByPython(path), path);
    }
  });

  test(`the files of one autoencoder in ${folder} agree`, async () => {
    const load = (kind: string) => loadTorch(join(goldens, folder, `ae_${kind}.pt`));
    const tensors = await load('relu_tensors');
    assert.equal(Object.keys(tensors).length, 7);
    const [full, legacy, half] = await Promise.all(['relu', 'relu_legacy', 'relu_half'].map(load));
    assert.equal(digested(legacy), digested(tensors));
    for (const [name, tensor] of Object.entries(tensors)) {
      assert.equal(digested(full?.[name]), digested(tensor), name);
      const expected = toFloat32(tensor as HostTensor);
      close(toFloat32(half?.[name] as HostTensor), expected, { rtol: 2 ** -11, atol: 2 ** -25, label: name });
    }
    assert.is(((half as StateDict).pre_bias as HostTensor).dtype, 'float16');
  });

  test(`the parameters of ${folder} are single tensors, as Python reads them`, async () => {
    const parameters = join(goldens, folder, 'model_pieces');
    const files = await readdir(parameters);
    assert.ok(files.length > 20);
    for (const file of files) {
      const value = await loadTorchValue(join(parameters, file));
      assert.ok(isHostTensor(value) && mismatch(value) === undefined, file);
    }
    const [file] = files;
    assert.equal(
      digested(await loadTorchValue(join(parameters, file as string))),
      readByPython(join(parameters, file as string)),
    );
    await rejects(loadTorch(join(parameters, file as string)), /must hold a dictionary, but holds a single tensor/);
  });
}

test('bytes read as files do', async () => {
  const path = join(goldens, 'tiny', 'ae_topk.pt');
  const bytes = await readFile(path);
  const unaligned = new Uint8Array(bytes.length + 1);
  unaligned.set(bytes, 1);
  assert.equal(digested(await loadTorch(unaligned.subarray(1))), digested(await loadTorch(path)));
});

const block = Float32Array.from({ length: 12 }, (_, i) => i);
const views = dict(
  ...[text('rows'), tensor(storage('0', 12), 0, [3, 4], [4, 1])],
  ...[text('columns'), tensor(storage('0', 12), 0, [4, 3], [1, 4])],
  ...[text('part'), tensor(storage('0', 12), 5, [2, 2], [4, 2])],
  ...[text('row'), tensor(storage('0', 12), 4, [4], [1])],
  ...[text('again'), tensor(storage('0', 12), 4, [4], [1])],
  ...[text('repeated'), tensor(storage('0', 12), 7, [2, 3], [0, 0])],
  ...[text('ones'), tensor(storage('0', 12), 2, [1, 3, 1, 2], [9, 4, 7, 1])],
  ...[text('transposed'), tensor(storage('0', 12), 0, [2, 3, 2], [1, 4, 2])],
  ...[text('scalar'), tensor(storage('0', 12), 11, [], [])],
  ...[text('empty'), tensor(storage('0', 12), 12, [0, 5], [5, 1])],
  ...[text('parameter'), call('torch._utils._rebuild_parameter', tensor(storage('0', 12), 1, [2], [3]), '\x88', ']')],
);
const blocks = [{ key: '0', data: block }];

for (const [container, file] of [
  ['the older stream', streamOf(views, blocks)],
  ['a zip archive', zipOf(entriesOf(views, blocks))],
  ['a ZIP64 archive', zipOf(entriesOf(views, blocks), { zip64: true })],
] as const) {
  test(`views of one storage in ${container} become contiguous tensors`, async () => {
    const t = await loadTorch(file);
    assert.equal(numbers(t.rows), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert.equal(numbers(t.columns), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
    assert.equal((t.columns as HostTensor).shape, [4, 3]);
    assert.equal(numbers(t.part), [5, 7, 9, 11]);
    assert.equal(numbers(t.row), [4, 5, 6, 7]);
    assert.equal(numbers(t.repeated), [7, 7, 7, 7, 7, 7]);
    assert.equal(numbers(t.ones), [2, 3, 6, 7, 10, 11]);
    assert.equal(numbers(t.transposed), [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]);
    assert.equal(numbers(t.scalar), [11]);
    assert.equal((t.scalar as HostTensor).shape, []);
    assert.equal(numbers(t.empty), []);
    assert.equal(numbers(t.parameter), [1, 4]);
    assert.is(t.again, t.row);
    assert.is((t.row as HostTensor).data.buffer, (t.rows as HostTensor).data.buffer);
  });
}

test('bools are 0 and 1, whatever the file has for true', async () => {
  const data = Uint8Array.of(0, 2, 255);
  const read = await loadTorchValue(
    streamOf(tensor(storage('0', 3, 'BoolStorage'), 0, [3], [1]), [{ key: '0', data }]),
  );
  assert.equal(read, { dtype: 'bool', shape: [3], data: Uint8Array.of(0, 1, 1) });
});

test('a tensor in a file of its own is read slice by slice, with any part of its storage', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.pt');
    const buffer = new ArrayBuffer(16);
    for (const [offset, shape, strides] of [
      [0, [3, 4], [4, 1]],
      [4, [4], [1]],
      [5, [7], [1]],
      [3, [1, 2], [9, 1]],
      [11, [], []],
      [12, [0, 5], [5, 1]],
      [0, [4, 3], [1, 4]],
      [1, [2, 3], [1, 4]],
    ] as const) {
      const value = tensor(storage('0', 12), offset, shape, strides);
      for (const file of [streamOf(value, blocks), zipOf(entriesOf(value, blocks))]) {
        await writeFile(path, file);
        const expected = (await loadTorchValue(file)) as HostTensor;
        const stored = await openTorchTensor(path);
        assert.equal([stored.dtype, [...stored.shape]], ['float32', [...shape]]);
        const all: number[] = [];
        for await (const slice of stored.slices(buffer)) all.push(...(slice as Float32Array));
        assert.equal(all, numbers(expected));
        assert.equal(numbers(await stored.read()), numbers(expected));
        await stored.close();
      }
    }
  }));

test('damage is found by the end of the slices, and a file without a tensor is refused', () =>
  withFolder(async (folder) => {
    const path = join(folder, 'x.pt');
    const value = tensor(storage('0', 12), 0, [3], [1]);
    const file = zipOf(
      entriesOf(value, blocks).map((entry) => (/data.0$/.test(entry.name) ? { ...entry, crc: 1 } : entry)),
    );
    await writeFile(path, file);
    const stored = await openTorchTensor(path);
    const drain = async () => {
      for await (const _ of stored.slices(new ArrayBuffer(16)));
    };
    await rejects(drain(), Error, /x\.pt: entry a\/data\/0 is damaged: its CRC-32 does not fit/);
    await stored.close();
    await writeFile(path, streamOf(views, blocks));
    await rejects(openTorchTensor(path), Error, /openTorchTensor: .*x\.pt: the file must hold one tensor/);
    await rejects(openTorchTensor(join(folder, 'y.pt')), Error, /y\.pt: there is no such file/);
  }));

test('plain data of Python becomes plain data', async () => {
  const value = dict(
    ...[text('__proto__'), text('no prototype')],
    ...[text('\ufeffname 漢'), text('\ufeff')],
    ...[int(7), list('N', '\x88', '\x89', int(-5), int(2 ** 53 - 1), int(-(2n ** 70n)))],
    ...[text('float'), 'G\x40\x09\x21\xfb\x54\x44\x2d\x18'],
    ...[text('nan'), 'Fnan\n', text('negative'), 'J\xfe\xff\xff\xff', text('ascii'), 'I-12\n'],
    ...[text('bytes'), call('_codecs.encode', text('\xe9\x00a'), text('latin1'))],
    ...[text('set'), call('__builtin__.set', list(int(1), int(2)))],
    ...[text('size'), call('torch.Size', tuple(int(2), int(3)))],
    ...[text('device'), call('torch.device', text('cuda'), int(1)), text('dtype'), 'ctorch\nbfloat16\n'],
    ...[text('ordered'), `${call('collections.OrderedDict', list(tuple(text('k'), int(1))))}}${text('_metadata')}}sb`],
    ...[text('default'), `${call('collections.defaultdict', 'c__builtin__\nlist\n')}(${text('k')}Nu`],
  );
  const read = await loadTorch(streamOf(value));
  assert.is(Object.getPrototypeOf(read), null);
  assert.is(Object.getOwnPropertyDescriptor(read, '__proto__')?.value, 'no prototype');
  assert.is(read['\ufeffname 漢'], '\ufeff');
  assert.equal(read['7'], [null, true, false, -5, 2 ** 53 - 1, -(2n ** 70n)]);
  assert.is(read.float, Math.PI);
  assert.ok(Number.isNaN(read.nan));
  assert.is(read.negative, -2);
  assert.is(read.ascii, -12);
  assert.equal(read.bytes, { dtype: 'uint8', shape: [3], data: Uint8Array.of(0xe9, 0, 0x61) });
  assert.equal(read.set, [1, 2]);
  assert.equal(read.size, [2, 3]);
  assert.is(read.device, 'cuda:1');
  assert.is(read.dtype, 'torch.bfloat16');
  assert.equal({ ...(read.ordered as StateDict) }, { k: 1 });
  assert.equal({ ...(read.default as StateDict) }, { k: null });
});

const everything = (): StateDict => {
  const shared = Float32Array.of(1, 2, 3, 4, 5, 6);
  return {
    float64: { dtype: 'float64', shape: [2], data: Float64Array.of(1 / 3, -0) },
    float32: { dtype: 'float32', shape: [2, 3], data: shared },
    tied: { dtype: 'float32', shape: [3, 2], data: shared },
    float16: { dtype: 'float16', shape: [2], data: Uint16Array.of(0x3c00, 0xfc00) },
    bfloat16: { dtype: 'bfloat16', shape: [1, 1], data: Uint16Array.of(0x3f80) },
    int64: { dtype: 'int64', shape: [2], data: BigInt64Array.of(-(2n ** 63n), 2n ** 62n) },
    int32: { dtype: 'int32', shape: [], data: Int32Array.of(-7) },
    int16: { dtype: 'int16', shape: [1], data: Int16Array.of(-300) },
    int8: { dtype: 'int8', shape: [1], data: Int8Array.of(-3) },
    uint8: { dtype: 'uint8', shape: [0, 4], data: Uint8Array.of() },
    bool: { dtype: 'bool', shape: [2], data: Uint8Array.of(1, 0) },
    large: { dtype: 'float32', shape: [700_000], data: Float32Array.from({ length: 700_000 }, (_, i) => i) },
    plain: [
      0,
      -0,
      1.5,
      -1,
      255,
      2 ** 31,
      -(2 ** 31),
      2 ** 53 - 1,
      -(2 ** 53) + 1,
      1e300,
      true,
      false,
      null,
      'text 漢',
      '',
    ],
    long: [2n ** 64n, -(2n ** 64n), 127n, 128n, -128n, -129n, 0n],
    nested: { 'a.b': { c: [[], {}] } },
  };
};

test('saveTorch writes what Python reads', async () => {
  await withFolder(async (folder) => {
    for (const file of ['state.v1.pt', 'ünusual name.pt', '...pt']) {
      const path = join(folder, file);
      const { long, ...value } = everything();
      await saveTorch(path, value);
      assert.equal(readByPython(path), digested(value));
    }
    assert.equal((await readdir(folder)).length, 3);
  });
});

test('loadTorch reads what saveTorch wrote', async () => {
  await withFolder(async (folder) => {
    const path = join(folder, 'state.pt');
    const value = everything();
    await saveTorch(path, value);
    const read = await loadTorch(path);
    const withoutBigInts = (state: StateDict) => digested({ ...state, long: null });
    assert.equal(withoutBigInts(read), withoutBigInts(value));
    assert.equal(read.long, [2n ** 64n, -(2n ** 64n), 127, 128, -128, -129, 0]);
    assert.ok(Object.is((read.plain as number[])[1], -0));
    assert.is((read.tied as HostTensor).data.buffer, (read.float32 as HostTensor).data.buffer);
    const first = await readFile(path);
    await saveTorch(path, value);
    assert.ok(first.equals(await readFile(path)), 'the same value gives the same bytes');
  });
});

test('values that cannot be saved are refused, and no file is left behind', async () => {
  await withFolder(async (folder) => {
    const path = join(folder, 'state.pt');
    const save = (value: unknown) => saveTorch(path, value as StateDict);
    await rejects(
      save({ w: { dtype: 'float32', shape: [3], data: new Float32Array(2) } }),
      TypeError,
      /value\.w.* 3 elem.* 2$/,
    );
    await rejects(
      save({ w: { dtype: 'uint16', shape: [1], data: new Uint16Array(1) } }),
      TypeError,
      /no storage of uint16/,
    );
    await rejects(save({ a: [new Date(0)] }), TypeError, /value\.a\[0\] must be a tensor or plain data, but is Date/);
    await rejects(save({ a: undefined }), TypeError, /value\.a .* undefined/);
    await rejects(save({ a: '\ud800' }), TypeError, /half a surrogate pair/);
    const cyclic: unknown[] = [];
    cyclic.push(cyclic);
    await rejects(save(cyclic), TypeError, /nested more than/);
    await mkdir(join(folder, 'taken.pt'));
    await rejects(saveTorch(join(folder, 'taken.pt'), everything()), /EISDIR|ENOTEMPTY|EEXIST/);
    await rejects(saveTorch(join(folder, 'missing', 'x.pt'), everything()), /ENOENT/);
    assert.equal(await readdir(folder), ['taken.pt']);
  });
});

test('a file that torch.save did not write is refused as such', async () => {
  await withFolder(async (folder) => {
    const written = async (content: string) => {
      const path = join(folder, 'x.pt');
      await writeFile(path, content, 'latin1');
      return loadTorch(path);
    };
    await rejects(loadTorch(join(folder, 'none.pt')), /^loadTorch: .*none\.pt: there is no such file$/);
    await rejects(loadTorch(folder), /is no regular file/);
    await rejects(loadTorch('/dev/zero'), /is no regular file/);
    assert.is(spawnSync('mkfifo', [join(folder, 'pipe.pt')]).status, 0);
    await rejects(loadTorch(join(folder, 'pipe.pt')), /is no regular file/);
    await rejects(written(''), /is no file of torch\.save: it has 0 bytes/);
    await rejects(written('<html>'), /begins as neither/);
    await rejects(written('version https://git-lfs.github.com/spec/v1'), /begins as neither/);
    await rejects(written('\x80\x02K\x01.'), /is a pickle, but no file of torch\.save/);
    await rejects(loadTorch(7 as unknown as string), TypeError, /expected the path or address of a file/);
  });
});

test('a tensor whose values are others than its storage holds is refused', async () => {
  const data = Float32Array.of(1, 2);
  const file = (flags: string) => streamOf(tensor(storage('0', 2), 0, [2], [1], flags), [{ key: '0', data }]);
  await rejects(loadTorchValue(file(dict(text('neg'), '\x88'))), Error, /a tensor of storage 0 is stored with neg/);
  const read = (await loadTorchValue(file(dict(text('neg'), '\x89')))) as HostTensor;
  assert.equal(read.data, data);
});

test.run();
