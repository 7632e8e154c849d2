// Oracle: DuckDB, which reads the files, and a plain sort of the same entries in memory.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { type LatentEntries, type ParquetSizes, writeLatentsParquet } from '../../../src/dump/format/parquet.js';
import { gpt2Tokenizer } from '../../../src/files/tokenizer/tokenizer.js';
import { type Query, type Rows, withDuckDB } from '../../support/duckdb.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite } from '../../support/harness.js';
import { type Random, random } from '../../support/random.js';

const test = suite('latents as Parquet');

/** Entries in memory, as arrays. */
interface Csr extends Omit<LatentEntries, 'indices' | 'values'> {
  readonly index: Uint16Array | Int32Array;
  readonly value: Float32Array;
}

const stored = ({ index, value, ...rest }: Csr): LatentEntries => ({
  ...rest,
  indices: async (from, to) => index.slice(from, to),
  values: async (from, to) => value.slice(from, to),
});

interface Shape {
  readonly latents: number;
  readonly rows: number;
  readonly context: number;
  readonly firstRow?: number;
  /** The number of active latents in a slot. */
  readonly active: (slot: number) => number;
  /** The share of positions that are stored; all when left out. */
  readonly kept?: number;
}

/** Latents ascend within a slot, as in a shard. */
function entriesOf(r: Random, { latents, rows, context, firstRow = 0, active, kept }: Shape): Csr {
  const size = rows * context;
  const all = Int32Array.from({ length: size }, (_, flat) => flat);
  const flatPositions = kept === undefined ? undefined : all.filter(() => r.next() < kept);
  const index: number[] = [];
  const rowPtr = [0n];
  for (const flat of flatPositions ?? all) {
    const own = new Set(Array.from({ length: active(flat) }, () => r.integer(0, latents)));
    index.push(...[...own].sort((a, b) => a - b));
    rowPtr.push(BigInt(index.length));
  }
  return {
    latents,
    firstRow,
    context,
    tokens: Int32Array.from({ length: size }, () => r.integer(0, 50_257)),
    document: Int32Array.from({ length: size }, (_, flat) => Math.floor(flat / context / 2)),
    flatPositions,
    rowPtr: BigInt64Array.from(rowPtr),
    index: latents <= 65_536 ? Uint16Array.from(index) : Int32Array.from(index),
    value: r.floats(index.length),
  };
}

/** The contents that the file must have, row by row. */
function expectedRows({ rowPtr, flatPositions, index, value, context, firstRow, tokens, document }: Csr): Rows {
  const rows: { latent: number; flat: number; value: number }[] = [];
  for (let slot = 0; slot + 1 < rowPtr.length; slot++) {
    for (let at = Number(rowPtr[slot]); at < Number(rowPtr[slot + 1]); at++) {
      rows.push({ latent: index[at] as number, flat: flatPositions?.[slot] ?? slot, value: value[at] as number });
    }
  }
  rows.sort((a, b) => a.latent - b.latent || a.flat - b.flat);
  return rows.map(({ latent, flat, value }) => {
    const token = tokens[flat] as number;
    const known = token >= 0 && token < 50_257;
    return {
      latent,
      value,
      row: BigInt(firstRow + Math.floor(flat / context)),
      position: flat % context,
      document: document[flat],
      token,
      text: known ? gpt2Tokenizer().decode([token]) : '',
    };
  });
}

async function bytesOf(entries: LatentEntries, sizes?: ParquetSizes): Promise<Buffer> {
  const parts: Buffer[] = [];
  await writeLatentsParquet(entries, async (bytes) => void parts.push(Buffer.from(bytes)), sizes);
  return Buffer.concat(parts);
}

/** Calls body with the file's path, within quotes. */
const withFile = (csr: Csr, sizes: ParquetSizes | undefined, body: (query: Query, file: string) => Promise<void>) =>
  withFolder(async (folder) => {
    const path = join(folder, 'latents.parquet');
    await writeFile(path, await bytesOf(stored(csr), sizes));
    await withDuckDB((query) => body(query, `'${path}'`));
  });

