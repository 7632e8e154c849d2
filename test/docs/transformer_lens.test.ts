// The right columns of assets/docs/transformer-lens.md: each piece of code is run on the demo model. Oracles: the same
// computed in another way, from other activations and the weights.
import * as assert from 'uvu/assert';
import { stack } from '../../src/engine/ops/cat.js';
import { einsum } from '../../src/engine/ops/einsum.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { AtLayers, type FwdBwdHooks, type HookFunction, TransformerHooks } from '../../src/transformer/hooks.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { close } from '../support/close.js';
import { suite } from '../support/harness.js';
import { codeIn, docsPage, rows, runCode, section } from './markdown.js';

const test = suite('docs: TransformerLens');

const page = docsPage('transformer-lens.md');
const xf = await Transformer.load('demo');
const { nLayers, nHeads: H, dModel: D } = xf.config;
const text = 'Kate found a red ball in the garden';
const tokens = [xf.enc.encode(text)];
const cleanTokens = [xf.enc.encode('Paul saw a big dog at the river')];
const [S, C] = [(tokens[0] as number[]).length, D / H];
const [token = 0] = xf.enc.encode(' Kate');

type Values = ReadonlyMap<string, Tensor>;
const valuesOf = (of: number[][]): Promise<Values> =>
  xf.activations(of, [
    ...['resid/post_emb', 'resid/ln_f/scale', 'resid/ln_f/post_scale', 'resid/post_ln_f', 'logits'],
    ...['post_ln_attn', 'delta_attn', 'post_attn', 'post_ln_mlp', 'delta_mlp', 'post_mlp'].map((id) => `*/resid/${id}`),
    ...['q', 'k', 'v', 'qk_probs', 'v_out', 'head_out'].map((id) => `*/attn/${id}`),
    ...['*/mlp/pre_act', '*/mlp/post_act'],
  ]);
const [cache, clean] = [await valuesOf(tokens), await valuesOf(cleanTokens)];
const at = (location: string, values = cache): Tensor => values.get(location) as Tensor;
const sublayers = Array.from({ length: nLayers }, (_, L) => [`${L}/resid/delta_attn`, `${L}/resid/delta_mlp`]).flat();
/** What was added to the stream, and the same after the final layer norm. */
const parts = stack(['resid/post_emb', ...sublayers].map((location) => at(location)));
const scaled = parts.sub(parts.mean(-1, { keepDim: true })).div(at('resid/ln_f/scale'));

/** The tolerance of two ways of computing the same in float32. */
const nearly = { rtol: 1e-3, atol: 1e-4 };
async function same(actual: unknown, expected: Tensor, label = 'values'): Promise<void> {
  assert.instance(actual, Tensor);
  assert.equal((actual as Tensor).shape, expected.shape, label);
  close(await (actual as Tensor).read(), await expected.read(), { ...nearly, label });
}
const logitsOf = (result: unknown) => (result as { logits: Tensor }).logits;

/** The logits of the rest of the pass, behind a layer whose stream is this one. */
const logitsAfter = async (layer: number, residual: Tensor) =>
  (await xf.forward(tokens, { from: { layer: layer + 1, residual } })).logits;

/** A part of a tensor [batch, seq, …] exchanged for that of another one. */
function exchanged(x: Tensor, y: Tensor, part: (t: Tensor) => Tensor): Tensor {
  const copy = x.clone();
  part(copy).copyFrom(part(y));
  return copy;
}

// The greatest logit of the last position: any function of the logits will do.
const metric = (logits: Tensor) => logits.select(1, -1).max();
/** The metric of a pass in which a value is replaced. */
async function replaced(point: (hooks: TransformerHooks) => FwdBwdHooks, layer: number, by: Tensor): Promise<Tensor> {
  const hooks = new TransformerHooks();
  point(hooks).appendFwd(new AtLayers(layer).append(() => by));
  return metric((await xf.forward(tokens, { hooks })).logits);
}

/** What the pieces of a row's code gave, the hooks that they had, and what the hook `f` left. */
interface Run {
  readonly results: readonly unknown[];
  readonly hooks: TransformerHooks;
  readonly seen: readonly Tensor[];
}

