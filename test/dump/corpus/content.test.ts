// Files that are not what they were given as, and the headers of token files. Oracle: files as their programs write them,
// put together here by the descriptions of the formats, and tokens that are known beforehand.
import { spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import * as assert from 'uvu/assert';
import { tokenProblem } from '../../../src/dump/corpus/content.js';
import {
  type Corpus,
  type CorpusFileOptions,
  type CorpusKind,
  describeSource,
  openCorpus,
  readCorpus,
} from '../../../src/dump/corpus/corpus.js';
import type { TokenDType } from '../../../src/dump/corpus/token_layout.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { random } from '../../support/random.js';
import { sampleText } from '../folders.js';

const test = suite('content of corpus files');
const { encode } = gpt2Tokenizer();
const mark = 50256;
const text = 'It was a windy Monday. Kate found a red ball.\n';

async function tokensOf(corpus: Corpus): Promise<number[]> {
  const found: number[] = [];
  for await (const chunks of readCorpus(await openCorpus(corpus), { encode, nVocab: 50_257 })) {
    for (const { tokens } of chunks) found.push(...Array.from(tokens));
  }
  return found;
}

interface Given {
  readonly name: string;
  readonly content: string | Uint8Array;
}

async function withFile<T>({ name, content }: Given, body: (path: string) => Promise<T>): Promise<T> {
  return withFolder(async (folder) => {
    await writeFile(join(folder, name), content);
    return body(join(folder, name));
  });
}

const read = (content: string | Uint8Array, kind: CorpusKind, more: Partial<CorpusFileOptions> = {}) =>
  withFile({ name: 'corpus', content }, (path) => tokensOf({ path, kind, ...more }));

const bytesOf = (...parts: (string | number[] | Uint8Array)[]): Buffer =>
  Buffer.concat(parts.map((part) => Buffer.from(part as never, 'latin1')));

const zipOf = (name: string): Buffer => {
  const header = Buffer.alloc(30);
  header.write('PK\x03\x04', 'latin1');
  header.writeUInt16LE(name.length, 26);
  return bytesOf(header, name, 'contents');
};

const formats: [what: RegExp, content: Uint8Array][] = [
  [/is compressed with gzip: decompress it first, through a pipe: zcat FILE \| sonde dump -/, gzipSync(text)],
  [/compressed with Zstandard: .*zstdcat/, bytesOf([0x28, 0xb5, 0x2f, 0xfd], [0, 1, 2])],
  [/compressed with bzip2: .*bzcat/, bytesOf('BZh91AY&SY', [1, 2, 3])],
  [/compressed with xz/, bytesOf([0xfd], '7zXZ', [0, 0, 4])],
  [/compressed with LZ4/, bytesOf([4, 0x22, 0x4d, 0x18, 0x64])],
  [/is an archive of NumPy arrays \(\.npz\)/, zipOf('arr_0.npy')],
  [/is a file of torch\.save/, zipOf('archive/data.pkl')],
  [/is a zip archive/, zipOf('stories.txt')],
  [/is a pickle/, bytesOf([0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20])],
  [/is a pickle/, bytesOf([0x80, 4, 0x95, 20, 0, 0, 0, 0, 0, 0, 0, 0x5d])],
  [/is a safetensors file/, bytesOf([60, 0, 0, 0, 0, 0, 0, 0], '{"tokens":{"dtype":"I32"')],
  [/is a Parquet file: write its texts as JSON lines/, bytesOf('PAR1', [0x15, 4])],
  [/is an Arrow file/, bytesOf('ARROW1', [0, 0])],
  [/is a stream of Arrow/, bytesOf([0xff, 0xff, 0xff, 0xff, 0x30, 1, 0, 0])],
  [/is an HDF5 file/, bytesOf([0x89], 'HDF\r\n', [0x1a], '\n')],
  [/is a PDF/, bytesOf('%PDF-1.7\n')],
  [/is an SQLite database/, bytesOf('SQLite format 3', [0])],
  [/is the index of a data set of Megatron/, bytesOf('MMIDIDX', [0, 0])],
  [/is a tar archive/, bytesOf('a.txt', new Uint8Array(252), 'ustar', [0])],
];

test('files of other formats are refused by name, as text, as JSON lines and as tokens', async () => {
  for (const kind of ['text', 'jsonl', 'tokens'] as const) {
    for (const [what, content] of formats) {
      const even = bytesOf(content, content.length % 2 ? [0] : []);
      const { message } = await rejects(read(even, kind), Error, what);
      assert.match(message, /^dump: .*corpus: is /);
    }
  }
  for (const compressed of [deflateSync(text), brotliCompressSync(text)]) {
    await rejects(read(compressed, 'text'), Error, /not valid UTF-8|NUL/);
  }
});

test('text that only begins with the letters of a format is text', async () => {
  for (const words of ['PAR1 is a name', 'BZh9 too', 'PK and others', 'ORC', 'FEA1\n', 'GGUF, a format', 'MMIDIDX']) {
    assert.equal(await read(words, 'text'), encode(words));
  }
});

test('text must be UTF-8 without NUL; a byte order mark is dropped', async () => {
  for (const kind of ['text', 'jsonl'] as const) {
    const content = kind === 'text' ? text : `{"text": ${JSON.stringify(text)}}\n`;
    const little = Buffer.from(content, 'utf16le');
    const big = Buffer.from(little).swap16();
    for (const [bytes, how] of [
      [bytesOf([0xff, 0xfe], little), /is UTF-16 by its byte order mark, and must be UTF-8: iconv -f UTF-16 -t UTF-8/],
      [bytesOf([0xfe, 0xff], big), /is UTF-16 by its byte order mark/],
      [little, /is UTF-16LE as its zeros show, and must be UTF-8: iconv -f UTF-16LE -t UTF-8/],
      [big, /is UTF-16BE as its zeros show, and must be UTF-8: iconv -f UTF-16BE -t UTF-8/],
      [bytesOf([0xff, 0xfe, 0, 0], [0x61, 0, 0, 0]), /is UTF-32 by its byte order mark, .* iconv -f UTF-32 -t UTF-8/],
      [bytesOf([0, 0, 0xfe, 0xff], [0, 0, 0, 0x61]), /is UTF-32 by its byte order mark/],
    ] as const) {
      await rejects(read(bytes, kind), Error, how);
    }
    assert.equal(await read(`\ufeff${content}`, kind), encode(text));
  }
  await rejects(read('abc\0def', 'text'), Error, /corpus: has a NUL at byte 3, which no text has.*--as-is/);
  assert.equal(await read('abc\0def', 'text', { asIs: true }), encode('abc\0def'));
  const far = `${'word '.repeat(40_000)}\0`;
  await rejects(read(far, 'text'), Error, /corpus: has a NUL at byte 200000, which no text has/);
});

test('JSON that is given as text is refused, unless it is asked for', async () => {
  const lines = Array.from({ length: 5 }, (_, i) => JSON.stringify({ text: `${text}${i}` })).join('\n');
  const asJsonl =
    /has a JSON object on each line, and was given as text: give it as kind 'jsonl' \(--jsonl\);.*--as-is/;
  for (const content of [lines, `${lines}\n`, `${lines}\r\n\n`, JSON.stringify({ text: text.repeat(5000) })]) {
    await rejects(read(content, 'text'), Error, asJsonl);
    assert.equal(await read(content, 'text', { asIs: true }), encode(content));
  }
  for (const content of [
    '{"text":"hello"}\n{"text":"wor',
    '{"text":"a","s":NaN}',
    '{"a":1}\n{"a":-Infinity}\n',
    `${lines}\nThe end.`,
    lines.replace('\n', '\n{"text": "a" "b"}\n'),
  ]) {
    await rejects(read(content, 'text'), Error, asJsonl);
    assert.equal(await read(content, 'text', { asIs: true }), encode(content));
  }
  for (const content of ['[{"text":"a"},{"te', '{"text":"wor', '["One.", "Tw']) {
    await rejects(read(content, 'text'), Error, /is JSON, and was given as text/);
  }
  assert.equal(await read('{"text":"a","s":NaN}', 'jsonl'), encode('a'));
  const documents = [[text, text], { a: { b: [1] } }, Array.from({ length: 20_000 }, (_, i) => ({ text: `${i}` }))];
  for (const content of documents) {
    for (const json of [JSON.stringify(content, null, 1), JSON.stringify(content)]) {
      const isLine = json.startsWith('{') && !json.includes('\n');
      const refused = isLine ? asJsonl : /is JSON, and was given as text: write a line with \{"text": …\} for each/;
      await rejects(read(json, 'text'), Error, refused);
    }
  }
  for (const content of [documents[0], documents[2]]) {
    const json = JSON.stringify(content, null, 1);
    await rejects(read(json, 'jsonl'), Error, /is one JSON document, and no object on each line/);
  }
  for (const other of [
    '[1] A footnote.',
    '{"a": 1} is JSON.',
    'The end.\n{"a": 1}',
    '{',
    '[',
    '{ int x; }',
    '[Verse 1]',
    '[1] Foo',
    'int main() {\n  return 0;\n}\n',
    '{\n  "strict',
    '{name}, hello',
    '"Yes," he said.',
  ]) {
    assert.equal(await read(other, 'text'), encode(other));
  }
});

test('a name with another ending does not matter, nor does the beginning of standard input get lost', async () => {
  const program = `
    import { openCorpus, readCorpus } from ${JSON.stringify(new URL('../../../src/dump/corpus/corpus.js', import.meta.url).href)};
    import { gpt2Tokenizer } from ${JSON.stringify(new URL('../../../src/files/tokenizer/tokenizer.js', import.meta.url).href)};
    const { encode } = gpt2Tokenizer();
    const found = [];
    try {
      const sources = await openCorpus(JSON.parse(process.argv[1]));
      for await (const chunks of readCorpus(sources, { encode, nVocab: 50257 })) {
        for (const { tokens } of chunks) found.push(...tokens);
      }
      console.log(JSON.stringify(found));
    } catch (error) { console.log(error.message); }`;
  const input = async (corpus: unknown, pieces: (string | Uint8Array)[]): Promise<string> => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program, JSON.stringify(corpus)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (more: string) => {
      output += more;
    });
    child.stdin.on('error', () => {}); // the program may have seen enough
    for (const piece of pieces) {
      child.stdin.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    child.stdin.end();
    await new Promise((resolve) => child.on('close', resolve));
    return output.trim();
  };
  const long = text.repeat(3000);
  const json = JSON.stringify({ text: long });
  const numbers = Array.from({ length: 9000 }, (_, i) => (i * 7919) % 50_000);
  const npy = numpyFile('<i4', `(${numbers.length},)`, Int32Array.from(numbers));
  const cut = (bytes: Uint8Array | string, at: number) => [bytes.slice(0, at), bytes.slice(at)];
  for (const at of [1, 100, 5000]) {
    assert.equal(JSON.parse(await input('-', cut(long, at))), encode(long));
    assert.equal(JSON.parse(await input({ path: '-', kind: 'jsonl' }, cut(json, at))), encode(long));
    assert.equal(JSON.parse(await input({ path: '-', kind: 'tokens' }, cut(npy, at))), numbers);
  }
  assert.match(await input('-', cut(json, 10)), /^dump: standard input: has a JSON object on each line.*--jsonl/);
  assert.match(await input('-', [gzipSync(long)]), /^dump: standard input: is compressed with gzip/);
  assert.equal(JSON.parse(await input({ path: '-', kind: 'text', asIs: true }, [json])), encode(json));
  assert.match(await input({ path: '-', kind: 'tokens' }, [npy.subarray(0, 9000)]), /holds \d+ tokens, but its header/);
  assert.is(await input('-', []), '[]');
});

