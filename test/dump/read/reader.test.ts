// Oracle: a dump that is whole, and the same with one thing wrong.
import { existsSync } from 'node:fs';
import {
  appendFile,
  cp,
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { type Dump, openDump } from '../../../src/dump/read/reader.js';
import { dump } from '../../../src/dump/run.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { sampleText } from '../folders.js';

const test = suite('openDump');
const model = await Transformer.load('demo');
const latents = '1/resid/delta_mlp/latents';

async function* documents() {
  for (let i = 0; i < 10; i++) yield `It was a windy Monday, number ${i}. The wind moved the trees.`;
}

const withDump = (body: (out: string) => Promise<void>): Promise<void> =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    const locations = ['resid/post_emb', '1/resid/delta_mlp -> ae-resid-delta-mlp'];
    await dump({ model, corpus: documents(), locations, out, context: 8, shardTokens: 32 });
    await body(out);
  });

const opened = async (out: string, body: (dump: Dump) => Promise<void>): Promise<void> => {
  await using made = await openDump(out);
  await body(made);
};

async function changeManifest(out: string, change: (manifest: never) => void): Promise<void> {
  const path = join(out, 'manifest.json');
  const manifest = JSON.parse(await readFile(path, 'utf8'));
  change(manifest as never);
  await writeFile(path, JSON.stringify(manifest));
}

async function changeBytes(path: string, at: number, ...bytes: number[]): Promise<void> {
  const handle = await open(path, 'r+');
  await handle.write(Uint8Array.from(bytes), 0, bytes.length, at);
  await handle.close();
}

test('any range of rows is that part of all rows', () =>
  withDump((out) =>
    opened(out, async (made) => {
      assert.ok(made.shards.length > 3);
      const [dense, sparse, all] = [await made.rows('resid/post_emb'), await made.rows(latents), await made.tokens()];
      for (const [from, to] of [
        [0, 1],
        [3, 9],
        [5, 5],
        [made.rowCount - 1, made.rowCount],
      ] as [number, number][]) {
        const part = await made.rows('resid/post_emb', from, to);
        assert.equal(part.shape, [to - from, 8, 64]);
        assert.equal(part.data, dense.data.slice(from * 8 * 64, to * 8 * 64));
        const tokens = await made.tokens(from, to);
        assert.equal(tokens.tokens, all.tokens.slice(from * 8, to * 8));
        assert.equal(tokens.document, all.document.slice(from * 8, to * 8));
        const csr = await made.rows(latents, from, to);
        const [a, b] = [Number(sparse.rowPtr[from * 8]), Number(sparse.rowPtr[to * 8])];
        assert.equal(csr.indices, sparse.indices.slice(a, b));
        assert.equal(csr.values, sparse.values.slice(a, b));
        assert.equal(
          [...csr.rowPtr],
          [...sparse.rowPtr.slice(from * 8, to * 8 + 1)].map((p) => p - BigInt(a)),
        );
      }
      await rejects(made.rows('resid/post_emb', 5, made.rowCount + 1), RangeError, /rows must be a range within 0 to/);
      await rejects(made.rows('resid/post_emb', -1, 2), RangeError, /range/);
      await rejects(
        made.rows('5/mlp/nothing'),
        RangeError,
        /has no "5\/mlp\/nothing"; it has resid\/post_emb, 1\/resid/,
      );
      await made.close();
      await rejects(made.rows('resid/post_emb'), Error, /was closed/);
      await rejects(made.verify(), Error, /was closed/);
    }),
  ));

test('a dump of any number of shards is read with few open files', () =>
  withFolder(async (out) => {
    await dump({
      model,
      corpus: sampleText,
      locations: 'resid/post_emb',
      out,
      limit: 640,
      context: 32,
      shardTokens: 32,
    });
    await opened(out, async (made) => {
      assert.is(made.shards.length, 20);
      const openNow = async () => {
        const links = (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => ''));
        return (await Promise.all(links)).filter((path) => path.startsWith(out)).length;
      };
      const all = await made.rows('resid/post_emb');
      if (existsSync('/proc/self/fd')) assert.is(await openNow(), 8);
      const ranges = Array.from({ length: 20 }, (_, row) => made.rows('resid/post_emb', row, row + 1)); // all at once
      const parts = await Promise.all(ranges);
      parts.forEach(({ data }, row) => {
        assert.equal(data, all.data.slice(row * data.length, (row + 1) * data.length));
      });
      if (existsSync('/proc/self/fd')) assert.is(await openNow(), 8);
      await made.close();
      if (existsSync('/proc/self/fd')) assert.is(await openNow(), 0);
    });
  }));

