// Oracles of assets/docs/model-pieces.md: locationShape, parameterShape, what passes in bfloat16 give, whole passes, and a
// pass that is written out here by the sentences of the page.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import { einsum } from '../../src/engine/ops/einsum.js';
import { matmul } from '../../src/engine/ops/matmul.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { where } from '../../src/engine/ops/where.js';
import { TransformerHooks } from '../../src/transformer/hooks.js';
import { finalPoints, firstPoint, formatLocation, layerPoints, locationShape } from '../../src/transformer/location.js';
import { prepInputAndPad } from '../../src/transformer/padding.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { dAttn, dFf, dHead, sizes, type TransformerConfig } from '../../src/transformer/weights/config.js';
import { parameterNames, parameterShape } from '../../src/transformer/weights/state_dict.js';
import { close } from '../support/close.js';
import { suite } from '../support/harness.js';
import { blocksOf, codeIn, docsPage, rows, runCode, section } from './markdown.js';

const test = suite('docs: the pieces of a model');

const page = docsPage('model-pieces.md');
const demo = await Transformer.load('demo');
const text = 'Kate found a red ball in the garden';
const tokens = [demo.enc.encode(text), demo.enc.encode(`${text} and the park`).slice(2)].map((row) => row.slice(0, 8));
const [B, S] = [tokens.length, 8];
const nVocab = 50257;

/** The numbers of the letters. */
const lettersOf = (config: TransformerConfig, V: number, pass: { B: number; S: number; T: number }) => ({
  ...{ ...pass, N: config.ctxWindow, D: config.dModel, H: config.nHeads, C: dHead(config) },
  ...{ A: dAttn(config), F: dFf(config), V },
});
type Letters = ReturnType<typeof lettersOf>;

/** `[B, S, 1]` in numbers. */
function inNumbers(cell: string, letters: Letters): number[] {
  const [, inside = ''] = /^\[([\w, ]+)\]$/.exec(cell) ?? [];
  assert.ok(inside, `${cell} is a shape`);
  return inside.split(', ').map((size) => {
    const number = /^\d+$/.test(size) ? Number(size) : letters[size as keyof Letters];
    assert.type(number, 'number', `${size} in ${cell}`);
    return number;
  });
}

/** A size of its own for each letter, but for T, which is S without caches. */
const config: TransformerConfig = {
  enc: 'gpt2',
  ctxWindow: 13,
  dModel: 40,
  nLayers: 2,
  mAttn: 0.6,
  nHeads: 4,
  mMlp: 3,
};

