// Oracle: the sizes of files. A folder whose manifest or headers say more than its files hold is refused with the
// file's name and before memory is taken; one that does not fit into memory says so; and nothing is written that could
// not be read again.
import { mkdir, open, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { longestHeader, ShardLayout } from '../../src/dump/format/layout.js';
import { type Manifest, makeManifest, whole, writeManifest } from '../../src/dump/format/manifest.js';
import type { DumpSettings } from '../../src/dump/format/settings.js';
import { type Dump, openDump } from '../../src/dump/read/reader.js';
import { collate } from '../../src/dump/report/collate.js';
import { report } from '../../src/dump/report/report.js';
import { dump } from '../../src/dump/run.js';
import { type PlanRequest, planDump } from '../../src/dump/shards/dump_plan.js';
import { DiskStore } from '../../src/files/store/disk_store.js';
import { openStore } from '../../src/files/store/open_store.js';
import { sizes } from '../../src/transformer/weights/config.js';
import { withFolder } from '../support/folders.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('sizes');
const location = '1/resid/post_mlp';
const latents = '1/resid/delta_mlp/latents';

async function* documents() {
  for (let i = 0; i < 6; i++) yield `It was a windy Monday, number ${i}. The wind moved the trees.`;
}

const made = (out: string) =>
  dump({
    ...{ model: 'demo', corpus: documents(), out, context: 8, shardTokens: 32, statistics: true },
    locations: [location, '1/resid/delta_mlp -> ae-resid-delta-mlp'],
  });

/** Calls body, and checks that buffers took no more than some megabytes at any time. */
async function withLittleMemory(body: () => Promise<void>): Promise<void> {
  const before = process.memoryUsage().arrayBuffers;
  let most = before;
  const timer = setInterval(() => {
    most = Math.max(most, process.memoryUsage().arrayBuffers);
  }, 1);
  try {
    await body();
  } finally {
    clearInterval(timer);
  }
  most = Math.max(most, process.memoryUsage().arrayBuffers);
  assert.ok(most - before < 2 ** 27, `${most - before} bytes were taken`);
}

type Change = (manifest: Manifest & { shards: { rows: number }[] }) => void;
const set = (path: readonly (string | number)[], value: unknown): Change => {
  return (manifest) => {
    let at = manifest as unknown as Record<string | number, unknown>;
    for (const key of path.slice(0, -1)) at = at[key] as typeof at;
    at[path.at(-1) as string | number] = value;
  };
};

const lies: [what: string, change: Change][] = [
  ['rows', set(['shards', 0, 'rows'], 2 ** 24)],
  ['the width of a location', set(['locations', 0, 'shape'], [8, 2 ** 31])],
  ['a location of six dimensions', set(['locations', 0, 'shape'], [8, 2 ** 9, 2 ** 9, 2 ** 9, 2, 2])],
  ['latents', set(['autoencoders', 0, 'latents'], 2 ** 31)],
  ['the dtype', set(['dtype'], 'float32')],
  [
    'many locations',
    (manifest) => {
      const more = Array.from({ length: 3000 }, (_, i) => ({ location: `${i}/mlp/post_act`, shape: [8, 64] }));
      Object.assign(manifest, { locations: [...manifest.locations, ...more] });
    },
  ],
];

for (const [what, change] of lies) {
  test(`a manifest that lies about ${what} is refused with the name of a file`, () =>
    withFolder(async (folder) => {
      const out = join(folder, 'out');
      await made(out);
      const path = join(out, 'manifest.json');
      const manifest = JSON.parse(await readFile(path, 'utf8'));
      change(manifest);
      await writeFile(path, JSON.stringify(manifest));
      await withLittleMemory(async () => {
        // the manifest itself may be refused
        const opened = await openDump(out).catch((error: Error) => error);
        if (opened instanceof Error) return assert.match(opened.message, /out\/manifest\.json: is not a manifest/);
        await using there = opened;
        const names = /out\/shard-00000\.safetensors: /;
        const asked: (() => Promise<unknown>)[] = [
          () => there.rows(location),
          () => there.rows(location, 0, 1),
          () => there.rows(latents),
          () => there.tokens(),
          () => there.stored(location),
          () => there.statistics(location),
          () => there.statistics(latents),
          () => collate(there, { selections: [{ name: location, indices: [0] }], out: join(folder, 'records') }),
          () => collate(there, { selections: [{ name: latents, indices: [0] }], out: join(folder, 'records') }),
          () => report(there, { out: join(folder, 'page.html'), selections: [{ name: location, indices: [0] }] }),
        ];
        for (const ask of asked) {
          const error = await rejects(ask(), Error, /./);
          if (what === 'latents' && /report: /.test(error.message)) continue; // report() has a limit of its own
          assert.match(error.message, names);
        }
        const problems = await there.verify();
        assert.is(problems[0]?.file, 'shard-00000.safetensors');
      });
      assert.equal(await readdir(folder), ['out']);
    }));
}

test('all latents of a manifest that lies are not even counted', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await made(out);
    const path = join(out, 'manifest.json');
    const manifest = JSON.parse(await readFile(path, 'utf8'));
    set(['autoencoders', 0, 'latents'], 2 ** 26)(manifest);
    await writeFile(path, JSON.stringify(manifest));
    const opened = await openDump(out).catch((error: Error) => error);
    if (opened instanceof Error) return;
    await using there = opened;
    await withLittleMemory(async () => {
      const selections = [{ name: latents, indices: 'all' as const }];
      const pattern = /out: 1\/resid\/delta_mlp\/latents has 67108864 indices: choose 4194304 at a time/;
      await rejects(collate(there, { selections, out: join(folder, 'records') }), RangeError, pattern);
      await rejects(report(there, { selections, out: join(folder, 'page.html') }), RangeError, pattern);
      await rejects(
        report(there, { out: join(folder, 'page.html') }),
        RangeError,
        /report: .*out: .* 67108864 latents/,
      );
    });
  }));

