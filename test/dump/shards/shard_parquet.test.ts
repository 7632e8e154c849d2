// Oracles: openDump on the same dump, whose latents DuckDB must find in the Parquet files, and uninterrupted dumps.
import { appendFile, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openDump } from '../../../src/dump/read/reader.js';
import { dump } from '../../../src/dump/run.js';
import { mergeDumps } from '../../../src/dump/shards/merge.js';
import type { DumpOptions } from '../../../src/dump/shards/options.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { withDuckDB } from '../../support/duckdb.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { assertSameFolder, contentsOf, sampleText } from '../folders.js';

const test = suite('Parquet files of a dump');
const model = await Transformer.load('demo');
const name = '1/resid/delta_mlp/latents';
const parquet = (number: number) => `shard-0000${number}.1_resid_delta_mlp_latents.parquet`;

const options = (out: string, changes: Partial<DumpOptions> = {}): DumpOptions => ({
  ...{ model, corpus: sampleText, limit: 900, context: 32, shardTokens: 320, parquet: true, out },
  locations: ['1/mlp/post_act', '1/resid/delta_mlp -> ae-resid-delta-mlp', '2/resid/delta_mlp -> ae-resid-delta-mlp'],
  ...changes,
});

for (const [title, changes] of [
  ['everything', { dtype: 'float32' }],
  ['a sample, as float16', { sample: 0.5, drop: ['endoftext'] }],
] as [string, Partial<DumpOptions>][]) {
  test(`${title}: each stored latent is a line, with its token's position`, () =>
    withFolder(async (out) => {
      await dump(options(out, changes));
      await using made = await openDump(out);
      assert.equal(await made.verify(), []);
      const { context } = made.manifest;
      const { rowPtr, indices, values } = await made.rows(name);
      const { tokens, document } = await made.tokens();
      const expected: unknown[] = [];
      for (let flat = 0; flat < tokens.length; flat++) {
        for (let at = Number(rowPtr[flat]); at < Number(rowPtr[flat + 1]); at++) {
          const [row, position] = [BigInt(Math.floor(flat / context)), flat % context];
          const where = { row, position, document: document[flat], token: tokens[flat] };
          expected.push({ latent: indices[at], value: values[at], ...where });
        }
      }
      await withDuckDB(async (query) => {
        const files = `read_parquet('${join(out, 'shard-*.1_resid_delta_mlp_latents.parquet')}')`;
        const columns = 'latent, value, row, position, document, token';
        assert.equal(await query(`select ${columns} from ${files} order by row, position, latent`), expected);
      });
    }));
}

test('a dump that was cut off, lost a file, or was made in parts has the same bytes', () =>
  withFolder(async (folder) => {
    const [whole, cut, parts] = ['whole', 'cut', 'parts'].map((n) => join(folder, n)) as [string, string, string];
    await dump(options(whole));
    const stop = new AbortController();
    const onProgress = ({ shards }: { shards: number }) => {
      if (shards === 1) stop.abort(new Error('enough'));
    };
    await rejects(dump(options(cut, { signal: stop.signal, onProgress })), /enough/);
    await writeFile(join(cut, `${parquet(2)}.0123abcd.partial`), 'left by a kill');
    await writeFile(join(cut, parquet(2)), 'of a shard that was not finished');
    assert.is((await dump(options(cut, { batch: 2 }))).shards, 3);
    await assertSameFolder(cut, whole);
    await rm(join(cut, parquet(2)));
    assert.is((await dump(options(cut))).written, 1);
    await assertSameFolder(cut, whole);
    for (const index of [1, 0]) {
      await dump(options(join(parts, String(index)), { shard: { index, count: 2 } }));
    }
    const { linked } = await mergeDumps(join(folder, 'merged'), [join(parts, '0'), join(parts, '1')]);
    assert.is(linked, 9); // three shards with two files each beside them
    await assertSameFolder(join(folder, 'merged'), whole);
    const without = await contentsOf(whole);
    const plain = join(folder, 'plain');
    await dump(options(plain, { parquet: false }));
    for (const [file, hash] of Object.entries(await contentsOf(plain))) {
      if (file !== 'manifest.json') assert.is(hash, without[file], file);
    }
    await rejects(dump(options(plain)), /holds a dump with Parquet files none, but of the latents was asked for/);
  }));

test('verify names what is wrong with them, and a manifest that lies is refused', () =>
  withFolder(async (out) => {
    await dump(options(out));
    await appendFile(join(out, parquet(0)), 'x');
    const bytes = await readFile(join(out, parquet(1)));
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] as number) ^ 1;
    await writeFile(join(out, parquet(1)), bytes);
    await rm(join(out, parquet(2)));
    await writeFile(join(out, parquet(3)), '');
    {
      await using made = await openDump(out);
      const problems = new Map((await made.verify()).map(({ file, problem }) => [file, problem]));
      assert.is(problems.size, 4);
      assert.match(problems.get(parquet(0)) ?? '', /^holds \d+ bytes, but the manifest says \d+ bytes$/);
      assert.match(problems.get(parquet(1)) ?? '', /^its SHA-256 is .*, but the manifest says/);
      assert.is(problems.get(parquet(2)), 'is missing');
      assert.is(problems.get(parquet(3)), 'is not listed in the manifest');
    }
    await rejects(dump(options(out)), /latents\.parquet holds \d+ bytes, but the manifest says \d+ bytes: remove it/);
    const path = join(out, 'manifest.json');
    const manifest = JSON.parse(await readFile(path, 'utf8'));
    for (const file of ['../secret.parquet', 'shard-00000.2_resid_delta_mlp_latents.parquet']) {
      const [first, ...others] = manifest.shards;
      const changed = { ...first, parquet: [{ ...first.parquet[0], file }, first.parquet[1]] };
      await writeFile(path, JSON.stringify({ ...manifest, shards: [changed, ...others] }));
      await rejects(
        openDump(out),
        /its "shards" is not as it should be|does not have the Parquet files that it should/,
      );
    }
    assert.ok((await readdir(out)).length > 0);
  }));

test.run();