const head = (t: Tensor) => t.select(2, 1);
const atPosition = (t: Tensor) => t.select(1, 3);

/** What holds of each row, by the code in its first cell. */
const checks: Record<string, (run: Run) => Promise<void> | void> = {
  'HookedTransformer.from_pretrained("gpt2")': ({ results: [model] }) => {
    assert.instance(model, Transformer);
  },
  'model.to_tokens(text)': ({ results: [made] }) => {
    assert.equal(made, [xf.enc.encode(`<|endoftext|>${text}`)]);
  },
  'model.to_single_token(" Kate")': ({ results: [made] }) => {
    assert.is(made, token);
    assert.is(xf.enc.decode([token]), ' Kate');
  },
  'model.to_str_tokens(text)': ({ results: [made] }) => {
    assert.is((made as string[]).join(''), text);
    assert.is((made as string[]).length, S);
  },
  'model.to_string(tokens)': ({ results: [made] }) => {
    assert.equal(made, [text]);
  },
  'model(tokens)': ({ results: [made] }) => same(logitsOf(made), at('logits')),
  'model(tokens, return_type="loss", loss_per_token=True)': async ({ results: [made] }) => {
    const logits = ((await at('logits').toArray()) as number[][][])[0] as number[][];
    const losses = (tokens[0] as number[]).slice(1).map((next, i) => {
      const own = logits[i] as number[];
      return Math.log(own.reduce((sum, logit) => sum + Math.exp(logit), 0)) - (own[next] as number);
    });
    await same(made, Tensor.from([losses]));
  },
  'logits, cache = model.run_with_cache(tokens)': async ({ results: [made] }) => {
    const values = made as Values;
    assert.is(values.size, 2 * nLayers + 1);
    for (const [location, value] of values) await same(value, at(location), location);
  },
  'model.run_with_cache(tokens, names_filter=names, stop_at_layer=2)': async ({ results: [made] }) => {
    assert.equal([...(made as Values).keys()], ['0/mlp/post_act', '1/resid/post_mlp']);
    for (const [location, value] of made as Values) await same(value, at(location), location);
  },
  'cache["pattern", 3]': async ({ results: [made] }) => {
    const logits = einsum('bqhc,bkhc->bhqk', at('3/attn/q'), at('3/attn/k'));
    const later = Tensor.ones([S, S]).triu(1).mul(1e9);
    await same(made, logits.sub(later).softmax(-1));
  },
  'cache["resid_pre", 3]': ({ results: [made] }) => same(made, at('3/resid/post_attn').sub(at('3/resid/delta_attn'))),
  'model.run_with_hooks(tokens, fwd_hooks=[("blocks.2.mlp.hook_post", f)])': async ({ results: [made], seen }) => {
    await same(seen[0], at('2/mlp/post_act').mul(2)); // f doubles what it sees
    assert.is(seen.length, 1);
    const residual = at('2/resid/post_mlp')
      .add(at('2/resid/delta_mlp'))
      .sub(xf.weight('xf_layers.2.mlp.out_layer.bias'));
    await same(logitsOf(made), await logitsAfter(2, residual));
  },
  'model.add_hook("blocks.2.mlp.hook_post", f), model.reset_hooks()': async ({ results: [made], seen }) => {
    assert.is(seen.length, 1);
    await same(logitsOf(made), at('logits'));
  },
  'model.run_with_hooks(tokens, bwd_hooks=[("blocks.2.mlp.hook_post", f)])': async ({ seen }) => {
    const location = '2/mlp/post_act';
    const { gradients } = await xf.gradients(tokens, { of: ({ logits }) => logits.max(), at: [location] });
    assert.is(seen.length, 1);
    await same(seen[0], at(location, gradients).mul(2));
  },
  'cache.accumulated_resid()': async ({ results: [made] }) => {
    let stream = at('resid/post_emb');
    for (let layer = 0; layer <= nLayers; layer++) {
      await same((made as Tensor).select(0, layer), stream, `layer ${layer}`);
      if (layer < nLayers) stream = stream.add(at(`${layer}/resid/delta_attn`)).add(at(`${layer}/resid/delta_mlp`));
    }
    assert.is((made as Tensor).shape[0], nLayers + 1);
  },
  'cache.decompose_resid()': async ({ results: [made] }) => {
    assert.is((made as Tensor).shape[0], 2 * nLayers + 1);
    await same((made as Tensor).sum(0), at(`${nLayers - 1}/resid/post_mlp`));
  },
  'cache.stack_head_results()': async ({ results: [made] }) => {
    assert.is((made as Tensor).shape[0], nLayers * H);
    for (let i = 0; i < nLayers * H; i++) {
      const [layer, own] = [Math.floor(i / H), i % H];
      const columns = xf.weight(`xf_layers.${layer}.attn.out_proj.weight`).slice(1, own * C, (own + 1) * C);
      const mixed = at(`${layer}/attn/v_out`).select(2, own);
      await same((made as Tensor).select(0, i), einsum('bsc,dc->bsd', mixed, columns), `layer ${layer}, head ${own}`);
    }
  },
  'cache.apply_ln_to_stack(parts)': ({ results: [made] }) => same((made as Tensor).sum(0), at('resid/ln_f/post_scale')),
  'cache.logit_attrs(parts, " Kate")': async ({ results: [made] }) => {
    const ofBias = xf.weight('unembed.weight').select(0, token).dot(xf.weight('final_ln.bias'));
    await same((made as Tensor).sum(0).add(ofBias), at('logits').select(-1, token));
  },
  'model.unembed(model.ln_final(residual))': async ({ results: [made] }) => {
    const mean = at('1/resid/post_mlp').mean(-1, { keepDim: true });
    const std = at('1/resid/post_mlp').var(-1, { keepDim: true, correction: 0 }).add(1e-5).sqrt();
    const scaled = at('1/resid/post_mlp').sub(mean).div(std);
    const read = scaled.mul(xf.weight('final_ln.weight')).add(xf.weight('final_ln.bias'));
    await same(logitsOf(made), einsum('bsd,vd->bsv', read, xf.weight('unembed.weight')));
  },
  'model(residual, start_at_layer=2)': ({ results: [made] }) => same(logitsOf(made), at('logits')),
  'model(more, past_kv_cache=kv_cache)': async ({ results: [made] }) => {
    const { logits } = await xf.forward([[...(tokens[0] as number[]), token]]);
    await same(logitsOf(made), logits.slice(1, -1));
  },
  'model.generate("Once there was", max_new_tokens=5, do_sample=False)': async ({ results: [made] }) => {
    const all = xf.enc.encode('Once there was');
    const before = all.length;
    for (let i = 0; i < 5; i++) {
      const { logits } = await xf.forward([all]);
      all.push(Number(await logits.select(1, -1).argmax().item()));
    }
    assert.equal((made as { strings: string[] }).strings, [xf.enc.decode(all.slice(before))]);
  },

  'get_act_patch_resid_pre(model, tokens, clean, metric)': async ({ results: [made] }) => {
    const residual = exchanged(at('1/resid/post_mlp'), at('1/resid/post_mlp', clean), atPosition);
    await same(made, metric(await logitsAfter(1, residual)));
  },
  'get_act_patch_resid_mid, get_act_patch_attn_out, get_act_patch_mlp_out': (run) =>
    checkPoints(run, ['hook_resid_mid', 'hook_attn_out', 'hook_mlp_out']),
  'get_act_patch_attn_head_out_all_pos(model, tokens, clean, metric)': async ({ results: [made] }) => {
    const by = exchanged(at('2/attn/head_out'), at('2/attn/head_out', clean), head);
    await same(made, await replaced((hooks) => hooks.attn.headOut, 2, by));
  },
  'get_act_patch_attn_head_out_by_pos(model, tokens, clean, metric)': async ({ results: [made] }) => {
    const by = exchanged(at('2/attn/head_out'), at('2/attn/head_out', clean), (t) => atPosition(t).select(1, 1));
    await same(made, await replaced((hooks) => hooks.attn.headOut, 2, by));
  },
  'get_act_patch_attn_head_q_all_pos, get_act_patch_attn_head_k_all_pos, get_act_patch_attn_head_v_all_pos': (run) =>
    checkPoints(run, ['attn.hook_q', 'attn.hook_k', 'attn.hook_v']),
  'get_act_patch_attn_head_pattern_all_pos(model, tokens, clean, metric)': async ({ results: [made] }) => {
    const mixed = einsum('bqkh,bkhc->bqhc', at('2/attn/qk_probs', clean), at('2/attn/v'));
    const by = exchanged(at('2/attn/v_out'), mixed, head);
    await same(made, await replaced((hooks) => hooks.attn.vOut, 2, by));
  },

  'model.W_E, model.W_pos': async ({ results: [ofTokens, ofPositions] }) => {
    const embedded = (ofTokens as Tensor).indexSelect(0, tokens[0] as number[]);
    await same(embedded.add((ofPositions as Tensor).slice(0, 0, S)).unsqueeze(0), at('resid/post_emb'));
  },
  'model.W_U': ({ results: [w] }) => same(einsum('bsd,dv->bsv', at('resid/post_ln_f'), w as Tensor), at('logits')),
  'model.W_Q[2, 1]': async ({ results: [w] }) => {
    const bias = xf.weight('xf_layers.2.attn.q_proj.bias').slice(0, C, 2 * C);
    const queries = einsum('bsd,dc->bsc', at('2/resid/post_ln_attn'), w as Tensor).add(bias);
    await same(queries.mul(C ** -0.25), head(at('2/attn/q')));
  },
  'model.W_O[2, 1]': ({ results: [w] }) =>
    same(einsum('bsc,cd->bsd', head(at('2/attn/v_out')), w as Tensor), head(at('2/attn/head_out'))),
  'model.W_in[2], model.W_out[2]': async ({ results: [wIn, wOut] }) => {
    const [bIn, bOut] = ['in', 'out'].map((side) => xf.weight(`xf_layers.2.mlp.${side}_layer.bias`)) as [
      Tensor,
      Tensor,
    ];
    await same(einsum('bsd,df->bsf', at('2/resid/post_ln_mlp'), wIn as Tensor).add(bIn), at('2/mlp/pre_act'));
    await same(einsum('bsf,fd->bsd', at('2/mlp/post_act'), wOut as Tensor).add(bOut), at('2/resid/delta_mlp'));
  },
};

