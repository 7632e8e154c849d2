// A process that is killed before each single change that it makes to the folder: its files, journal, index, manifest and
// claims. Oracle: folders whose making was never disturbed, byte for byte. The store stands for the process: from some
// change on, nothing that it is asked for happens any more, and the claims that it holds are those of a dead process.
import { spawnSync } from 'node:child_process';
import { appendFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { indexCorpus } from '../../../src/dump/index_corpus.js';
import { dump } from '../../../src/dump/run.js';
import { mergeDumps } from '../../../src/dump/shards/merge.js';
import type { DumpOptions } from '../../../src/dump/shards/options.js';
import { thisProcess } from '../../../src/files/lease.js';
import { DiskStore } from '../../../src/files/store/disk_store.js';
import { unfinishedName } from '../../../src/files/store/store.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { contentsOf, sampleText } from '../folders.js';
import { makeIndex } from './making.js';

const test = suite('kill windows');
test.limit(180_000);
const model = await Transformer.load('demo');
const cut = { context: 16, shardTokens: 128 } as const;
const { pid: deadProcess } = spawnSync('true');

/** Runs body with a disk on which nothing happens from the given change on. Returns the changes, in order. */
async function withDeathAt(death: number, body: () => Promise<unknown>): Promise<string[]> {
  const changes: string[] = [];
  const methods = DiskStore.prototype;
  const usual = Object.fromEntries(
    Object.entries(Object.getOwnPropertyDescriptors(methods)).map(([name, { value }]) => [name, value]),
  ) as unknown as DiskStore;
  /** Whether the change happens; `torn` is what happens of it where it is the one that the process dies in. */
  const isMade = async (change: string, torn: () => Promise<unknown> = async () => {}): Promise<boolean> => {
    changes.push(change);
    if (changes.length === death + 1) await torn();
    return changes.length <= death;
  };
  const need = async (change: string, torn?: () => Promise<unknown>) => {
    if (!(await isMade(change, torn))) throw new Error('killed');
  };
  const written = (write: 'writeText' | 'writePieces') =>
    async function (this: DiskStore, file: string, content: string & Iterable<string>): Promise<void> {
      const text = typeof content === 'string' ? content : [...content].join('');
      const aside = this.pathOf(unfinishedName(file, '0123abcd'));
      await need(`write ${file}`, () => writeFile(aside, text.slice(0, text.length / 2)));
      await usual[write].call(this, file, content);
    };
  methods.writeText = written('writeText');
  methods.writePieces = written('writePieces');
  methods.append = async function (file) {
    await need(`open ${file}`);
    const appender = await usual.append.call(this, file);
    return {
      isFull: false,
      append: async (text) => {
        await need(`append to ${file}`, () => appendFile(this.pathOf(file), text.slice(0, text.length / 2)));
        await appender.append(text);
      },
      close: () => appender.close(),
    };
  };
  methods.remove = async function (file) {
    await need(`remove ${file}`);
    await usual.remove.call(this, file);
  };
  methods.draft = async function (file, tag, part) {
    await need(`begin ${file}`);
    const draft = await usual.draft.call(this, file, tag, part);
    return {
      ...draft,
      async publish() {
        await need(`publish ${file}`);
        await draft.publish();
      },
      async discard() {
        if (await isMade(`discard ${file}`)) await draft.discard();
        else await draft.handle.close().catch(() => {}); // it is closed already
      },
    };
  };
  methods.takeLease = async function (file) {
    await need(`take ${file}`);
    const lease = await usual.takeLease.call(this, file);
    if (typeof lease === 'string') return lease;
    return {
      lost: () => lease.lost(),
      release: async () => {
        const isReleased = await isMade(`release ${file}`);
        await lease.release();
        if (!isReleased) await writeFile(this.pathOf(file), JSON.stringify({ ...thisProcess(), pid: deadProcess }));
      },
    };
  };
  try {
    const failure = await body().then(
      () => undefined,
      (error: Error) => error,
    );
    if (failure && !/killed/.test(failure.message)) throw failure;
  } finally {
    Object.assign(methods, usual);
  }
  return changes;
}

interface Way {
  readonly make: (out: string) => Promise<unknown>;
  /** Changes before which there must be a window. */
  readonly windows: readonly RegExp[];
}

/** Dies before each change of `make` in turn; `goOn`, which is the same when left out, then makes the same folder. */
async function diesAnywhere(folder: string, { make, windows }: Way, goOn = make): Promise<void> {
  const [whole, out] = [join(folder, 'whole'), join(folder, 'out')];
  const all = await withDeathAt(Number.POSITIVE_INFINITY, () => make(whole));
  if (goOn !== make) await goOn(whole);
  const expected = await contentsOf(whole);
  let at = -1;
  for (const window of windows) {
    at = all.findIndex((change, i) => i > at && window.test(change));
    assert.ok(at >= 0, `${window} after those before it, in ${all.join(', ')}`);
  }
  for (let death = 0; death < all.length; death++) {
    const label = `killed at ${death}, ${all[death]}`;
    await mkdir(out);
    await withDeathAt(death, () => make(out));
    try {
      await goOn(out);
    } catch (cause) {
      throw new Error(`${label}: ${(cause as Error).message}`, { cause });
    }
    assert.equal(await contentsOf(out), expected, label);
    await rm(out, { recursive: true });
  }
  await rm(whole, { recursive: true });
}

/** A text that makes five shards, and the request for its dump. */
const withText = (body: (folder: string, request: (out: string) => DumpOptions) => Promise<void>): Promise<void> =>
  withFolder(async (folder) => {
    const corpus = join(folder, 'corpus.txt');
    const stories = (await readFile(sampleText, 'utf8')).replaceAll('<|endoftext|>', '').slice(0, 2_000);
    await writeFile(corpus, (stories.match(/.{1,450}/gs) ?? []).join('<|endoftext|>'));
    await body(folder, (out) => ({ model, corpus, locations: ['resid/post_emb'], out, ...cut }));
  });

test('a dump, killed before any of its changes, goes on to the same bytes', () =>
  withText((folder, request) =>
    diesAnywhere(folder, {
      make: (out) => dump(request(out)),
      windows: [
        /^write manifest/,
        /^append to journal/,
        /^take index\.jsonl\.claim/,
        /^append to index/,
        /^write manifest/,
        /^remove journal/,
        /^release index\.jsonl\.claim/,
      ],
    }),
  ));

test('so does an index', () =>
  withText((folder, request) =>
    diesAnywhere(folder, {
      make: (out) => indexCorpus({ corpus: request(out).corpus as string, out, ...cut }),
      windows: [/^take index\.jsonl\.claim/, /^append to index/, /^release index\.jsonl\.claim/],
    }),
  ));

test('a dump goes on with an index that was killed, and an index with a dump', () =>
  withText(async (folder, request) => {
    const index = (out: string) => indexCorpus({ corpus: request(out).corpus as string, out, ...cut });
    const whole = (out: string) => dump(request(out));
    await diesAnywhere(folder, { make: index, windows: [] }, whole);
    await diesAnywhere(folder, { make: whole, windows: [] }, async (out) => {
      await index(out);
      await whole(out);
    });
  }));

test('and so do parts, before they are merged', () =>
  withText(async (folder, request) => {
    const part = (out: string, index: number) => dump({ ...request(out), shard: { index, count: 2 } });
    await diesAnywhere(
      folder,
      { make: (out) => part(out, 0), windows: [/^append to index/, /^append to journal-0/, /^write manifest-0/] },
      async (out) => {
        for (const index of [1, 0]) await part(out, index);
        await mergeDumps(out);
      },
    );
    const merged = join(folder, 'merged');
    for (const index of [0, 1]) await part(merged, index);
    await mergeDumps(merged);
    await dump(request(join(folder, 'one')));
    assert.equal(await contentsOf(merged), await contentsOf(join(folder, 'one')));
  }));

test('an index in slices, killed before any of its changes, is made by the next process, a dump or a part', () =>
  withFolder(async (folder) => {
    const stories = (await readFile(sampleText, 'utf8')).replaceAll('<|endoftext|>', '');
    const files = Array.from({ length: 4 }, (_, i) => join(folder, `${i}.txt`));
    for (const [i, file] of files.entries()) await writeFile(file, stories.slice(2200 * i, 2200 * (i + 1)));
    const sliced = async (out: string) => {
      await mkdir(out, { recursive: true });
      const making = { files, context: cut.context, rowsPerShard: cut.shardTokens / cut.context, sliceBytes: 2200 };
      assert.is((await makeIndex(new DiskStore(out), making)).slices, 4);
    };
    const windows = [
      /^take index\.jsonl\.slice-0\.claim/,
      /^write index\.jsonl\.slice-0\.summary/,
      /^take index\.jsonl\.slice-1\.claim/,
      /^write index\.jsonl\.slice-0\.entries/,
      /^release index\.jsonl\.slice-0\.claim/,
      /^write index\.jsonl\.slice-3\.entries/,
      /^take index\.jsonl\.claim/,
      /^write index\.jsonl/,
      /^remove index\.jsonl\.slice-/,
      /^release index\.jsonl\.claim/,
    ];
    await diesAnywhere(folder, { make: sliced, windows });
    const request = { model, corpus: files, locations: ['resid/post_emb'], ...cut };
    await diesAnywhere(folder, { make: sliced, windows }, (out) => dump({ ...request, out }));
    const part = (out: string) => dump({ ...request, out, shard: { index: 1, count: 20 } });
    await diesAnywhere(folder, { make: sliced, windows }, part);
  }));

test('an index of which a part was written before the disk failed is whole when the same process writes it again', () =>
  withText(async (folder, request) => {
    const [whole, out] = [join(folder, 'whole'), join(folder, 'out')];
    await dump(request(whole));
    const { append } = DiskStore.prototype;
    let failures = 0;
    DiskStore.prototype.append = async function (file) {
      const appender = await append.call(this, file);
      if (file !== 'index.jsonl' || failures > 0) return appender;
      const fails = async (text: string) => {
        failures++;
        await appender.append(text.slice(0, text.length / 2));
        throw new Error('the disk failed');
      };
      return { isFull: false, append: fails, close: () => appender.close() };
    };
    try {
      await rejects(dump(request(out)), /index\.jsonl: the disk failed/);
    } finally {
      DiskStore.prototype.append = append;
    }
    assert.is(failures, 1);
    assert.is(await readFile(join(out, 'index.jsonl'), 'utf8'), await readFile(join(whole, 'index.jsonl'), 'utf8'));
    await dump(request(out));
    assert.equal(await contentsOf(out), await contentsOf(whole));
  }));

test.run();
