// Oracle: openDump, on the dump that the programs of assets/docs/reading-dumps.md read; they run as they stand there.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Manifest } from '../src/dump/format/manifest.js';
import { type DumpDType, dumpDTypes } from '../src/dump/format/settings.js';
import { textOf } from '../src/dump/format/token_text.js';
import { type Dump, openDump, type SparseRows } from '../src/dump/read/reader.js';
import { dump } from '../src/dump/run.js';
import { packageRoot } from '../src/engine/native.js';
import { Transformer } from '../src/transformer/transformer.js';
import { run } from './cli/command.js';
import { sampleText } from './dump/folders.js';
import { close } from './support/close.js';
import { type Rows, withDuckDB } from './support/duckdb.js';
import { suite } from './support/harness.js';

const test = suite('reading dumps');

const page = readFileSync(join(packageRoot, 'assets/docs/reading-dumps.md'), 'utf8');
const blocks = (language: string): string[] =>
  [...page.matchAll(/^```(\w+)\n(.*?)^```$/gms)].filter(([, name]) => name === language).map(([, , code = '']) => code);
const [numpyProgram = '', safetensorsProgram = '', sampleProgram = '', gradientProgram = '', ...otherPython] =
  blocks('python');
const [command = '', sampleCommand = '', gradientCommand = '', ...otherCommands] = blocks('sh');
const [view = '', strongest = '', around = '', often = '', together = '', ...otherSql] = blocks('sql');

const location = '1/mlp/post_act';
const encoded = '1/resid/delta_mlp';
const latents = `${encoded}/latents` as const;

// One dump for each dtype, `my-dump` in a folder of its own, as the page calls it.
const root = mkdtempSync(join(tmpdir(), 'sonde-test-'));
const folderOf = (dtype: DumpDType) => join(root, dtype);

test.before(async () => {
  const model = await Transformer.load('demo');
  const locations = [location, `${encoded} -> ae-resid-delta-mlp`];
  for (const dtype of dumpDTypes) {
    const out = join(folderOf(dtype), 'my-dump');
    const size = { limit: 3000, context: 32, shardTokens: 1024 };
    await dump({ model, corpus: sampleText, locations, out, dtype, parquet: true, ...size });
  }
});
test.after(() => rmSync(root, { recursive: true, force: true }));

const withDump = async (dtype: DumpDType, body: (made: Dump) => Promise<void>) => {
  await using made = await openDump(join(folderOf(dtype), 'my-dump'));
  await body(made);
};

// ---- Python

const pythonHas = (module: string) => spawnSync('python3', ['-c', `import ${module}`]).status === 0;

/** The words of each line that the program prints. */
function runPython(program: string, cwd: string): string[][] {
  const { stdout, stderr, status } = spawnSync('python3', ['-c', program], { cwd, encoding: 'utf8' });
  assert.is(status, 0, stderr);
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' '));
}

/** The latents of a row's position, the strongest first. */
function strongestOf({ shape, rowPtr, indices, values }: SparseRows, row: number, position: number) {
  const slot = row * (shape[1] as number) + position;
  const own: [latent: number, value: number][] = [];
  for (let at = Number(rowPtr[slot]); at < Number(rowPtr[slot + 1]); at++) {
    own.push([indices[at] as number, values[at] as number]);
  }
  return own.sort(([, a], [, b]) => b - a);
}

/** The dtypes and shapes that numpy finds in the first shard. */
function expectedTensors({ context, dtype, shards }: Manifest, width: number, entries: number): Map<string, string> {
  const rows = shards[0]?.rows as number;
  const floats = { float16: 'float16', int8: 'float16', bfloat16: 'float32', float32: 'float32' }[dtype];
  return new Map([
    [`${latents}.row_ptr`, `int64 ${rows * context + 1}`],
    ['tokens', `int32 ${rows} ${context}`],
    ['document', `int32 ${rows} ${context}`],
    ...(dtype === 'int8' ? ([[`${location}.scale`, `float32 ${rows} ${context}`]] as const) : []),
    [location, `${dtype === 'int8' ? 'int8' : floats} ${rows} ${context} ${width}`],
    [`${latents}.indices`, `uint16 ${entries}`],
    [`${latents}.values`, `${floats} ${entries}`],
  ]);
}