/** Demands the hook points that the table of hook points gives for these names, `hook_resid_mid` or `attn.hook_q`. */
function checkPoints({ results, hooks }: Run, names: readonly string[]): void {
  const pointOf = new Map(rows(section(page, 'Hook points')).map(([point = '', theirs = '']) => [theirs, point]));
  const points = names.map((name) => pointOf.get(`\`blocks.L.${name}\``)?.replaceAll('`', '') ?? name);
  assert.is(results.length, points.length);
  for (const [i, point] of points.entries()) assert.ok(results[i] === hooks.at(point), point);
}

const table = ['Calls', 'Activation patching', 'Weights'].flatMap((heading) => rows(section(page, heading)));

test('every row is checked, and has code', () => {
  assert.equal(table.map(([cell = '']) => codeIn(cell).join(', ')).sort(), Object.keys(checks).sort());
  for (const [cell, here = '', , ...others] of table) {
    assert.ok(codeIn(here).length > 0, cell);
    assert.equal(here.replace(/`[^`]*`/g, '').replaceAll(', ', ''), '', cell);
    assert.is(others.length, 0, cell);
  }
});

for (const [cell = '', here = ''] of table) {
  const name = codeIn(cell).join(', ');
  test(name, async () => {
    const hooks = new TransformerHooks();
    const seen: Tensor[] = [];
    const f: HookFunction = (x) => {
      seen.push(x.mul_(2).clone());
    };
    const scope = {
      ...{ xf, text, tokens, token, cache, clean, hooks, f, metric, parts, scaled },
      ...{ residual: at('1/resid/post_mlp'), more: [[token]] },
    };
    const results: unknown[] = [];
    // the demo ships with the package, GPT-2 has to be fetched
    for (const code of codeIn(here)) results.push(await runCode(code.replace('gpt2-small', 'demo'), scope));
    await checks[name]?.({ results, hooks, seen });
  });
}

test.run();