test('a manifest from before there was a choice of positions and files', () =>
  withDump(async (out) => {
    const path = join(out, 'manifest.json');
    const { drop, sample, statistics, parquet, ...before } = JSON.parse(await readFile(path, 'utf8'));
    assert.equal([drop, sample, statistics, parquet], [[], 1, false, false]);
    await writeFile(path, JSON.stringify(before));
    await opened(out, async (made) => assert.equal(await made.verify(), []));
  }));

test('verify names what was damaged', () =>
  withDump(async (out) => {
    await opened(out, async (made) => assert.equal(await made.verify(), []));
    const shard = (n: number) => join(out, `shard-0000${n}.safetensors`);
    const { length } = await readFile(shard(0));
    await changeBytes(shard(0), length - 1, 0x55);
    await appendFile(shard(1), 'x');
    await rm(shard(2));
    await changeBytes(shard(3), 12, 0x55);
    await cp(shard(4), join(out, 'shard-00099.safetensors'));
    await writeFile(join(out, 'shard-00005.safetensors.00ff00ff.partial'), '');
    await opened(out, async (made) => {
      const problems = new Map((await made.verify()).map(({ file, problem }) => [file, problem]));
      assert.match(
        problems.get('shard-00000.safetensors') ?? '',
        /^its SHA-256 is [0-9a-f]{64}, but the manifest says/,
      );
      assert.match(problems.get('shard-00001.safetensors') ?? '', /^holds \d+ bytes, but the manifest says \d+/);
      assert.is(problems.get('shard-00002.safetensors'), 'is missing');
      assert.match(problems.get('shard-00003.safetensors') ?? '', /^its header/);
      assert.is(problems.get('shard-00099.safetensors'), 'is not listed in the manifest');
      assert.match(
        problems.get('shard-00005.safetensors.00ff00ff.partial') ?? '',
        /^is an unfinished piece of shard-00005/,
      );
      assert.is(problems.size, 6);
      await rejects(made.rows('resid/post_emb'), /shard-00001\.safetensors: holds/);
    });
  }));

test('a shard under the name of another is found', () =>
  withDump(async (out) => {
    await rename(join(out, 'shard-00000.safetensors'), join(out, 'x'));
    await rename(join(out, 'shard-00001.safetensors'), join(out, 'shard-00000.safetensors'));
    await rename(join(out, 'x'), join(out, 'shard-00001.safetensors'));
    await opened(out, async (made) => {
      const files = (await made.verify()).map(({ file }) => file);
      assert.equal([...new Set(files)], ['shard-00000.safetensors', 'shard-00001.safetensors']);
    });
  }));

test('a manifest from anywhere cannot lead out of the folder, nor ask for the absurd', async () => {
  type Change = [(manifest: never) => void, RegExp];
  const shards = (change: object) => (m: { shards: object[] }) => Object.assign(m.shards[0] as object, change);
  const changes: [(m: never) => void, RegExp][] = [
    [shards({ file: '../secret.safetensors' }), /its "shards" is not as it should be/],
    [shards({ file: '/etc/passwd' }), /its "shards"/],
    [shards({ file: 'shard-00000.safetensors/../../x' }), /its "shards"/],
    [shards({ file: 'shard-00001.safetensors' }), /its shards are not in order/],
    [shards({ rows: -1 }), /its "shards"/],
    [shards({ rows: 1e300 }), /its "shards"/],
    [shards({ tokens: 1000 }), /more tokens than its rows hold/],
    [shards({ sha256: 'abc' }), /its "shards" is not as it should be: shards\[0\]\.sha256 must be/],
    [
      shards({ rows: 2 ** 20, tokens: 1 }),
      /shard-00000\.safetensors has 1048576 rows, which its \d+ bytes cannot hold/,
    ],
    [shards({ rows: 2 ** 30, bytes: 2 ** 50 }), /a shard of 1073741824 rows of 8 tokens is too large/],
    [(m: { locations: object[] }) => m.locations.push(m.locations[0] as object), /it has a location twice/],
    [
      (m: { locations: { shape: number[] }[] }) => (m.locations[0] as { shape: number[] }).shape.push(2 ** 30, 2 ** 30),
      /its "locations" is not as it should be: locations\[0\]\.shape must be sizes of/,
    ],
    [
      (m: { autoencoders: { latents: number }[] }) => ((m.autoencoders[0] as { latents: number }).latents = 2 ** 30),
      /autoencoders\[0\]\.latents must be an integer from 1 to 67108864, but is 1073741824/,
    ],
    [(m: { context: unknown }) => (m.context = '8'), /its "context"/],
    [(m: { context: unknown }) => (m.context = 2 ** 40), /its "context"/],
    [(m: { context: unknown }) => (m.context = 9), /shape does not begin with "context"/],
    [(m: { dtype: unknown }) => (m.dtype = 'constructor'), /its "dtype"/],
    [(m: { format: unknown }) => (m.format = 'other'), /its "format" is not "sonde dump"/],
    [(m: { version: unknown }) => (m.version = 2), /its version is 2, and this program reads version 1/],
    [(m: { part: unknown }) => (m.part = { index: 1, count: 1 }), /its "part"/],
    [(m: { part: unknown }) => (m.part = { index: 0, count: 2 }), /another part/],
    [(m: { locations: unknown }) => (m.locations = {}), /its "locations"/],
    [(m: { autoencoders: unknown }) => (m.autoencoders = [null]), /its "autoencoders"/],
  ] as Change[];
  for (const [change, pattern] of changes) {
    await withDump(async (out) => {
      await changeManifest(out, change);
      await rejects(openDump(out), Error, pattern);
    });
  }
});