// ---- tokens

const tokens = [15496, 11, 995, 0, mark, 464, 886, 13];

const raw = (dtype: TokenDType, list: readonly number[] = tokens): Uint8Array => {
  const arrays = { uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array };
  const array = dtype === 'int64' ? BigInt64Array.from(list, BigInt) : arrays[dtype].from(list);
  return new Uint8Array(array.buffer);
};

/** As numpy.save writes it. */
function numpyFile(descr: string, shape: string, data: ArrayBufferView, { order = 'False', version = 1 } = {}): Buffer {
  const dict = `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': ${shape}, }`;
  const start = version === 1 ? 10 : 12;
  const header = `${dict}${' '.repeat(63 - ((start + dict.length) % 64))}\n`;
  const length = Buffer.alloc(start - 8);
  if (version === 1) length.writeUInt16LE(header.length);
  else length.writeUInt32LE(header.length);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return bytesOf([0x93], 'NUMPY', [version, 0], length, header, bytes);
}

const llmcFile = (list: readonly number[] = tokens, { magic = 20240520, version = 1, count = list.length } = {}) => {
  const header = new Int32Array(256);
  header.set([magic, version, count]);
  return bytesOf(new Uint8Array(header.buffer), raw('uint16', list));
};

test("files of numpy.save and llm.c's are read", async () => {
  const long = Array.from({ length: 100_001 }, (_, i) => (i * 7919) % 50_257);
  for (const list of [tokens, long, []]) {
    for (const [descr, dtype] of [
      ['<u2', 'uint16'],
      ['<i4', 'int32'],
      ['<u4', 'uint32'],
      ['<i8', 'int64'],
      ['<u8', 'int64'],
    ] as const) {
      for (const version of [1, 2, 3]) {
        const file = numpyFile(descr, `(${list.length},)`, raw(dtype, list), { version });
        assert.equal(await read(file, 'tokens'), list);
      }
    }
    assert.equal(await read(llmcFile(list), 'tokens'), list);
  }
  assert.equal(await read(numpyFile('<u2', '(2, 4)', raw('uint16')), 'tokens'), tokens);
  assert.equal(await read(numpyFile('<u2', '(8, 1)', raw('uint16'), { order: 'True' }), 'tokens'), tokens);
  await withFile({ name: 'a.npy', content: numpyFile('<i4', '(8,)', raw('int32')) }, async (path) => {
    assert.equal(await tokensOf(path), tokens);
    const [source] = await openCorpus(path);
    assert.equal(describeSource(source as never), { kind: 'tokens', name: 'a.npy', bytes: 160, dtype: 'int32' });
  });
});

