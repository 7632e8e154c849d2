// A corpus that is not what it was when its index was made, though it has the same size. Oracle: an undisturbed dump where
// it goes on, and the name of the file and the place in the error where it must not.
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { shardFile } from '../../../src/dump/format/manifest.js';
import { indexCorpus } from '../../../src/dump/index_corpus.js';
import { dump } from '../../../src/dump/run.js';
import type { DumpOptions } from '../../../src/dump/shards/options.js';
import { planShards, ShardSession } from '../../../src/dump/workers/shard_session.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { testDevice } from '../../support/device.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { assertSameFolder, sampleText } from '../folders.js';

const test = suite('changed corpus');
test.limit(120_000);
const device = testDevice();
const model = await Transformer.load('demo');
const cut = { context: 16, shardTokens: 128 } as const;

interface Made {
  readonly at: (name: string) => string;
  readonly request: (out: string, changes?: Partial<DumpOptions>) => DumpOptions;
  /** The last byte before a share of the text at which a word begins with t. */
  readonly byteAt: (share: number) => number;
}

/** Makes the dump `whole` of a text of several thousand documents and some tens of shards. */
const withDump = (body: (made: Made) => Promise<void>): Promise<void> =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const stories = (await readFile(sampleText, 'utf8')).replaceAll('<|endoftext|>', '').slice(0, 12_000);
    const text = (stories.match(/.{1,450}/gs) ?? []).join('<|endoftext|>');
    await writeFile(at('corpus.txt'), text);
    const request = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
      ...{ model, corpus: at('corpus.txt'), locations: ['resid/post_emb'], out: at(out), ...cut, ...changes },
    });
    const { shards } = await dump(request('whole'));
    assert.ok(shards > 20);
    await body({ at, request, byteAt: (share) => text.lastIndexOf(' t', share * text.length) + 1 });
  });

/** Replaces a letter, so that the file has as many bytes as before. */
async function change(path: string, at: number): Promise<void> {
  const bytes = await readFile(path);
  assert.is(String.fromCharCode(bytes[at] as number), 't');
  bytes[at] = 'T'.charCodeAt(0);
  await writeFile(path, bytes);
}

/** The last shard that begins at a byte of the text or before it, by the index. */
async function shardAt(index: string, at: number): Promise<number> {
  const lines = (await readFile(index, 'utf8')).split('\n').slice(1, -2);
  const entries = lines.map((line) => JSON.parse(line.slice(17)) as { shard: number; offset: number });
  return entries.findLast(({ offset }) => offset <= at)?.shard as number;
}

const hasChanged =
  /^dump: the corpus has changed since its index was made: \S+corpus\.txt, from byte \d+ on, has other/;

test('a dump with an index that was made before it is the dump that makes its own', () =>
  withDump(async ({ at, request }) => {
    await indexCorpus({ corpus: at('corpus.txt'), out: at('out'), ...cut });
    await assertSameIndex(at);
    const { written } = await dump(request('out'));
    assert.ok(written > 20);
    await assertSameFolder(at('out'), at('whole'));
    const again = await indexCorpus({ corpus: at('corpus.txt'), out: at('out'), ...cut });
    assert.is(again.bytesRead, 0);
    await assertSameFolder(at('out'), at('whole'));
    for (const name of await readdir(at('out'))) if (name !== 'index.jsonl') await rm(at(`out/${name}`));
    for (const index of [0, 1]) {
      await dump(request('out', { shard: { index, count: 2 } })); // of the same folder, with the same index
      await assertSameIndex(at);
    }
  }));

async function assertSameIndex(at: (name: string) => string): Promise<void> {
  assert.is(await readFile(at('out/index.jsonl'), 'utf8'), await readFile(at('whole/index.jsonl'), 'utf8'));
}

test('a complete dump without an index goes on, and gets one', () =>
  withDump(async ({ at, request }) => {
    await cp(at('whole'), at('out'), { recursive: true });
    await rm(at('out/index.jsonl'));
    assert.is((await dump(request('out'))).written, 0);
    await assertSameFolder(at('out'), at('whole'));
    await rm(at('out/index.jsonl'));
    await rm(at(`out/${shardFile(3)}`));
    assert.is((await dump(request('out'))).written, 1);
    await assertSameFolder(at('out'), at('whole'));
  }));

for (const [what, isMissing] of [
  ['finished', false],
  ['missing', true],
] as const) {
  test(`a letter that changed in a ${what} shard is an error with its place, at the beginning or later`, () =>
    withDump(async ({ at, request, byteAt }) => {
      for (const share of [0.1, 0.5, 0.9]) {
        await cp(at('whole'), at('out'), { recursive: true });
        await cp(at('corpus.txt'), at('kept.txt'));
        const byte = byteAt(share);
        const shard = await shardAt(at('whole/index.jsonl'), byte);
        if (isMissing) for (const near of [-1, 0, 1]) await rm(at(`out/${shardFile(shard + near)}`));
        await change(at('corpus.txt'), byte);
        const named = new RegExp(`${hasChanged.source}|shard-\\d+\\.safetensors is of another corpus: at row \\d`);
        await rejects(dump(request('out')), Error, isMissing ? hasChanged : named);
        await cp(at('kept.txt'), at('corpus.txt'));
        await dump(request('out'));
        await assertSameFolder(at('out'), at('whole'));
        await rm(at('out'), { recursive: true });
      }
    }));
}