test('the letters, and their numbers in gpt2-small', () => {
  const small = lettersOf(sizes['gpt2-small'] as TransformerConfig, nVocab, { B: 0, S: 0, T: 0 });
  const own = lettersOf(config, 500, { B: 2, S: 7, T: 7 });
  assert.is(new Set(Object.values(own)).size, Object.keys(own).length - 1);
  const table = rows(page.split(/^## /m)[0] as string);
  assert.equal(table.map(([letter]) => letter).sort(), Object.keys(small).sort());
  for (const [letter = '', , number = ''] of table) {
    assert.is(Number(number), small[letter as keyof Letters], letter);
  }
});

// ---- activations

test('every hook point has its row: shapes are those of locationShape, dtypes those of a pass in bfloat16', async () => {
  const table = rows(section(page, 'Activations'));
  const inLayer = layerPoints.map((point) => formatLocation({ point, layer: 1 }).replace('1/', 'L/'));
  const outside = finalPoints.map((point) => formatLocation({ point }));
  const points = [firstPoint, ...layerPoints, ...finalPoints];
  assert.equal(
    table.map(([name]) => name),
    [formatLocation({ point: firstPoint }), ...inLayer, ...outside].map((name) => `\`${name}\``),
  );

  const half = await Transformer.load('demo', { dtype: 'bfloat16' });
  // what hooks see in a pass that continues caches: the dtype and the shape of each point
  const seen = new Map<string, { dtype: string; shape: readonly number[] }>();
  const hooks = new TransformerHooks().appendAll((x, { point = '' }) => {
    seen.set(point, { dtype: x.dtype, shape: x.shape });
  });
  const { kvCaches } = await half.forward(tokens);
  await half.forward(
    tokens.map((row) => row.slice(0, 3)),
    { kvCaches, hooks },
  );
  const continued = lettersOf(half.config, nVocab, { B, S: 3, T: S + 3 });
  const whole = lettersOf(half.config, nVocab, { B, S, T: S });
  const own = lettersOf(config, 500, { B: 2, S: 7, T: 7 });
  for (const [i, [cell = '', shape = '', dtype, sentence]] of table.entries()) {
    const location = cell.replaceAll('`', '').replace('L/', '1/');
    assert.ok(sentence, `${location}: a sentence`);
    assert.equal(inNumbers(shape, own), locationShape(location, config, 500, 2, 7), location);
    const expected = dtype === "the model's" ? 'bfloat16' : dtype;
    const value = (await half.activations(tokens, [location])).get(location) as Tensor;
    assert.equal([value.dtype, value.shape], [expected, inNumbers(shape, whole)], location);
    value.dispose();
    assert.equal(seen.get(points[i] as string), { dtype: expected, shape: inNumbers(shape, continued) }, location);
  }
  assert.is(seen.size, table.length);
  kvCaches.dispose();
  half.dispose();
});

/** All activations of one row, by the sentences of the page. */
function writtenOut(xf: Transformer, row: number[]): Map<string, Tensor> {
  const { nLayers, nHeads: H, dModel: D } = xf.config;
  const [n, C] = [row.length, dHead(xf.config)];
  const made = new Map<string, Tensor>();
  const at = (location: string, x: Tensor): Tensor => {
    made.set(location, x);
    return x;
  };
  const affine = (x: Tensor, name: string, shape = [1, n, xf.weight(`${name}.bias`).size]) =>
    matmul(x, xf.weight(`${name}.weight`), { transposeB: true })
      .add(xf.weight(`${name}.bias`))
      .reshape(...shape);
  const norm = (x: Tensor, inside: string, result: string, name: string) => {
    const centred = at(`${inside}/post_mean_subtraction`, x.sub(x.mean(-1, { keepDim: true })));
    const scale = at(`${inside}/scale`, x.var(-1, { keepDim: true, correction: 0 }).add(1e-5).sqrt());
    const scaled = at(`${inside}/post_scale`, centred.div(scale));
    return at(result, scaled.mul(xf.weight(`${name}.weight`)).add(xf.weight(`${name}.bias`)));
  };
  const later = Tensor.ones([n, n]).triu(1).unsqueeze(-1); // [query, key, 1]
  const embedded = xf.weight('tok_embed.weight').indexSelect(0, row);
  let x = at('resid/post_emb', embedded.add(xf.weight('pos_embed.weight').slice(0, 0, n)).unsqueeze(0));
  for (let layer = 0; layer < nLayers; layer++) {
    const [L, w, heads] = [layer, `xf_layers.${layer}`, [1, n, H, C]];
    const read = norm(x, `${L}/resid/ln_attn`, `${L}/resid/post_ln_attn`, `${w}.ln_1`);
    const q = at(`${L}/attn/q`, affine(read, `${w}.attn.q_proj`, heads).mul(C ** -0.25));
    const k = at(`${L}/attn/k`, affine(read, `${w}.attn.k_proj`, heads).mul(C ** -0.25));
    const v = at(`${L}/attn/v`, affine(read, `${w}.attn.v_proj`, heads));
    const products = einsum('bqhc,bkhc->bqkh', q, k);
    const logits = at(`${L}/attn/qk_logits`, where(later.gt(0), Number.NEGATIVE_INFINITY, products));
    const powers = logits.sub(logits.max(2, { keepDim: true })).exp();
    const denominator = at(`${L}/attn/qk_softmax_denominator`, powers.sum(2, { keepDim: true }));
    const probs = at(`${L}/attn/qk_probs`, powers.div(denominator));
    const mixed = at(`${L}/attn/v_out`, einsum('bqkh,bkhc->bqhc', probs, v));
    // columns h C to (h + 1) C are those of head h
    const columns = xf.weight(`${w}.attn.out_proj.weight`).reshape(D, H, C);
    const written = at(`${L}/attn/head_out`, einsum('bshc,dhc->bshd', mixed, columns));
    const delta = at(`${L}/resid/delta_attn`, written.sum(2).add(xf.weight(`${w}.attn.out_proj.bias`)));
    x = at(`${L}/resid/post_attn`, x.add(delta));
    const input = norm(x, `${L}/resid/ln_mlp`, `${L}/resid/post_ln_mlp`, `${w}.ln_2`);
    const neurons = at(`${L}/mlp/post_act`, at(`${L}/mlp/pre_act`, affine(input, `${w}.mlp.in_layer`)).gelu());
    x = at(`${L}/resid/post_mlp`, x.add(at(`${L}/resid/delta_mlp`, affine(neurons, `${w}.mlp.out_layer`))));
  }
  const end = norm(x, 'resid/ln_f', 'resid/post_ln_f', 'final_ln');
  at('logits', matmul(end, xf.weight('unembed.weight'), { transposeB: true }));
  return made;
}

test('the sentences about activations and weights: a pass that is written out by them', async () => {
  const expected = writtenOut(demo, tokens[0] as number[]);
  const values = await demo.activations([tokens[0] as number[]], [...expected.keys()]);
  assert.is(values.size, 1 + layerPoints.length * demo.config.nLayers + finalPoints.length);
  for (const [location, value] of values) {
    const own = expected.get(location) as Tensor;
    assert.equal(value.shape, own.shape, location);
    close(await value.read(), await own.read(), { rtol: 1e-3, atol: 1e-3, label: location });
  }
});

// ---- weights

test('every weight has its row: shapes are those of parameterShape', () => {
  const table = rows(section(page, 'Weights'));
  const own = lettersOf(config, 500, { B: 2, S: 7, T: 7 });
  const small = sizes['gpt2-small'] as TransformerConfig;
  const names = [...new Set(parameterNames(config).map((name) => name.replace(/^xf_layers\.\d+/, 'xf_layers.L')))];
  const inOrder = (list: readonly string[]) => [...list].sort();
  assert.equal(inOrder(table.map(([name = '']) => name.replaceAll('`', ''))), inOrder(names));
  for (const [cell = '', letters = '', numbers, sentence, ...others] of table) {
    const name = cell.replaceAll('`', '').replace('.L.', '.1.');
    assert.equal(inNumbers(letters, own), parameterShape(name, config, 500), name);
    assert.is(numbers, `[${parameterShape(name, small, nVocab).join(', ')}]`, name);
    assert.ok(sentence, `${name}: a sentence`);
    assert.is(others.length, 1, `${name}: what simplify does`);
  }
});

test('what simplify does to each weight is what its row says', async () => {
  const folded = await Transformer.load('demo', { simplify: true });
  const layer = 2;
  const before = (name: string) => demo.weight(name.replace('.L.', `.${layer}.`));
  for (const [cell = '', , , , says = ''] of rows(section(page, 'Weights'))) {
    const name = cell.replaceAll('`', '');
    const [, norm] = /`(ln_\d)`/.exec(says) ?? [];
    const gain = () => before(`xf_layers.L.${norm}.weight`);
    const shift = () => before(`xf_layers.L.${norm}.bias`);
    const old = before(name);
    const expected = {
      '': () => old,
      '1 everywhere': () => old.clone().fill(1),
      '0 everywhere': () => old.clone().fill(0),
      'each column times the gain': () => old.mul(gain()),
      'plus the weight times the bias': () =>
        old.add(einsum('oi,i->o', before(name.replace('.bias', '.weight')), shift())),
    }[says.replace(/ of `ln_\d`$/, '')];
    assert.ok(expected, `${name}: ${says}`);
    const now = folded.weight(name.replace('.L.', `.${layer}.`));
    close(await now.read(), await expected().read(), { rtol: 1e-5, atol: 1e-5, label: name });
  }
  folded.dispose();
});

test('a weight is a copy, and the state dict has all', async () => {
  const name = 'xf_layers.1.mlp.out_layer.weight';
  const { shape, data } = (await demo.stateDict())[name] ?? {};
  assert.equal(shape, [64, 256]);
  demo.weight(name).fill(0);
  assert.equal(await demo.weight(name).read(), data);
  assert.equal(Object.keys(await demo.stateDict()), parameterNames(demo.config));
});

// ---- passes in part

async function sameBits(actual: Tensor, expected: Tensor, label: string): Promise<void> {
  const [a, b] = [await actual.read(), await expected.read()].map((values) => new Uint8Array(values.buffer));
  assert.ok(Buffer.compare(a as Uint8Array, b as Uint8Array) === 0, `${label}: the bits differ`);
}

for (const dtype of ['float32', 'bfloat16'] as const) {
  test(`passes in part have the bits of whole ones, ${dtype}`, async () => {
    const xf = await Transformer.load('demo', { dtype });
    const { nLayers } = xf.config;
    const { tokens: padded, pad } = prepInputAndPad(
      [tokens[0] as number[], tokens[1]?.slice(0, 5) as number[]],
      'left',
    );
    const all = ['resid/post_emb', '*/resid/post_mlp', '*/attn/head_out', 'logits'];
    const whole = await xf.activations(padded, all, { pad });
    const logits = whole.get('logits') as Tensor;
    // columns of the positions: the second row has three columns of padding
    const logitsAt = [
      [0, -1, 2],
      [0, -1, 2],
    ];
    const columns = [
      [0, 7, 2],
      [3, 7, 5],
    ];
    const chosen = await xf.activations(padded, all, { pad, logitsAt });
    for (const [location, value] of whole) {
      if (location !== 'logits') await sameBits(chosen.get(location) as Tensor, value, location);
    }
    const some = chosen.get('logits') as Tensor;
    assert.equal(some.shape, [2, 3, nVocab]);
    for (const [row, own] of columns.entries()) {
      for (const [i, column] of own.entries()) {
        const [a, b] = [some.select(0, row).select(0, i), logits.select(0, row).select(0, column)];
        await sameBits(a, b, `row ${row}, column ${column}`);
      }
    }
    const streams = [...whole].filter(([name]) => /post_emb|post_mlp/.test(name)).map(([, value]) => value);
    assert.is(streams.length, nLayers + 1);
    for (const [layer, residual] of streams.entries()) {
      const part = await xf.forward(Tensor.zeros([2, 8], { dtype: 'int32' }), { pad, from: { layer, residual } });
      await sameBits(part.logits, logits, `from layer ${layer}`);
    }
    xf.dispose();
  });
}

test('hooks at the logits see the chosen positions', async () => {
  const hooks = new TransformerHooks();
  const seen: unknown[] = [];
  hooks.logits.appendFwd(async (x, { positions }) => {
    seen.push(x.shape, await positions.toArray());
  });
  await demo.forward(tokens, { hooks, logitsAt: tokens.map(() => [-1, 2]) });
  const last = S - 1;
  assert.equal(seen, [
    [2, 2, nVocab],
    [
      [last, 2],
      [last, 2],
    ],
  ]);
});

test('a residual stream may be changed after the pass, and may be a leaf; caches hold the layers from there on', async () => {
  const location = '1/resid/post_mlp';
  const stream = async () => (await demo.activations(tokens, [location])).get(location) as Tensor;
  const whole = await demo.forward(tokens);
  const residual = await stream();
  const part = await demo.forward(tokens, { from: { layer: 2, residual } });
  residual.fill(0);
  residual.dispose();
  await sameBits(part.logits, whole.logits, 'logits');
  const [all, held] = [whole.kvCaches, part.kvCaches];
  for (const layer of [2, 3]) await sameBits(held.keys(layer), all.keys(layer), `keys of layer ${layer}`);

  const leaf = (await stream()).requireGrad();
  const { logits } = await demo.forward(tokens, { from: { layer: 2, residual: leaf }, grad: true });
  await logits.max().backward();
  const { gradients } = await demo.gradients(tokens, { of: (pass) => pass.logits.max(), at: [location] });
  close(await (leaf.grad as Tensor).read(), await (gradients.get(location) as Tensor).read(), {
    rtol: 1e-4,
    atol: 1e-6,
  });
});

test('what is refused is refused in these words', async () => {
  const table = rows(section(page, 'Passes in part')).filter(([cell]) => /await/.test(cell ?? ''));
  assert.ok(table.length > 8);
  const five = [(tokens[0] as number[]).slice(0, 5)];
  const location = '1/resid/post_mlp';
  const residual = (await demo.activations(five, [location])).get(location) as Tensor;
  for (const [cell = '', error = ''] of table) {
    const [code = ''] = codeIn(cell);
    const { kvCaches } = await demo.forward(five);
    const hooks = new TransformerHooks();
    const scope = { xf: demo, tokens: five, residual, from: { layer: 2, residual }, kvCaches, hooks, f: () => {} };
    let message: unknown;
    await runCode(code, scope).catch((thrown) => {
      message = thrown.message;
    });
    assert.is(`\`${message}\``, error, code);
    kvCaches.dispose();
  }
});

// ---- examples

const folder = 'test/docs/pieces_examples';
const programs = readdirSync(join(packageRoot, folder));
const sourceOf = (name: string) =>
  readFileSync(join(packageRoot, folder, name), 'utf8')
    .split('\n')
    .slice(1)
    .join('\n');

test('the examples are those that run', () => {
  const shown = blocksOf(page);
  const sources = programs.map((name) => sourceOf(name).replaceAll("'../../../src/index.js'", "'sonde'"));
  assert.equal([...shown].sort(), sources.sort());
});

for (const name of programs) {
  test(`the example of ${name} prints what its comments promise`, () => {
    const program = join(packageRoot, 'build-test', folder, name.replace(/ts$/, 'js'));
    const printed = execFileSync(process.execPath, [program], { cwd: packageRoot, encoding: 'utf8' });
    const promised = [...sourceOf(name).matchAll(/\/\/ → (.*)$/gm)].map(([, line]) => `${line}\n`);
    assert.ok(promised.length > 1);
    assert.is(printed, promised.join(''));
  });
}

test.run();
