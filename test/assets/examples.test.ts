// The examples of assets/examples print what they should. Oracle: test/fixtures/recipes, computed with the original in
// PyTorch; gradients there are central differences in double precision.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { gpt2Tokenizer } from '../../src/files/tokenizer/tokenizer.js';
import { close } from '../support/close.js';
import { onCpu } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';

type Numbers = number | Numbers[];
interface Expected {
  /** All numbers, in the order in which they are printed. */
  readonly numbers: Numbers[];
  /** The tokens of texts that are printed, in their order. */
  readonly texts?: number[][];
}

const test = suite('examples');
const read = (path: string): string => readFileSync(join(packageRoot, path), 'utf8');
const { prompts, ...fixtures } = JSON.parse(read('test/fixtures/recipes/recipes.json'));
const expected = fixtures as Record<string, Expected>;
const flat = ({ numbers }: Expected): number[] => numbers.flat(Infinity as 1) as number[];
const enc = gpt2Tokenizer();

const names = readdirSync(join(packageRoot, 'assets/examples')).map((file) => file.replace(/\.ts$/, ''));

/** Calls body, and returns the arguments of each call of console.log and console.table meanwhile. */
async function printed(body: () => Promise<unknown>): Promise<unknown[]> {
  const { log, table } = console;
  const seen: unknown[] = [];
  const note = (...values: unknown[]) => {
    seen.push(...values);
  };
  Object.assign(console, { log: note, table: note });
  try {
    await body();
    return seen;
  } finally {
    Object.assign(console, { log, table });
  }
}

/** What lies in a value, keys of objects included. */
function leavesOf(value: unknown): unknown[] {
  if (typeof value !== 'object' || value === null) return [value];
  if (Array.isArray(value)) return value.flatMap(leavesOf);
  return Object.entries(value).flatMap(([key, inner]) => [key, ...leavesOf(inner)]);
}

const shown = new Map<string, Promise<unknown[]>>();
/** What the compiled example prints with the library that the tests have. It runs once. */
function run(name: string): Promise<unknown[]> {
  process.env.SONDE_DEVICE = 'cpu';
  const leaves = shown.get(name) ?? runNow(name);
  shown.set(name, leaves);
  return leaves;
}
const numbersOf = async (name: string) => (await run(name)).filter((leaf) => typeof leaf === 'number');

const runNow = (name: string): Promise<unknown[]> =>
  withFolder(async (folder) => {
    const code = read(`build-test/assets/examples/${name}.js`);
    assert.equal(
      [...code.matchAll(/^import .* from '(.*)';$/gm)].map(([, module]) => module),
      ['sonde'],
    );
    const library = pathToFileURL(join(packageRoot, 'build-test/src/index.js')).href;
    const copy = join(folder, `${name}.mjs`);
    writeFileSync(copy, code.replace("from 'sonde'", `from '${library}'`));
    return leavesOf(await printed(() => import(pathToFileURL(copy).href)));
  });

test('every example has values, and the other way round', () =>
  assert.equal([...names].sort(), Object.keys(expected).sort()));

test('the tokens of the prompts are those of the tokenizer', () => {
  for (const [text, tokens] of Object.entries(prompts)) assert.equal(enc.encode(text), tokens);
});

test('in PyTorch, the parts of the difference of two logits add up', () => {
  const [difference = 0, ...parts] = flat(expected['logit-attribution'] as Expected)
    .slice(5)
    .reverse();
  close([parts.reduce((sum, part) => sum + part, 0)], [difference], { atol: 1e-5 });
});

test('each has fewer than 30 lines, and README.md and the page of TransformerLens names link it', () => {
  for (const name of names) {
    const lines = read(`assets/examples/${name}.ts`).trimEnd().split('\n');
    assert.ok(lines.length < 30, `${name}: ${lines.length} lines`);
    assert.ok(read('README.md').includes(`](assets/examples/${name}.ts)`), `${name} in README.md`);
    const page = read('assets/docs/transformer-lens.md');
    assert.ok(page.includes(`](../examples/${name}.ts)`), `${name} in transformer-lens.md`);
  }
});

for (const [name, values] of Object.entries(expected)) {
  if (!onCpu) {
    test.skip(name, 'the values are those of the CPU');
    continue;
  }
  test(name, async () => {
    close(await numbersOf(name), flat(values), { rtol: 1e-4, atol: 1e-4, label: name });
    const texts = (await run(name)).filter((leaf) => typeof leaf === 'string');
    let from = 0;
    for (const text of (values.texts ?? []).map((tokens) => enc.decode(tokens))) {
      const at = texts.findIndex((shown, i) => i >= from && shown.endsWith(text));
      assert.ok(at >= 0, `${name}: '${text}' in ${texts.slice(from).join(' | ')}`);
      from = at + 1;
    }
  });
}

if (onCpu) {
  test('attribution patching: the estimates go with the effects', async () => {
    const found = await numbersOf('attribution-patching');
    const n = (found.length - 1) / 2;
    assert.is(n, 4 * 8); // layers x positions
    const [x, y] = [found.slice(0, n), found.slice(n, 2 * n)] as [number[], number[]];
    const sum = (f: (i: number) => number) => x.reduce((total, _, i) => total + f(i), 0);
    const at = (list: number[], i: number) => list[i] as number;
    const covariance = (a: number[], b: number[]) =>
      sum((i) => at(a, i) * at(b, i)) - (sum((i) => at(a, i)) * sum((i) => at(b, i))) / n;
    const correlation = covariance(x, y) / Math.sqrt(covariance(x, x) * covariance(y, y));
    assert.ok(correlation > 0.99, `${correlation}`);
    close([found[2 * n] as number], [correlation], { atol: 1e-4 });
  });

  test('integrated gradients add up to the difference, and activations times gradients do not', async () => {
    const [without = 0, full = 0, integrated = 0, usual = 0] = await numbersOf('integrated-gradients');
    const difference = full - without;
    assert.ok(difference > 1);
    assert.ok(Math.abs(integrated - difference) < 0.002 * difference, `${integrated}, not ${difference}`);
    assert.ok(Math.abs(usual - difference) > 0.3 * difference, `${usual}, ${difference}`);
  });

  test('a steering vector: the loss falls at every step of the descent', async () => {
    const losses = await numbersOf('steering-vector');
    assert.is(losses.length, 11);
    for (const [i, loss] of losses.entries()) assert.ok(i === 0 || loss < (losses[i - 1] as number), `${losses}`);
    assert.ok((losses[10] as number) < 0.2 * (losses[0] as number));
  });
}

test.run();