const inOrder = (file: string) =>
  `select latent, value, row, position, document, token, text
  from read_parquet(${file}, file_row_number = true) order by file_row_number`;

async function assertHolds(query: Query, file: string, csr: Csr, label = ''): Promise<void> {
  const [found, expected] = [await query(inOrder(file)), expectedRows(csr)];
  assert.is(found.length, expected.length, label);
  for (const [i, row] of found.entries()) {
    for (const [name, value] of Object.entries(expected[i] as object)) {
      assert.ok(Object.is(row[name], value), `${label}: row ${i}: ${name} is ${row[name]} instead of ${value}`);
    }
  }
}

/** The number of entries and the least and largest latent of each row group, in the order of the file. */
const rowGroups = (query: Query, file: string) =>
  query(`select row_group_num_rows::int as entries, stats_min_value::int as least, stats_max_value::int as most
    from parquet_metadata(${file}) where path_in_schema = 'latent' order by row_group_id`);

test('random entries and sizes: every column, in order; statistics of each row group', async () => {
  const r = random(1);
  for (let i = 0; i < 40; i++) {
    const most = r.pick([0, 1, 3, 9]);
    const csr = entriesOf(r, {
      latents: r.pick([1, 2, 7, 100, 65_536, 65_537, 131_072]),
      rows: r.integer(0, 7),
      context: r.pick([1, 2, 16, 17]),
      firstRow: r.pick([0, 5, 2 ** 31 - 3, 2 ** 33]),
      active: () => r.integer(0, most + 1),
      ...(r.next() < 0.5 ? {} : { kept: r.pick([0, 0.3, 1]) }),
    });
    const sizes = { chunk: r.pick([1, 7, 1000]), range: r.pick([1, 5, 64, 1000]), group: r.pick([1, 3, 32, 1000]) };
    const label = `case ${i}, ${csr.index.length} entries, ${JSON.stringify(sizes)}`;
    await withFile(csr, sizes, async (query, file) => {
      await assertHolds(query, file, csr, label);
      const sorted = [...csr.index].sort((a, b) => a - b);
      const expected: Rows = [];
      for (let from = 0; from < sorted.length; from += sizes.range) {
        const range = sorted.slice(from, from + sizes.range);
        for (let at = 0; at < range.length; at += sizes.group) {
          const own = range.slice(at, at + sizes.group);
          expected.push({ entries: own.length, least: own[0], most: own.at(-1) });
        }
      }
      assert.equal(await rowGroups(query, file), expected, label);
    });
  }
});

test('a latent that is active everywhere goes on from range to range', async () => {
  const csr = entriesOf(random(2), { latents: 3, rows: 10, context: 10, active: () => 0 });
  const everywhere: Csr = {
    ...csr,
    rowPtr: BigInt64Array.from({ length: 101 }, (_, i) => BigInt(i)),
    index: new Uint16Array(100).fill(1),
    value: random(3).floats(100),
  };
  await withFile(everywhere, { chunk: 30, range: 16, group: 8 }, async (query, file) => {
    await assertHolds(query, file, everywhere);
    assert.is((await rowGroups(query, file)).length, 13);
  });
});

test('the usual sizes: a query reads the row groups of its latent', async () => {
  const csr = entriesOf(random(4), { latents: 500, rows: 64, context: 100, active: (slot) => (slot % 7) * 10 });
  assert.ok(csr.index.length > 2 ** 17);
  await withFile(csr, undefined, async (query, file) => {
    await assertHolds(query, file, csr);
    const groups = await rowGroups(query, file);
    assert.is(groups.length, Math.ceil(csr.index.length / 2 ** 16));
    assert.equal([groups[0]?.entries, groups[0]?.least, groups.at(-1)?.most], [2 ** 16, 0, 499]);
    const top = await query(`select row, position, value from ${file} where latent = 499 order by value desc limit 3`);
    const own = expectedRows(csr).filter(({ latent }) => latent === 499);
    own.sort((a, b) => Number(b.value) - Number(a.value));
    assert.equal(
      top,
      own.slice(0, 3).map(({ row, position, value }) => ({ row, position, value })),
    );
  });
});