test('a header is not longer than the manifest implies, however long the file is', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await made(out);
    const [path, shard] = [join(out, 'manifest.json'), join(out, 'shard-00000.safetensors')];
    const manifest = JSON.parse(await readFile(path, 'utf8'));
    await truncate(shard, 2 ** 30); // the rest of the file is a hole
    manifest.shards[0].bytes = 2 ** 30;
    await writeFile(path, JSON.stringify(manifest));
    const file = await open(shard, 'r+');
    const length = Buffer.alloc(8);
    try {
      for (const stated of [2 ** 21, 2 ** 24, 2 ** 29]) {
        length.writeBigUInt64LE(BigInt(stated));
        await file.write(length, 0, 8, 0);
        await withLittleMemory(async () => {
          await using there = await openDump(out);
          await rejects(
            there.tokens(0, 1),
            Error,
            /shard-00000\.safetensors: its header would be \d+ bytes long, and \d+/,
          );
        });
      }
    } finally {
      await file.close();
    }
  }));

test('a little is read of many shards without opening them first', () =>
  withFolder(async (folder) => {
    const out = join(folder, 'out');
    await dump({ model: 'demo', corpus: documents(), out, context: 8, shardTokens: 8, locations: location });
    await using there = await openDump(out);
    assert.ok(there.shards.length > 8); // more shards than stay open
    const { open } = DiskStore.prototype;
    const opened: string[] = [];
    DiskStore.prototype.open = function (file: string) {
      opened.push(file);
      return open.call(this, file);
    };
    try {
      await there.rows(location);
    } finally {
      DiskStore.prototype.open = open;
    }
    assert.equal(
      opened,
      there.shards.map(({ file }) => file),
    );
  }));

// ---- more than fits into memory

/** Makes a dump of one shard. Its file has the right size and holds only the header and what `write` adds. */
async function sparseDump(
  folder: string,
  changes: Partial<DumpSettings>,
  { rows, positions = rows * 128 }: { rows: number; positions?: number },
  write: (
    layout: ShardLayout,
    put: (bytes: ArrayBufferView, at: number) => Promise<void>,
  ) => Promise<void> = async () => {},
): Promise<Dump> {
  const settings: DumpSettings = {
    model: { name: 'm', digest: 'd', dtype: 'float32', vocabulary: 50_257, config: sizes.tiny as never },
    ...{ tokenizer: 'gpt2', corpus: [], locations: [{ location, shape: [128, 4096] }], autoencoders: [] },
    ...{ dtype: 'float16', context: 128, shardTokens: rows * 128, limit: null, drop: [], sample: 1, seed: null },
    ...{ statistics: false, parquet: false, part: whole, ...changes },
  };
  const layout = new ShardLayout(settings, { rows, positions, entries: settings.autoencoders.map(() => 0) });
  const out = join(folder, 'out');
  await mkdir(out);
  const file = await open(join(out, 'shard-00000.safetensors'), 'w');
  await file.write(layout.header, 0, layout.header.length, 0);
  await file.truncate(layout.bytes);
  await write(layout, async (bytes, at) => {
    await file.write(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0, bytes.byteLength, at);
  });
  await file.close();
  const entry = { file: 'shard-00000.safetensors', rows, tokens: 1, bytes: layout.bytes, sha256: '0'.repeat(64) };
  await writeManifest(openStore(out), makeManifest(settings, ['1 cpu'], [entry], true));
  return openDump(out);
}

test('a shard of a terabyte: what does not fit into memory is a clear error, and the rest can be read', () =>
  withFolder(async (folder) => {
    await using there = await sparseDump(folder, {}, { rows: 2 ** 20 });
    await withLittleMemory(async () => {
      const message =
        /^rows: .*out: rows 0 to 1048576 of 1\/resid\/post_mlp take 2199023255552 bytes, and memory has room for \d+: ask for fewer rows$/;
      await rejects(there.rows(location), RangeError, message);
      await rejects(there.stored(location), RangeError, /^stored: .*out: rows 0 to 1048576 of .*: ask for fewer rows$/);
      const { data, shape } = await there.rows(location, 2 ** 20 - 1);
      assert.equal(shape, [1, 128, 4096]);
      assert.is(data.length, 128 * 4096);
      const last = await there.stored(location, 2 ** 20 - 2);
      assert.equal(last.shape, [256, 4096]);
      assert.equal(Array.from(last.positions.subarray(-2)), [2 ** 20 - 1, 127]);
    });
  }));