for (const dtype of dumpDTypes) {
  const title = `numpy alone, ${dtype}`;
  if (!pythonHas('numpy')) {
    test.skip(title, 'python3 with numpy is not installed');
    continue;
  }
  test(title, () =>
    withDump(dtype, async (made) => {
      const rows = made.shards[0]?.rows as number;
      const { data, shape } = await made.rows(location, 0, rows);
      const sparse = await made.rows(latents, 0, rows);
      const { document } = await made.tokens(0, rows);
      const printed = runPython(numpyProgram, folderOf(dtype));
      const count = dtype === 'int8' ? 7 : 6; // of tensors
      const tensors = printed.splice(0, count).map(([name, ...rest]) => [name, rest.join(' ')] as const);
      const width = shape[2] as number;
      const expected = expectedTensors(made.manifest, width, sparse.indices.length);
      assert.equal(new Map(tensors as [string, string][]), expected);
      const [word, tokens, printedWidth, sum] = printed.shift() as string[];
      const tokenCount = document.filter((number) => number !== -1).length;
      assert.equal([word, tokens, printedWidth], ['tokens', String(tokenCount), String(width)]);
      const total = data.reduce((a, b) => a + b, 0); // padding is zeros
      close([Number(sum)], [total], { rtol: 1e-9, label: 'sum' });
      const [row, position] = (numpyProgram.match(/^row, position = (\d+), (\d+)$/m)?.slice(1) ?? []).map(Number);
      const best = strongestOf(sparse, row as number, position as number).slice(0, 5);
      assert.is(best.length, 5);
      assert.equal(
        printed.map(([latent, number, value]) => [latent, Number(number), Math.fround(Number(value))]),
        best.map(([number, value]) => ['latent', number, value]),
      );
    }),
  );
}

const title = 'the safetensors package gives the same tensors';
if (!pythonHas('safetensors.numpy')) test.skip(title, "Python's safetensors is not installed");
else {
  test(title, () => {
    const same = [
      numpyProgram,
      'own = shard',
      safetensorsProgram,
      'assert own.keys() == shard.keys()',
      'for name in own: assert own[name].dtype == shard[name].dtype and np.array_equal(own[name], shard[name]), name',
      "print('the same')",
    ];
    assert.equal(runPython(same.join('\n'), folderOf('float16')).at(-1), ['the', 'same']);
  });
}

// ---- DuckDB

/** All active latents with what is known of their tokens. */
interface Active {
  readonly latent: number;
  readonly value: number;
  readonly row: bigint;
  readonly position: number;
  readonly document: number;
  readonly text: string;
}

async function activeOf(made: Dump): Promise<Active[]> {
  const { context } = made.manifest;
  const { rowPtr, indices, values } = await made.rows(latents);
  const { tokens, document } = await made.tokens();
  const all: Active[] = [];
  for (let slot = 0; slot < tokens.length; slot++) {
    for (let at = Number(rowPtr[slot]); at < Number(rowPtr[slot + 1]); at++) {
      all.push({
        latent: indices[at] as number,
        value: values[at] as number,
        row: BigInt(Math.floor(slot / context)),
        position: slot % context,
        document: document[slot] as number,
        text: textOf(tokens[slot] as number),
      });
    }
  }
  return all;
}

/** The strongest first, as the page orders them. */
const byValue = (a: Active, b: Active) => b.value - a.value || Number(a.row - b.row) || a.position - b.position;

/** How many lines of each latent, [latent, count], from often to seldom. */
function countsOf(active: readonly Active[]): [number, number][] {
  const counts = new Map<number, number>();
  for (const { latent } of active) counts.set(latent, (counts.get(latent) ?? 0) + 1);
  return [...counts].sort(([a, many], [b, more]) => more - many || a - b);
}

const latentOf = (sql: string) => Number(sql.match(/latent = (\d+)/)?.[1]);

function wordsAround({ row, position }: Active, active: readonly Active[]): string {
  const near = new Map<number, string>();
  for (const other of active) if (other.row === row) near.set(other.position, other.text);
  return [...near]
    .filter(([other]) => Math.abs(other - position) <= 6)
    .sort(([a], [b]) => a - b)
    .map(([other, text]) => (other === position ? `[${text}]` : text))
    .join('');
}

const queries: [title: string, sql: string, expected: (active: Active[], made: Dump) => Rows][] = [
  [
    'the strongest tokens of a latent',
    strongest,
    (active) => {
      const own = active.filter(({ latent }) => latent === latentOf(strongest)).sort(byValue);
      return own.slice(0, 10).map(({ latent: _, ...rest }) => rest);
    },
  ],
  [
    'the tokens around them',
    around,
    (active) => {
      const own = active.filter(({ latent }) => latent === latentOf(around)).sort(byValue);
      return own.slice(0, 10).map((one) => {
        const { value, row, position } = one;
        return { value, row, position, words: wordsAround(one, active) };
      });
    },
  ],
  [
    'how often latents are active',
    often,
    (active, made) =>
      countsOf(active)
        .slice(0, 10)
        .map(([latent, count]) => {
          const values = active.filter((one) => one.latent === latent).map(({ value }) => value);
          const rate = count / made.tokenCount;
          return { latent, active: BigInt(count), rate, largest: Math.max(...values) };
        }),
  ],
  [
    'latents that are active together',
    together,
    (active) => {
      const keyOf = ({ row, position }: Active) => `${row} ${position}`;
      const chosen = latentOf(together);
      const there = new Set(active.filter(({ latent }) => latent === chosen).map(keyOf));
      const others = active.filter((one) => one.latent !== chosen && there.has(keyOf(one)));
      return countsOf(others)
        .slice(0, 10)
        .map(([latent, count]) => ({ latent, together: BigInt(count) }));
    },
  ],
];