test('no entries: a file of no rows', async () => {
  for (const rows of [0, 2]) {
    const csr = entriesOf(random(5), { latents: 4, rows, context: 8, active: () => 0 });
    await withFile(csr, undefined, async (query, file) => {
      assert.equal(await query(`select * from ${file}`), []);
      const columns = await query(`describe select * from ${file}`);
      assert.equal(
        columns.map(({ column_name, column_type }) => `${column_name} ${column_type}`),
        [
          'latent INTEGER',
          'value FLOAT',
          'row BIGINT',
          'position INTEGER',
          'document INTEGER',
          'token INTEGER',
          'text VARCHAR',
        ],
      );
    });
  }
});

test('every column is required, and nothing is said of the run', async () => {
  const csr = entriesOf(random(6), { latents: 4, rows: 2, context: 8, active: () => 2 });
  await withFile(csr, undefined, async (query, file) => {
    const columns = await query(`select repetition_type from parquet_schema(${file}) where type is not null`);
    assert.equal(columns, Array(7).fill({ repetition_type: 'REQUIRED' }));
    assert.equal(await query(`select * from parquet_kv_metadata(${file})`), []);
    assert.equal(await query(`select created_by from parquet_file_metadata(${file})`), [{ created_by: 'sonde' }]);
    const compressions = await query(`select distinct compression from parquet_metadata(${file})`);
    assert.equal(compressions, [{ compression: 'SNAPPY' }]);
    const text = await query(`select encodings from parquet_metadata(${file}) where path_in_schema = 'text'`);
    assert.match(String(text[0]?.encodings), /RLE_DICTIONARY/);
  });
});

test('odd values, bit for bit', async () => {
  const odd = [Number.NaN, Infinity, -Infinity, -0, 0, 2 ** -149, -(2 ** -126), 3.4028234663852886e38];
  const csr = entriesOf(random(7), { latents: 2, rows: 3, context: 8, active: () => 0 });
  const with24: Csr = {
    ...csr,
    rowPtr: BigInt64Array.from({ length: 25 }, (_, i) => BigInt(i)),
    index: Uint16Array.from({ length: 24 }, (_, i) => i % 2),
    value: Float32Array.from({ length: 24 }, (_, i) => odd[i % 8] as number),
  };
  await withFile(with24, { chunk: 100, range: 24, group: 2 }, async (query, file) => {
    await assertHolds(query, file, with24);
    assert.equal(await query(`select count(*)::int as n from ${file} where isnan(value)`), [{ n: 3 }]);
    // DuckDB orders NaN above all numbers.
    assert.equal(await query(`select count(*)::int as n from ${file} where value > 3e38`), [{ n: 9 }]);
  });
});

test('texts: characters of several bytes, fragments of them, line ends, and tokens that GPT-2 does not have', async () => {
  const known = gpt2Tokenizer().encode(' é 日本 😀\n\t"\'<|endoftext|>\u0000');
  const tokens = Int32Array.from([...known, -1, 50_257, 2 ** 31 - 1, -(2 ** 31)]);
  const size = tokens.length;
  const csr: Csr = {
    ...entriesOf(random(8), { latents: 1, rows: 1, context: size, active: () => 1 }),
    tokens,
    document: Int32Array.from(tokens, () => -1),
  };
  await withFile(csr, undefined, async (query, file) => {
    await assertHolds(query, file, csr);
    const texts = (await query(inOrder(file))).map(({ text }) => text);
    assert.ok(texts.includes(' é') && texts.includes('<|endoftext|>'));
    assert.ok(texts.some((text) => String(text).includes('\ufffd')));
    assert.equal(texts.slice(-4), ['', '', '', '']);
  });
});

test('the same bytes each time, however the entries are read', async () => {
  const csr = entriesOf(random(9), { latents: 50, rows: 8, context: 32, active: (slot) => slot % 5 });
  const sizes = { chunk: 1000, range: 256, group: 64 };
  const bytes = await bytesOf(stored(csr), sizes);
  assert.equal(await bytesOf(stored(csr), sizes), bytes);
  assert.equal(await bytesOf(stored(csr), { ...sizes, chunk: 11 }), bytes);
  assert.equal(await bytesOf(stored(csr), { ...sizes, range: 64 }), bytes);
});