test('whatever changes in the text of finished shards is found, where they have some kilobytes each', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const stories = (await readFile(sampleText, 'utf8')).slice(0, 120_000);
    const cyrillic = stories.replaceAll(/[a-z]/g, (letter) => String.fromCodePoint(0x3d0 + letter.charCodeAt(0)));
    const corpora: Record<string, [name: string, content: string][]> = {
      text: [['a.txt', stories]],
      cyrillic: [['b.txt', cyrillic.slice(0, 40_000)]],
      lines: [['c.jsonl', `{"text": ${JSON.stringify(cyrillic.slice(0, 20_000))}}\n`]],
      files: Array.from({ length: 40 }, (_, i) => [`${i}.txt`, stories.slice(500 * i, 500 * i + 500)]),
    };
    for (const [name, files] of Object.entries(corpora)) {
      for (const [file, content] of files) await writeFile(at(file), content);
      const corpus = files.map(([file]) => at(file));
      const request = { model, corpus, locations: ['resid/post_emb'], out: at(name), context: 16, shardTokens: 2048 };
      const { shards } = await dump(request);
      assert.ok(shards >= 2, name);
      const all = Buffer.concat(files.map(([, content]) => Buffer.from(content)));
      for (const share of [0.03, 0.21, 0.38, 0.5, 0.62, 0.79, 0.97]) {
        let byte = Math.floor(share * all.length);
        const file = files.find(([, content]) => {
          const size = Buffer.byteLength(content);
          if (byte < size) return true;
          byte -= size;
          return false;
        })?.[0] as string;
        const kept = await readFile(at(file));
        const changed = Buffer.from(kept);
        while (changed[byte] !== 0x20 || changed[byte - 1] === 0x20 || changed[byte + 1] === 0x20) byte--;
        changed[byte] = 0x2d;
        await writeFile(at(file), changed);
        const named = new RegExp(
          `${file}|\\d+\\.txt, or a file behind it up to|shard-\\d+\\.safetensors is of another corpus`,
        );
        await rejects(dump(request), Error, named);
        await writeFile(at(file), kept);
        assert.is((await dump(request)).written, 0);
      }
    }
  }));

test('a letter that changed is found by the part that has it, and by a session', () =>
  withDump(async ({ at, request, byteAt }) => {
    await cp(at('corpus.txt'), at('kept.txt'));
    const byte = byteAt(0.6);
    const shard = await shardAt(at('whole/index.jsonl'), byte);
    await indexCorpus({ corpus: at('corpus.txt'), out: at('parts'), ...cut });
    const plan = await planShards({
      ...{ model: 'demo', corpus: [at('corpus.txt')], locations: ['resid/post_emb'], out: at('made'), ...cut },
    });
    await change(at('corpus.txt'), byte);
    // The letter is in the shard, or in the one before it, which ends behind the place where this one's reading begins.
    const count = 2;
    const results = await Promise.allSettled(
      [0, 1].map((index) => dump(request('parts', { shard: { index, count } }))),
    );
    const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as Error] : []));
    assert.ok(failures.length > 0);
    for (const { message } of failures) assert.match(message, hasChanged);
    const session = await ShardSession.open(plan, { device });
    try {
      await session.make(0);
      await session.make(plan.count - 1);
      const near = [shard - 1, shard, shard + 1];
      const made = await Promise.allSettled(near.map((number) => session.make(number)));
      const failed = near.filter((_, i) => made[i]?.status === 'rejected');
      assert.ok(failed.length > 0);
      for (const number of failed) await rejects(session.make(number), Error, hasChanged);
      await rm(at('corpus.txt'));
      await cp(at('kept.txt'), at('corpus.txt')); // another file than the one that was open
      for (const number of near) await session.make(number);
    } finally {
      await session.close();
    }
    for (const index of [0, 1]) await dump(request('parts', { shard: { index, count } }));
    const [one, two] = await Promise.all(
      ['parts', 'whole'].map((out) => readFile(at(`${out}/${shardFile(shard)}`), 'latin1')),
    );
    assert.is(one, two);
  }));

test('a line that was mended after a run that failed at it', () =>
  withFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const stories = (await readFile(sampleText, 'utf8')).replaceAll('<|endoftext|>', '').slice(0, 12_000);
    const lines = (stories.match(/.{1,450}/gs) ?? []).map((text) => JSON.stringify({ text }));
    const corpus = at('corpus.jsonl');
    const request = (out: string): DumpOptions => ({
      ...{ model, corpus, locations: ['resid/post_emb'], out: at(out), ...cut },
    });
    const broken = lines.map((line, i) => (i === 17 ? line.replace('"text":', '"text" ') : line));
    await writeFile(corpus, lines.join('\n'));
    await dump(request('whole'));
    await writeFile(corpus, broken.join('\n'));
    const named = /corpus\.jsonl, line 18: is not valid JSON/;
    await rejects(dump(request('out')), Error, named);
    const made = (await readdir(at('out'))).filter((name) => name.startsWith('shard-'));
    assert.ok(made.length > 5, String(made));
    assert.ok((await readdir(at('out'))).includes('index.jsonl'), 'what is known of the index stays');
    await rejects(indexCorpus({ corpus, out: at('index'), ...cut }), Error, named);
    await writeFile(corpus, lines.join('\n'));
    await dump(request('out'));
    await assertSameFolder(at('out'), at('whole'));
    await indexCorpus({ corpus, out: at('index'), ...cut });
    assert.is(await readFile(at('index/index.jsonl'), 'utf8'), await readFile(at('whole/index.jsonl'), 'utf8'));
  }));

test.run();
