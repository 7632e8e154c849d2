// The part of the fixed program that runs models: passes of the references with every hook point, samples, and dumps of the demo.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DumpDType } from '../../src/dump/format/settings.js';
import { dump } from '../../src/dump/run.js';
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
    for (const point of [firstPoint, ...layerPoints, ...finalPoints]) {
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
    for (const options of [{ temperature: 0 }, { temperature: 0.9, topP: 0.8, seed: 5 }]) {
      const samples = await model.sample(g.json.prompts, { numTokens: 8, ...options });
      d.add(`${name} samples`, JSON.stringify(samples));
    }
  }
}

export async function dumps(d: Digests): Promise<void> {
  using model = await Transformer.load('demo', { device: d.device, dtype: d.dtype });
  const formats: DumpDType[] = d.dtype === 'float32' ? ['float32', 'float16', 'bfloat16', 'int8'] : ['float32', 'int8'];
  const layered = new Set(layerPoints.map((point) => point.replace('.torso.', '.').replaceAll('.', '/')));
  const locations = [
    ...locationNames.map((name) => (layered.has(name) ? `*/${name}` : name)),
    ...['resid_delta_attn', 'resid_delta_mlp', 'mlp_post_act'].map((name) => {
      const file = join('assets', 'demo', 'autoencoders', name, '{layer}.pt');
      return `*/${name.replace('resid_', 'resid/').replace('mlp_post', 'mlp/post')} -> ${file}`;
    }),
  ];
  for (const dtype of formats) {
    await withFolder(async (out) => {
      const options = { dtype, statistics: true, parquet: true, context: 37, limit: 1100, shardTokens: 600, batch: 7 };
      const wanted = dtype === 'int8' ? locations.filter((name) => !/qk_logits/.test(name)) : locations; // it holds no -Infinity
      await dump({ model, corpus: sampleText, locations: wanted, out, ...options });
      for (const name of (await readdir(out)).sort()) {
        const kind = /\.parquet$/.test(name) ? ' parquet' : name === 'manifest.json' ? ' manifest' : '';
        d.add(`dump ${dtype}${kind}`, `${name}\n`);
        d.add(
          `dump ${dtype}${kind}`,
          kind === ' manifest' ? await manifestOf(join(out, name)) : await readFile(join(out, name)),
        );
      }
    });
  }
}

/** A manifest without what names the machine's arithmetic. */
async function manifestOf(path: string): Promise<string> {
  return JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')), arithmetic: [] });
}