test('a sample whose dense rows are far larger than what is stored', () =>
  withFolder(async (folder) => {
    const sampled = { drop: ['padding'] as const, sample: 0.001, seed: 0 };
    const expected = [0, 0, 5, 3, 2 ** 20 - 1, 127];
    await using there = await sparseDump(folder, sampled, { rows: 2 ** 20, positions: 3 }, async (layout, put) => {
      await put(Int32Array.from(expected), layout.offset('positions'));
      await put(Uint16Array.of(0x3c00), layout.offset(location) + 2 * 4096 * 2);
    });
    await withLittleMemory(async () => {
      await rejects(there.rows(location), RangeError, /rows: .*out: rows 0 to 1048576 .* take 2199023255552 bytes/);
      const { data, shape, positions } = await there.stored(location);
      assert.equal(shape, [3, 4096]);
      assert.equal(Array.from(positions), expected);
      assert.is(data[2 * 4096], 1);
      const { data: row } = await there.rows(location, 2 ** 20 - 1);
      assert.is(row[127 * 4096], 1);
    });
  }));

test('statistics of a dump that has no shard yet take no memory that there is not', () =>
  withFolder(async (folder) => {
    await mkdir(join(folder, 'out'));
    const out = join(folder, 'out');
    await made(join(folder, 'made'));
    const manifest = JSON.parse(await readFile(join(folder, 'made', 'manifest.json'), 'utf8'));
    manifest.shards = [];
    manifest.locations[0].shape = [8, 2 ** 31];
    await writeFile(join(out, 'manifest.json'), JSON.stringify(manifest));
    const opened = await openDump(out).catch((error: Error) => error);
    if (opened instanceof Error) return;
    await using there = opened;
    await withLittleMemory(async () => {
      await rejects(
        there.statistics(location),
        RangeError,
        /statistics: .*out: those of .* take \d+ bytes, and memory/,
      );
    });
  }));

// ---- writing refuses what reading would refuse, and nothing else

const plan: PlanRequest = {
  model: { name: 'm', digest: 'd', dtype: 'float32', vocabulary: 50_257, config: sizes.tiny as never },
  ...{ corpus: [{ kind: 'text', name: 'a.txt', bytes: 1000 }], dense: [location], autoencoders: [], device: 'cpu' },
};

test('a model may be without attention, MLPs or layers', () => {
  const config = { ...plan.model.config, nLayers: 0, nHeads: 0, mAttn: 0, mMlp: 0 };
  const { settings } = planDump({ ...plan, model: { ...plan.model, config }, dense: ['resid/post_emb'] });
  assert.equal(settings.model.config, config);
});

test('locations whose header is too long are refused when the dump is planned', () => {
  const deep = { ...plan.model, config: { ...plan.model.config, nLayers: 10_000 } };
  const points = ['resid/delta_attn', 'resid/delta_mlp', 'resid/post_attn'];
  const dense = Array.from({ length: 10_000 }, (_, layer) => points.map((point) => `${layer}/${point}`)).flat();
  const request = { ...plan, model: deep, dtype: 'int8' as const };
  assert.is(planDump({ ...request, dense: dense.slice(0, 1000) }).settings.locations.length, 1000);
  throws(
    () => planDump({ ...request, dense, statistics: true }),
    RangeError,
    new RegExp(
      `dump: there can be no such shards: the header of a shard would be \\d+ bytes long; it may be ${longestHeader}`,
    ),
  );
});

test('more shards than a manifest can list are refused when the dump is planned', () => {
  const most =
    /dump: shardTokens of 1 would make \d+ shards or more, more than a manifest can list: make larger shards/;
  const small = { context: 1, shardTokens: 1 };
  const tokens = (bytes: number) => [{ kind: 'tokens' as const, name: 'a.bin', bytes }];
  throws(() => planDump({ ...plan, ...small, corpus: tokens(4e6) }), RangeError, most);
  throws(() => planDump({ ...plan, ...small, corpus: [{ kind: 'text', name: 'a', bytes: 3e8 }] }), RangeError, most);
  planDump({ ...plan, ...small, corpus: tokens(4e6), limit: 1e6 });
  planDump({ ...plan, ...small, corpus: tokens(4e6), shard: { index: 0, count: 2 } });
  planDump({ ...plan, ...small, corpus: tokens(1.9e6) });
});

test('a manifest that could not be read again is not written, and says what to do', () =>
  withFolder(async (folder) => {
    const { settings } = planDump(plan);
    for (const name of ['x'.repeat(2 ** 28), '\0'.repeat(2 ** 27)]) {
      const manifest = makeManifest({ ...settings, corpus: [{ kind: 'text', name }] }, [], [], false);
      await rejects(
        writeManifest(openStore(folder), manifest),
        Error,
        /^dump: .*manifest\.json would list 0 shards in more than 268435456 bytes, .*: make fewer, larger shards \(--shard-tokens\)/,
      );
    }
    assert.equal(await readdir(folder), []);
  }));

test.run();
