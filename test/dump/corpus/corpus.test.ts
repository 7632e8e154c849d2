// Oracle: the rule for documents, written out by hand.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { type Corpus, openCorpus, readCorpus } from '../../../src/dump/corpus/corpus.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';

const test = suite('corpus');
const { encode } = gpt2Tokenizer();
const mark = 50256;

async function documentsOf(corpus: Corpus, nVocab = 50257): Promise<number[][]> {
  const documents: number[][] = [[]];
  for await (const chunks of readCorpus(await openCorpus(corpus), { encode, nVocab })) {
    for (const { tokens, ends } of chunks) {
      documents.at(-1)?.push(...Array.from(tokens));
      if (ends) documents.push([]);
    }
  }
  assert.equal(documents.pop(), [], 'the last document was not ended');
  return documents;
}

async function withFile(
  name: string,
  content: string | Uint8Array,
  body: (path: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    const path = join(folder, name);
    await writeFile(path, content);
    await body(path);
  });
}

const tokenBytes = (...tokens: number[]): Uint8Array => new Uint8Array(Uint16Array.from(tokens).buffer);

test('a text file is cut into documents behind each end-of-text mark', async () => {
  await withFile('a.txt', '\ufeffOne.<|endoftext|>Two words<|endoftext|><|endoftext|>é', async (path) => {
    const expected = [[...encode('One.'), mark], [...encode('Two words'), mark], [mark], encode('é')];
    assert.equal(await documentsOf(path), expected);
  });
  await withFile('a.txt', 'One.<|endoftext|>', async (path) => {
    assert.equal(await documentsOf(path), [[...encode('One.'), mark]]);
  });
  await withFile('a.txt', '', async (path) => assert.equal(await documentsOf(path), []));
});

test('characters that lie across chunks are whole', async () => {
  const text = 'a漢字 é😀'.repeat(40_000);
  await withFile('a.txt', text, async (path) => assert.equal(await documentsOf(path), [encode(text)]));
});

test('each line of a .jsonl file is a document, marks included', async () => {
  const lines = ['{"text": "One.\\nTwo"}', '', '{"id": 3, "text": "a<|endoftext|>b"}\r', '{"text": ""}'];
  await withFile('a.jsonl', lines.join('\n'), async (path) => {
    assert.equal(await documentsOf(path), [encode('One.\nTwo'), [...encode('a'), mark, ...encode('b')], []]);
  });
});

test('a token file is cut behind each mark', async () => {
  await withFile('a.bin', tokenBytes(1, 2, mark, 3, mark, mark, 4), async (path) => {
    assert.equal(await documentsOf(path), [[1, 2, mark], [3, mark], [mark], [4]]);
  });
  const long = Array.from({ length: 100_001 }, (_, i) => i % 50_000);
  await withFile('a.bin', tokenBytes(...long), async (path) => assert.equal(await documentsOf(path), [long]));
});

test('items are documents; several files follow one another', async () => {
  async function* items() {
    yield 'One.';
    yield [5, 6, mark, 7];
    yield '';
  }
  assert.equal(await documentsOf(items()), [encode('One.'), [5, 6, mark, 7], []]);
  await withFolder(async (folder) => {
    await writeFile(join(folder, 'a'), 'One');
    await writeFile(join(folder, 'b.bin'), tokenBytes(9));
    const files: Corpus = [{ path: join(folder, 'a'), kind: 'text' }, join(folder, 'b.bin')];
    assert.equal(await documentsOf(files), [encode('One'), [9]]);
  });
});

test('an error in a file is reported with its location', async () => {
  const cases: [string, string | Uint8Array, RegExp][] = [
    ['a.txt', Buffer.from([0x61, 0x62, 0xff, 0x63]), /a\.txt, byte 2: not valid UTF-8 \(0xff\)/],
    ['a.txt', Buffer.concat([Buffer.alloc(70_000, 'ab '), Buffer.from([0xc3, 0x28])]), /a\.txt, byte 70001: not valid/],
    ['a.txt', Buffer.from('abc é').subarray(0, 5), /a\.txt, byte 5: not valid UTF-8: the text ends inside a character/],
    ['a.jsonl', '{"text": "a"}\n{"text": "b', /a\.jsonl, line 2: is not valid JSON/],
    ['a.jsonl', '{"text": "a"}\n\n{"txt": "b"}', /a\.jsonl, line 3: must be an object with a string named "text"/],
    ['a.jsonl', '{"text": 5}', /a\.jsonl, line 1: must be .* but that is number/],
    ['a.jsonl', 'null', /a\.jsonl, line 1: must be an object/],
    ['a.bin', Buffer.from([1, 2, 3]), /a\.bin: holds 3 bytes, but tokens of two bytes/],
    ['a.bin', tokenBytes(1, 2, 50_300), /a\.bin, byte 4: token 50300 is none of the model's, which end at 50256/],
    ['a.xyz', 'text', /a\.xyz: the kind of file is not clear/],
  ];
  for (const [name, content, pattern] of cases) {
    await withFile(name, content, async (path) => {
      await rejects(documentsOf(path), Error, pattern);
    });
  }
  await rejects(openCorpus('/does/not/exist.txt'), Error, /exist\.txt: there is no such file/);
  await rejects(openCorpus({ path: '/', kind: 'text' }), Error, /it is not a file/);
  await rejects(openCorpus([]), RangeError, /one file at least/);
  await rejects(openCorpus(5 as never), TypeError, /file paths/);
  await rejects(openCorpus(['-', '-']), RangeError, /standard input \('-'\) twice/);
});

test('a file whose size changes while it is read is named', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const lines = '{"text": "One."}\n'.repeat(40_000);
    const contents: Record<string, string | Uint8Array> = {
      'a.txt': 'One. '.repeat(120_000),
      'a.jsonl': lines,
      'a.bin': new Uint8Array(Uint16Array.from({ length: 200_000 }, (_, i) => i % 50_000).buffer),
    };
    await writeFile(at('first.txt'), 'First.');
    for (const [name, content] of Object.entries(contents)) {
      for (const size of [0, content.length / 2, content.length - 2, content.length + 2]) {
        await writeFile(at(name), content);
        const read = async () => {
          const sources = await openCorpus([at('first.txt'), at(name)]);
          const chunks = readCorpus(sources, { encode, nVocab: 50_257 });
          await chunks.next();
          const longer = Buffer.concat([Buffer.from(content), Buffer.from('  ')]);
          await writeFile(at(name), longer.subarray(0, size));
          for await (const _ of chunks);
        };
        const where = `(ends at byte ${size} now|goes on behind byte ${content.length})`;
        await rejects(read(), Error, new RegExp(`^dump: \\S+${name}: ${where}, but held ${content.length} bytes`));
      }
    }
  }));

test('wrong items and tokens that a small model lacks are refused', async () => {
  async function* items(...list: unknown[]) {
    yield* list as string[];
  }
  await rejects(documentsOf(items('a', 5)), TypeError, /item 1: must be a string or an array of tokens, but is 5/);
  await rejects(
    documentsOf(items([1, -1])),
    RangeError,
    /item 0, token 1: must be an integer from 0 to 50256, but is -1/,
  );
  await rejects(documentsOf(items([1, 0.5])), RangeError, /token 1/);
  await rejects(documentsOf(items('hello there'), 100), RangeError, /item 0: the text has token \d+.* end at 99/);
});

test('a corpus that is stopped before it begins is not read, nor is standard input', async () => {
  const signal = AbortSignal.abort(new Error('stopped'));
  await rejects(readCorpus(await openCorpus('-'), { encode, nVocab: 50257, signal }).next(), /stopped/);
});

test.run();