test('headers that cannot be are refused', async () => {
  const file = (descr: string, shape = '(8,)', options = {}) => numpyFile(descr, shape, raw('uint16'), options);
  const cases: [Uint8Array, RegExp][] = [
    [file('<f4', '(4,)'), /is a NumPy array, but of dtype '<f4': tokens are <u2, <i4, <u4 or <i8/],
    [file('>u2'), /of dtype '>u2'/],
    [file('|u1', '(16,)'), /of dtype '\|u1'/],
    [file('<i2'), /of dtype '<i2'/],
    [file('toString'), /of dtype 'toString'/],
    [file('<u2', '(9,)'), /holds 144 bytes, but its header says 146 \(9 tokens\)/],
    [file('<u2', '(7,)'), /holds 144 bytes, but its header says 142/],
    [file('<u2', '()'), /of 0 dimensions: tokens have one, or two in the order of rows/],
    [file('<u2', '(2, 2, 2)'), /of 3 dimensions/],
    [file('<u2', '(2, 4)', { order: 'True' }), /in the order of columns \(fortran_order\)/],
    [file('<u2', '(1e3,)'), /its header is not one that NumPy writes/],
    [file('<u2', '(99999999999999999999,)'), /its shape is none/],
    [file('<u2', "(8,), 'more': 1"), /its header is not one that NumPy writes/],
    [bytesOf([0x93], 'NUMPY', [4, 0, 10, 0], ' '.repeat(10)), /of version 4\.0, which is not known/],
    [file('<u2').subarray(0, 40), /its header is cut short/],
    [file('<u2').subarray(0, 8), /its header is cut short/],
    [llmcFile(tokens, { version: 2 }), /is a file of llm\.c of version 2, and only 1 has GPT-2's tokens/],
    [llmcFile(tokens, { count: 9 }), /holds 1040 bytes, but its header says 1042/],
    [llmcFile(tokens).subarray(0, 600), /is a file of llm\.c, but its header is cut short/],
    [llmcFile(tokens, { magic: 20240801, version: 7 }), /is tokens of Llama 3's in a file of llm\.c/],
    [llmcFile(tokens, { magic: 20240326 }), /is a GPT-2 model of llm\.c/],
  ];
  for (const [content, pattern] of cases) await rejects(read(content, 'tokens'), Error, pattern);
  for (const kind of ['text', 'jsonl'] as const) {
    await rejects(read(file('<u2'), kind), Error, /is a NumPy array: give it as kind 'tokens' \(--tokens\)/);
  }
  await rejects(
    read(file('<u2'), 'tokens', { dtype: 'int32' }),
    Error,
    /was given as tokens of int32, but its header says uint16/,
  );
});

test('tokens of four or eight bytes are seen, and read when they are asked for', async () => {
  for (const dtype of ['int32', 'uint32', 'int64'] as const) {
    const name = dtype === 'int64' ? 'int64' : 'int32';
    for (const list of [tokens, tokens.slice(0, 4), Array.from({ length: 70_000 }, (_, i) => i % 50_000)]) {
      const seen = new RegExp(
        `every other token 0: it looks like ${name} instead of uint16. Say .*--token-dtype ${name}`,
      );
      await rejects(read(raw(dtype, list), 'tokens'), Error, seen);
      assert.equal(await read(raw(dtype, list), 'tokens', { dtype }), list);
    }
  }
  const wide = Array.from({ length: 100 }, (_, i) => i * 1999);
  await rejects(read(raw('int32', wide), 'tokens'), Error, /every other token 3 at most: it looks like int32/);
  const big = Buffer.from(raw('int32')).swap32();
  const bigEndian =
    /it looks like big-endian or floating-point numbers\. Say dtype: 'uint16' \(--token-dtype uint16\) if/;
  await rejects(read(big, 'tokens'), Error, bigEndian);
  const low = [0, 5, 0, 6, 0, 7];
  await rejects(read(raw('uint16', low), 'tokens'), Error, bigEndian);
  assert.equal(await read(raw('uint16', low), 'tokens', { dtype: 'uint16' }), low);
  await rejects(
    read(raw('int32').subarray(0, 30), 'tokens', { dtype: 'int32' }),
    /holds 30 bytes, but .*multiple of 4/,
  );
  for (const [dtype, list] of [
    ['int32', [5, -1]],
    ['int64', [5, 2 ** 40]],
    ['uint32', [5, 50_257]],
  ] as const) {
    const byte = dtype === 'int64' ? 8 : 4;
    const none = new RegExp(`byte ${byte}: token ${list[1]} is none of the model's, which end at 50256`);
    await rejects(read(raw(dtype, list), 'tokens', { dtype }), none);
  }
  // What is uint16 stays that: few tokens, zeros, and all that is said to be.
  const r = random(9);
  for (const list of [
    [5, 0],
    [5, 0, 6, 0],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [1, 2, 1, 2, 1, 2, 1, 2, 3],
  ]) {
    assert.equal(await read(raw('uint16', list), 'tokens'), list);
  }
  const odd = [5, 0, 6, 0, 7, 0, 8, 0];
  assert.equal(await read(raw('uint16', odd), 'tokens', { dtype: 'uint16' }), odd);
  for (let round = 0; round < 50; round++) {
    const list = Array.from({ length: r.integer(1, 300) }, () => r.integer(0, 50_257));
    assert.equal(await read(raw('uint16', list), 'tokens'), list);
  }
});

test('text that is given as tokens is refused', async () => {
  for (const content of [text.repeat(2), 'Это было в понедельник, утром. ', `{"text": "${text.trim()}"}  `]) {
    const even = Buffer.from(content).subarray(0, Buffer.byteLength(content) & ~1);
    const kind = content.startsWith('{') ? "'jsonl' \\(--jsonl\\)" : "'text' \\(--text\\)";
    await rejects(read(even, 'tokens'), Error, new RegExp(`is text, and was given as tokens: give it as kind ${kind}`));
    const there = new Uint16Array(Uint8Array.from(even).buffer);
    if (there.every((token) => token < 50_257)) {
      assert.equal(await read(even, 'tokens', { asIs: true }), Array.from(there));
    }
  }
});

test('text with flaws that is given as tokens is refused, and tokens are not', async () => {
  const asText = /is text, and was given as tokens: give it as kind 'text' \(--text\); .*--as-is/;
  const latin = Buffer.from('Les élèves ont fêté Noël à la forêt. '.repeat(2), 'latin1');
  for (const content of [Buffer.from('\x1b[1mBold words, and others that are not. '), latin]) {
    await rejects(read(content.subarray(0, content.length & ~1), 'tokens'), Error, asText);
  }
  const little = Buffer.from(text, 'utf16le');
  const bom = Buffer.from(`\ufeff${text}`, 'utf16le');
  const utf16: [Buffer, string][] = [
    [little, 'UTF-16LE'],
    [Buffer.from(little).swap16(), 'UTF-16BE'],
    [bom, 'UTF-16'],
    [Buffer.from(bom).swap16(), 'UTF-16'],
  ];
  for (const [content, name] of utf16) {
    const pattern = new RegExp(`is ${name} text, and was given as tokens: .*iconv -f ${name} -t UTF-8.*--as-is`);
    await rejects(read(content, 'tokens'), Error, pattern);
  }
  const isTaken = (list: readonly number[]) => {
    const bytes = Buffer.from(raw('uint16', list));
    assert.is(tokenProblem({ bytes, isWhole: true }), undefined, String(list));
  };
  const stories = encode(await readFile(sampleText, 'utf8'));
  isTaken(stories);
  for (let at = 0; at < stories.length; at += 50) for (const n of [8, 9, 16, 40]) isTaken(stories.slice(at, at + n));
  const r = random(11);
  for (let round = 0; round < 3000; round++) {
    isTaken(Array.from({ length: r.integer(1, 60) }, () => r.integer(0, 50_257)));
  }
});

test('advice is for the kind that was given, and names --as-is where it works', async () => {
  const gzip = gzipSync(text.repeat(2), { level: 9 });
  const even = gzip.subarray(0, gzip.length & ~1);
  const asTokens = /is compressed with gzip: .*: zcat FILE \| sonde dump --tokens -; to take it for tokens .*--as-is/;
  await rejects(read(even, 'tokens'), Error, asTokens);
  await rejects(read(even, 'jsonl'), Error, /zcat FILE \| sonde dump --jsonl -$/);
  await rejects(read(even, 'text'), Error, /zcat FILE \| sonde dump -$/); // it is not UTF-8 in any case
  await rejects(
    read('%PDF-1.7\n', 'text'),
    Error,
    /is a PDF: .*; to take it for text all the same: asIs: true \(--as-is\)/,
  );
  assert.equal(await read('%PDF-1.7\n', 'text', { asIs: true }), encode('%PDF-1.7\n'));
  const named: [string, RegExp][] = [
    [
      'a.txt.gz',
      /a\.txt\.gz: is compressed with gzip, as its name says: .*zcat FILE \| sonde dump -; if it is no such/,
    ],
    ['a.bin.ZST', /is compressed with Zstandard, .*zstdcat FILE \| sonde dump --tokens -;/],
    ['a.jsonl.xz', /xzcat FILE \| sonde dump --jsonl -;/],
    ['x.npz', /is an archive of NumPy arrays \(\.npz\), as its name says: save the array of tokens alone/],
    ['x.pt', /is a file of torch\.save/],
    ['x.parquet', /is a Parquet file/],
    ['x.csv', /the kind of file is not clear from its name/],
    ['gz', /the kind of file is not clear from its name/],
  ];
  for (const [name, pattern] of named) await rejects(openCorpus(name), RangeError, pattern);
});

test('what a caller returns or lists that is no document, token or file is named', async () => {
  const files: [unknown, RegExp][] = [
    // biome-ignore lint/suspicious/noSparseArray: the hole is what is tested
    [[, 'x.bin'], /corpus must be file paths, .* but has undefined/],
    [[process.stdin], /corpus\[0\] must be a path or \{ path, kind \}, but is a \w+: '-' is standard input/],
    [['a.txt', Readable.from(['One.'])], /corpus\[1\] must be .*: documents are given alone, in no list/],
    [[items('One.')], /corpus\[0\] must be .*, but is a AsyncGenerator: documents are/],
  ];
  for (const [corpus, pattern] of files) await rejects(openCorpus(corpus as Corpus), TypeError, pattern);
  async function* items(...list: unknown[]) {
    yield* list as string[];
  }
  const ofItem = (item: unknown) => tokensOf(items(item));
  function* none() {}
  await rejects(ofItem(none()), TypeError, /item 0: must be a string or an array of tokens, but is a Generator$/);
  await rejects(ofItem(undefined), TypeError, /item 0: must be .*, but is undefined/);
  await rejects(ofItem([1n]), RangeError, /token 0: must be an integer from 0 to 50256, but is 1n$/);
  const iterables: [() => unknown, RegExp][] = [
    [
      () => undefined,
      /^corpus: \[Symbol\.asyncIterator\]\(\) of the iterable must return an iterator, but returned undefined/,
    ],
    [() => Promise.resolve(), /must return an iterator, but returned a Promise/],
    [
      () => ({ next: () => undefined }),
      /next\(\) of the iterable must return \{ value, done \}, but returned undefined/,
    ],
    [
      () => ({ next: () => ({ value: Promise.resolve('a'), done: false }) }),
      /item 0: must be a string or an array of tokens, but is a Promise/,
    ],
  ];
  for (const [make, pattern] of iterables) {
    await rejects(tokensOf({ [Symbol.asyncIterator]: make } as unknown as Corpus), TypeError, pattern);
  }
  let returns = 0;
  const endless = {
    next: async () => ({ value: 5, done: false }),
    return: async () => ({ value: returns++, done: true }),
  };
  await rejects(tokensOf({ [Symbol.asyncIterator]: () => endless } as unknown as Corpus), /but is 5/);
  assert.is(returns, 1);
  const fail = (cause: unknown) => () => {
    throw cause;
  };
  const encoders: [() => unknown, RegExp][] = [
    [() => undefined, /item 0: encode of the tokenizer must return an array of tokens, but returned undefined/],
    [async () => [5], /must return an array of tokens, but returned a Promise/],
    [() => Promise.reject(new Error('late')), /must return an array of tokens, but returned a Promise/],
    [() => [5, -1], /encode of the tokenizer must return integers of 0 or more, but returned -1/],
    [() => [0.5], /integers of 0 or more, but returned 0\.5/],
    [fail(null), /item 0: encode of the tokenizer threw null/],
    [fail(new Error('no words')), /item 0: no words/],
  ];
  for (const [wrong, pattern] of encoders) {
    const read = readCorpus(await openCorpus(items('One.')), { encode: wrong as never, nVocab: 50_257 });
    const { value: chunks } = await read.next();
    assert.throws(() => chunks.next(), pattern);
  }
});

test('streams of bytes are no documents, and files are described by what they are', async () => {
  for (const stream of [Readable.from(Buffer.from(text), { objectMode: false }), new Readable({ encoding: 'utf8' })]) {
    await rejects(
      openCorpus(stream),
      TypeError,
      /corpus is a stream of bytes .* no documents: give the path of a file/,
    );
  }
  assert.equal(await tokensOf(Readable.from(['One.', [5]])), [...encode('One.'), 5]);
  const wrong: [unknown, typeof TypeError | typeof RangeError, RegExp][] = [
    [
      { path: 'a', kind: 'text', asis: true },
      TypeError,
      /'asis' is no option of corpus\[0\]; the nearest one is 'asIs'/,
    ],
    [{ path: 'a', kind: 'text', asIs: 'yes' }, TypeError, /corpus\[0\]\.asIs must be true or false, but is 'yes'/],
    [{ path: 'a', kind: 'text', dtype: 'int32' }, RangeError, /corpus\[0\]\.dtype must be left out for text/],
    [
      { path: 'a', kind: 'tokens', dtype: 'int16' },
      RangeError,
      /dtype must be uint16, int32, uint32, int64, but is 'int16'/,
    ],
    [{ path: 5, kind: 'text' }, TypeError, /corpus\[0\]\.path must be a path, but is 5/],
    [['a.txt', null], TypeError, /corpus must be file paths, .* but has null/],
    [
      'https://example.com/a.txt',
      Error,
      /corpus file .*a\.txt: it is an address, and a corpus lies on a disk, or comes/,
    ],
    [[''], TypeError, /corpus\[0\] must be a path, but is ''/],
  ];
  for (const [corpus, kind, pattern] of wrong) await rejects(openCorpus(corpus as Corpus), kind, pattern);
  const twice = [{ path: '-', kind: 'jsonl' } as const, '-'];
  await rejects(openCorpus(twice), RangeError, /names standard input \('-'\) twice/);
});

test.run();
