// The part of the fixed program that runs models: passes of the references with every hook point, samples, and dumps of the demo.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DumpDType } from '../../src/dump/format/settings.js';
import { dump } from '../../src/dump/run.js';
import type { DumpOptions } from '../../src/dump/shards/options.js';
import type { Tensor } from '../../src/engine/ops/tensor.js';
import { TransformerHooks } from '../../src/transformer/hooks.js';
import { finalPoints, firstPoint, layerPoints, locationNames } from '../../src/transformer/location.js';
import { prepInputAndPad } from '../../src/transformer/padding.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { sampleText } from '../dump/folders.js';
import { withFolder } from '../support/folders.js';
import { goldenNames, openGolden } from '../support/goldens.js';
import type { Digests } from './digests.js';

export async function references(d: Digests): Promise<void> {
  for (const name of goldenNames) {
    const g = await openGolden(name);
    using model = await Transformer.load(g.folder, { device: d.device, dtype: d.dtype });
    const seen: [name: string, value: Tensor][] = [];
    const hooks = new TransformerHooks();
    // the output of heads has a digest of its own, as hooks there give delta_attn other bits
    for (const point of [firstPoint, ...layerPoints, ...finalPoints].filter((point) => point !== 'attn.head_out')) {
      const part = `${name} ${/^\w+/.exec(point)}`;
      hooks.appendToPath(`${point}.fwd`, (x) => {
        seen.push([part, x.clone()]);
      });
    }
    const watched = await model.forward(g.rows('tokens'), { hooks });
    for (const [part, value] of seen) await d.take(part, value);
    const plain = await model.forward(g.rows('tokens'));
    const { tokens, pad } = prepInputAndPad(g.json.prompts, 'left', d.device);
    const padded = await model.forward(tokens, { pad });
    await d.take(`${name} logits`, watched.logits, plain.logits, padded.logits);
    for (const { kvCaches } of [watched, plain, padded]) kvCaches.dispose();
    if (d.dtype !== 'bfloat16') await heads(d, name, model, g.rows('tokens'));
    for (const options of [{ temperature: 0 }, { temperature: 0.9, topP: 0.8, seed: 5 }]) {
      const samples = await model.sample(g.json.prompts, { numTokens: 8, ...options });
      d.add(`${name} samples`, JSON.stringify(samples));
    }
  }
}

/** The output of each head, and what attention adds when it is made of them. */
async function heads(d: Digests, name: string, model: Transformer, tokens: number[][]): Promise<void> {
  const wanted = await model.activations(tokens, ['*/attn/head_out']);
  await d.take(`${name} heads`, ...wanted.values());
  const hooks = new TransformerHooks();
  hooks.attn.headOut.appendFwd(() => {});
  const sums = await model.activations(tokens, ['*/resid/delta_attn'], { hooks });
  await d.take(`${name} heads`, ...sums.values());
}

export async function dumps(d: Digests): Promise<void> {
  using model = await Transformer.load('demo', { device: d.device, dtype: d.dtype });
  // the models and formats of 16 bits differ from float32 in little else than a rounding: few tokens show it
  const formats: [dtype: DumpDType, tokens: number][] = [[d.dtype, 37]];
  if (d.dtype === 'float32') formats.splice(0, 1, ['float32', 259], ['int8', 259], ['float16', 37], ['bfloat16', 37]);
  const layered = new Set(layerPoints.map((point) => point.replace('.torso.', '.').replaceAll('.', '/')));
  const locations = locationNames
    .filter((name) => name !== 'logits' && name !== 'attn/head_out')
    .map((name) => (layered.has(name) ? `*/${name}` : name));
  const latents = ['resid/delta_attn', 'resid/delta_mlp', 'mlp/post_act'].map(
    (name) => `*/${name} -> ae-${name.replace(/\W|_/g, '-')}`,
  );
  for (const [dtype, limit] of formats) {
    const options = { dtype, statistics: true, parquet: true, context: 37, limit, shardTokens: 150, batch: 7 };
    const held = locations.filter((name) => dtype !== 'int8' || !name.endsWith('qk_logits')); // int8 holds no -Infinity
    await addDump(d, `dump ${dtype}`, { ...options, model, locations: [...held, ...latents] });
    if (dtype !== 'float32') continue;
    // a token has 50,257 of them
    const few = { ...options, model, parquet: false, context: 5, limit: 10 };
    await addDump(d, `dump ${dtype}`, { ...few, locations: 'logits' });
  }
}

async function addDump(d: Digests, name: string, options: Omit<DumpOptions, 'corpus' | 'out'>): Promise<void> {
  await withFolder(async (out) => {
    await dump({ ...options, corpus: sampleText, out });
    // The index of the corpus has nothing that is computed.
    for (const file of (await readdir(out)).filter((name) => name !== 'index.jsonl').sort()) {
      const of = file.endsWith('.parquet') ? `${name} parquet` : name;
      d.add(of, `${file}\n`);
      d.add(of, file === 'manifest.json' ? await manifestOf(join(out, file)) : await readFile(join(out, file)));
    }
  });
}

/** A manifest without what names the machine's arithmetic. */
async function manifestOf(path: string): Promise<string> {
  return JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')), arithmetic: [] });
}
