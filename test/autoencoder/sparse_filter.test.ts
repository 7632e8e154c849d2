// encodeSparse of the demo's autoencoders with the filter of sparseEncode. Oracle: encodeSparse without it, byte for byte, of the
// activations of the demo model in a text of its own.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { activations } from '../../src/autoencoder/activation.js';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { openDevice } from '../../src/engine/device.js';
import { packageRoot } from '../../src/engine/native.js';
import type { SparseLatents } from '../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { loadTorch } from '../../src/files/torch/torch.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { suite } from '../support/harness.js';
import { bytesOf } from '../support/operations/filter_cases.js';

const test = suite('autoencoders with a filter');
const folder = join(packageRoot, 'assets', 'demo');

/** The CPU with SONDE_FILTER, which is read when a device is opened: one for each number of threads. */
function deviceWith(filter: '0' | '1', threads: number) {
  const before = process.env.SONDE_FILTER;
  process.env.SONDE_FILTER = filter;
  const device = openDevice('cpu', { threads });
  if (before === undefined) delete process.env.SONDE_FILTER;
  else process.env.SONDE_FILTER = before;
  return device;
}
const [without, withFilter] = [deviceWith('0', 1), deviceWith('1', 2)];

const kinds = {
  mlp_post_act: 'mlp/post_act',
  resid_delta_attn: 'resid/delta_attn',
  resid_delta_mlp: 'resid/delta_mlp',
};

for (const [kind, at] of Object.entries(kinds)) {
  test(`${kind}: each layer, with the activation of the file and with TopK`, async () => {
    using xf = await Transformer.load('demo', { device: without });
    const text = readFileSync(join(folder, 'stories-sample.txt'), 'utf8').slice(0, 4000);
    const tokens = xf.enc.encode(text).slice(0, xf.config.ctxWindow);
    const layers = [...Array(xf.config.nLayers).keys()];
    const found = await xf.activations(
      [tokens],
      layers.map((layer) => `${layer}/${at}`),
    );
    for (const layer of layers) {
      const activation = found.get(`${layer}/${at}`) as Tensor;
      const values = await activation.read();
      const shape = [tokens.length, activation.shape.at(-1) as number];
      const state = await loadTorch(join(folder, 'autoencoders', kind, `${layer}.pt`));
      const states = [
        state,
        ...[1, 32].map((k) => ({ ...state, activation: 'TopK', activation_state_dict: { k, postact_fn: 'ReLU' } })),
        { ...state, activation: 'TopK', activation_state_dict: { k: 32, postact_fn: 'Identity' } },
      ];
      for (const each of states) {
        const results: SparseLatents[] = [];
        for (const device of [without, withFilter]) {
          using ae = Autoencoder.fromStateDict(each, { device });
          using x = Tensor.from(values, { shape, device });
          const entries = await device.profile(async () => {
            for (const threshold of [0, 0.5]) results.push(await ae.encodeSparse(x, { threshold }));
          });
          const counts = entries.filter(({ operation }) => operation === 'sparseEncode').map(({ filter }) => filter);
          assert.is(counts.length, 2);
          assert.ok(counts.every((count) => (count?.groups ?? 0) > 0 === (device === withFilter)));
        }
        const [a, b, filteredA, filteredB] = results.map(bytesOf) as [Buffer, Buffer, Buffer, Buffer];
        const name = `layer ${layer}, ${each.activation ?? activations.relu().name}`;
        assert.ok(filteredA.equals(a) && filteredB.equals(b), name);
        assert.ok((results[0]?.values.length ?? 0) > 0, name);
      }
    }
  });
}

test.run();