test('reads a chunk at a time, once to count and once for each range, and writes one thing after another', async () => {
  const csr = entriesOf(random(10), { latents: 50, rows: 8, context: 32, active: () => 3 });
  const sizes = { chunk: 100, range: 256, group: 64 };
  const entries = stored(csr);
  let [read, largest, writing] = [0, 0, 0];
  const indices: LatentEntries['indices'] = (from, to) => {
    read += to - from;
    largest = Math.max(largest, to - from);
    return entries.indices(from, to);
  };
  await writeLatentsParquet(
    { ...entries, indices },
    async () => {
      assert.is(++writing, 1);
      await new Promise(setImmediate);
      writing--;
    },
    sizes,
  );
  const count = csr.index.length;
  assert.is(largest, 100);
  assert.is(read, count * (1 + Math.ceil(count / 256)));
});

test('a write or a read that fails fails the whole', async () => {
  const entries = stored(entriesOf(random(11), { latents: 50, rows: 8, context: 32, active: () => 3 }));
  const sizes = { chunk: 100, range: 256, group: 64 };
  let writes = 0;
  const full = async () => {
    if (++writes === 3) throw new Error('the disk is full');
  };
  await rejects(writeLatentsParquet(entries, full, sizes), Error, /the disk is full/);
  assert.is(writes, 3);
  const values = () => Promise.reject(new Error('the file is gone'));
  await rejects(bytesOf({ ...entries, values }, sizes), Error, /the file is gone/);
});

test('entries that cannot be are refused', async () => {
  const csr = entriesOf(random(12), { latents: 4, rows: 2, context: 3, active: () => 1 }); // 6 entries
  const refused = (changes: Partial<Csr>, error: typeof Error, message: RegExp) =>
    rejects(bytesOf(stored({ ...csr, ...changes })), error, message);
  const index = Uint16Array.from([0, 1, 2, 3, 4, 0]);
  await refused({ index }, Error, /entry 4 is latent 4, but there are 4/);
  await refused({ index: Int32Array.from([0, -1, 0, 0, 0, 0]) }, Error, /entry 1 is latent -1/);
  await refused({ index: index.subarray(0, 5) }, Error, /indices of 0 to 6 are 5/);
  await refused({ value: new Float32Array(5) }, Error, /values of 0 to 6 are 5/);
  await refused({ rowPtr: csr.rowPtr.subarray(1) }, RangeError, /rowPtr and its cells do not fit together: 6, 7/);
  await refused({ rowPtr: BigInt64Array.from([1n, 1n, 2n, 3n, 4n, 5n, 6n]) }, Error, /begins with 1 instead of 0/);
  await refused({ rowPtr: BigInt64Array.from([0n, 2n, 1n, 3n, 4n, 5n, 6n]) }, Error, /rowPtr falls at 2/);
  await refused({ flatPositions: Int32Array.from([0, 1, 3, 2, 4, 5]) }, Error, /must ascend below 6, but place 3 is 2/);
  await refused({ flatPositions: Int32Array.from([0, 1, 2, 3, 4, 6]) }, Error, /place 5 is 6/);
  await refused({ flatPositions: Int32Array.from([-1, 1, 2, 3, 4, 5]) }, Error, /place 0 is -1/);
  await refused({ document: new Int32Array(5) }, RangeError, /tokens and document do not fit together: 6, 5/);
  await refused({ context: 4 }, RangeError, /tokens and context do not fit together/);
  await refused({ context: 0 }, RangeError, /context must be a whole number from 1 on, but is 0/);
  await refused({ firstRow: -1 }, RangeError, /firstRow must be a whole number from 0 on, but is -1/);
  await refused({ latents: 0.5 }, RangeError, /latents must be a whole number/);
  await rejects(bytesOf(stored(csr), { chunk: 1, range: 0, group: 1 }), RangeError, /range must be .*, but is 0/);
});

test.run();