for (const [title, sql, expected] of queries) {
  test(`DuckDB: ${title}`, () =>
    withDump('float16', async (made) => {
      await withDuckDB(async (query) => {
        await query(`set file_search_path = '${folderOf('float16')}'`);
        await query(view);
        const rows = expected(await activeOf(made), made);
        assert.is(rows.length, 10);
        assert.equal(await query(sql), rows);
      });
    }));
}

/** Runs a command of the page, with another folder, and gives what it has made. */
async function made(command: string, out: string, ...more: string[]): Promise<Dump> {
  const [, , ...words] = command.replace('\\\n', ' ').trim().split(/\s+/);
  const options = words.map((word) => (word.startsWith('my-') ? out : word));
  const { code, stderr } = await run([...options, ...more], { cwd: packageRoot });
  assert.is(code, 0, stderr);
  return openDump(out);
}

test('the command makes such a dump', async () => {
  await using dump = await made(command, join(root, 'commanded'), '--limit', '100');
  assert.equal(dump.names, [location, latents]);
  assert.equal(
    dump.shards[0]?.parquet?.map(({ file }) => file),
    ['shard-00000.1_resid_delta_mlp_latents.parquet'],
  );
});

const sampled = 'numpy alone: a sample, and statistics';
if (!pythonHas('numpy')) test.skip(sampled, 'python3 with numpy is not installed');
else {
  test(sampled, async () => {
    await using dump = await made(sampleCommand, join(folderOf('float16'), 'my-sample'), '--shard-tokens', '4096');
    assert.ok(dump.shards.length > 2);
    const printed = runPython(`${numpyProgram}\n${sampleProgram}`, folderOf('float16')).slice(-2);
    const { positions, shape } = await dump.stored(location, 0, dump.shards[0]?.rows);
    const { tokens } = await dump.tokens();
    const first = Array.from({ length: 5 }, (_, i) => {
      const [row, position] = [positions[2 * i] as number, positions[2 * i + 1] as number];
      return String(tokens[row * dump.manifest.context + position]);
    });
    assert.equal(printed[0], ['stored', ...shape.map(String), 'tokens', ...first]);
    const { count, mean, variance, maximum } = await dump.statistics(location);
    assert.equal(printed[1]?.slice(0, 3), ['neuron', '7', String(count)]);
    const expected = [mean, variance, maximum].map((values) => values[7] as number);
    close((printed[1] as string[]).slice(3).map(Number), expected, { rtol: 1e-12 });
  });
}

const recorded = 'numpy alone: gradients';
if (!pythonHas('numpy')) test.skip(recorded, 'python3 with numpy is not installed');
else {
  test(recorded, async () => {
    const folder = folderOf('float16');
    await using dump = await made(gradientCommand, join(folder, 'my-gradients'), '--limit', '500');
    const printed = runPython(`${numpyProgram}\n${gradientProgram}`, folder).slice(-6);
    const [x, g] = [await dump.rows(location), await dump.rows(`${location}.gradient` as typeof location)];
    const effects = new Float64Array(x.shape[2] as number);
    for (const [i, value] of x.data.entries()) {
      effects[i % effects.length] =
        (effects[i % effects.length] as number) + Math.fround(value * (g.data[i] as number));
    }
    const order = [...effects.keys()].sort((a, b) => (effects[a] as number) - (effects[b] as number)).slice(0, 5);
    const byLatent = new Map<number, number>();
    const [active, ofActive] = [await dump.rows(latents), await dump.rows(`${latents}.gradient`)];
    for (const [i, latent] of active.indices.entries()) {
      const effect = (active.values[i] as number) * (ofActive.values[i] as number);
      byLatent.set(latent, (byLatent.get(latent) ?? 0) + effect);
    }
    const [latent, effect] = [...byLatent].reduce((least, one) => (one[1] < least[1] ? one : least));
    assert.equal(
      printed.map(([what, index]) => [what, Number(index)]),
      [...order.map((neuron) => ['neuron', neuron]), ['latent', latent]],
    );
    const expected = [...order.map((neuron) => effects[neuron] as number), effect];
    close(
      printed.map(([, , value]) => Number(value)),
      expected,
      { rtol: 1e-6 },
    );
  });
}

test('every program of the page is run, and its table names the columns', async () => {
  assert.equal([...otherCommands, ...otherPython, ...otherSql], []);
  assert.ok(numpyProgram && safetensorsProgram && together);
  await withDuckDB(async (query) => {
    await query(`set file_search_path = '${folderOf('float32')}'`);
    await query(view);
    const columns = (await query('describe latents')).map(({ column_name }) => column_name);
    const cells = [...page.matchAll(/^\| (`.*?) \| [A-Z]/gm)].map(([, names = '']) => names.replaceAll('`', ''));
    assert.equal(cells.join(', ').split(', '), columns);
  });
});

test.run();