test('broken manifests and folders without one are refused', () =>
  withFolder(async (folder) => {
    await rejects(openDump(join(folder, 'none')), Error, /openDump: .*none: there is no such folder/);
    await rejects(openDump(folder), Error, /has no manifest\.json, so it is not a dump/);
    for (const text of ['', '{', 'null', '[]', '5', '"x"']) {
      await writeFile(join(folder, 'manifest.json'), text);
      await rejects(openDump(folder), Error, /manifest\.json: (cannot be read|is not a manifest)/);
    }
    await rm(join(folder, 'manifest.json'));
    await mkdir(join(folder, 'manifest.json'));
    await rejects(openDump(folder), Error, /manifest\.json: cannot be read as a manifest: it is not a regular file/);
    await rm(join(folder, 'manifest.json'), { recursive: true });
    await symlink('/dev/zero', join(folder, 'manifest.json'));
    await rejects(openDump(folder), Error, /it is not a regular file/);
  }));

test('links and headers that lie are refused', () =>
  withDump(async (out) => {
    const path = join(out, 'shard-00000.safetensors');
    const bytes = await readFile(path);
    await writeFile(join(out, '..', 'outside'), bytes);
    await rm(path);
    await symlink(join(out, '..', 'outside'), path);
    await opened(out, async (made) => {
      await rejects(made.tokens(0, 1), /is not a regular file/);
    });
    await rm(path);
    const lies: [number, number[], RegExp][] = [
      [0, [255, 255, 255, 255, 255, 255, 255, 127], /its header would be \d+ bytes long/],
      [0, [255, 255, 0, 0, 0, 0, 0, 0], /its header/],
      [8, [0x5b], /its header/],
      [bytes.indexOf('I64'), [0x46], /its header is not the one that the manifest implies/],
    ];
    for (const [at, change, pattern] of lies) {
      await writeFile(path, bytes);
      await changeBytes(path, at, ...change);
      await opened(out, async (made) => {
        await rejects(made.tokens(0, 1), pattern);
      });
    }
    // Pointers of the latents come first in the data.
    await writeFile(path, bytes);
    await changeBytes(path, 8 + Number(bytes.readBigUInt64LE(0)) + 8, 255, 255, 255, 255, 255, 255, 255, 127);
    await opened(out, async (made) => {
      await rejects(made.rows(latents, 0, 1), /latents\.row_ptr is broken/);
    });
  }));

test('two dumps in one folder are refused', () =>
  withFolder(async (folder) => {
    const options = { model, locations: 'resid/post_emb', context: 8, shardTokens: 32 };
    await dump({ ...options, corpus: documents(), out: join(folder, 'a'), shard: { index: 0, count: 2 } });
    await dump({
      ...options,
      corpus: documents(),
      out: join(folder, 'b'),
      shard: { index: 1, count: 2 },
      dtype: 'float32',
    });
    await opened(join(folder, 'a'), async (made) => {
      assert.equal(made.manifest.part, { index: 0, count: 2 });
      assert.equal(await made.verify(), []);
    });
    await cp(join(folder, 'b'), join(folder, 'a'), { recursive: true });
    await rejects(openDump(join(folder, 'a')), Error, /mixes two dumps: one has dtype float16, the other float32/);
  }));

test.run();
