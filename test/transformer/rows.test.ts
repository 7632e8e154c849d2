// A row of a batch gives the same bits alone, among others, padded, and with any number of threads: every activation,
// the logits and the latents, in float32 and bfloat16.
import * as assert from 'uvu/assert';
import { activations } from '../../src/autoencoder/activation.js';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { dump } from '../../src/dump/run.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { assertSameFolder } from '../dump/folders.js';
import { close } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('rows of a model');
const rng = random(9);
const lengths = emulated() ? [9, 4] : [70, 1, 33, 70, 64, 17];
const rows = lengths.map((length) => Array.from({ length }, () => rng.integer(0, 50_257)));
const longest = Math.max(...lengths);
const dtypes = ['float32', 'bfloat16'] as const;
const locations = ['1/mlp/post_act', '1/resid/delta_mlp', '1/attn/v_out', '1/attn/head_out', '0/resid/post_attn'];

type Values = Record<string, ArrayLike<number>>;

/** Values of each row at each location, padding left out, as bits. */
async function valuesOf(model: Transformer, autoencoders: Autoencoder[], batch: number[][]) {
  const padded = batch.map((row) => [...row, ...Array<number>(longest - row.length).fill(0)]);
  const seq = Math.max(...batch.map((row) => row.length));
  const tokens = padded.map((row) => row.slice(0, seq));
  const all = batch.map((): Values => ({}));
  const { logits } = await model.forward(tokens);
  const found = await model.activations(tokens, locations);
  for (const [name, tensor] of [['logits', logits] as const, ...found]) {
    const values = await tensor.read();
    const width = tensor.size / (batch.length * seq);
    for (const [i, row] of batch.entries()) {
      const from = i * seq * width;
      (all[i] as Values)[name] = values.slice(from, from + row.length * width);
    }
  }
  const delta = found.get('1/resid/delta_mlp');
  for (const [a, autoencoder] of autoencoders.entries()) {
    const { rowPtr, indices, values } = await autoencoder.encodeSparse(delta as NonNullable<typeof delta>);
    for (const [i, row] of batch.entries()) {
      const [from, to] = [Number(rowPtr[i * seq]), Number(rowPtr[i * seq + row.length])];
      Object.assign(all[i] as object, {
        [`latents ${a}`]: indices.slice(from, to),
        [`values ${a}`]: values.slice(from, to),
      });
    }
  }
  for (const tensor of [logits, ...found.values()]) tensor.dispose();
  return all;
}

for (const dtype of dtypes) {
  test(
    `${dtype}: alone, among others, padded, on other threads`,
    async () => {
      let expected: Values[] | undefined;
      for (const threads of [1, 2, 3]) {
        const device = testDevice(threads);
        using model = await Transformer.load('random:tiny', { device, dtype });
        const sizes = { nLatents: 700, nInputs: model.config.dModel, device, dtype };
        using threshold = new Autoencoder({ ...sizes, activation: activations.relu() });
        using top = new Autoencoder({ ...sizes, activation: activations.topK(11) });
        const run = (batch: number[][]) => valuesOf(model, [threshold, top], batch);
        const whole = await run(rows);
        expected ??= whole;
        assert.ok((whole[0]?.['latents 1']?.length ?? 0) > 0, 'no latents');
        const batches = [...rows.keys()].map((row) => [row]);
        for (const own of [[...rows.keys()], [5, 3, 1, 0].filter((row) => row < rows.length), ...batches]) {
          const got = await run(own.map((row) => rows[row] as number[]));
          for (const [i, row] of own.entries()) {
            for (const [name, values] of Object.entries(expected[row] as Values)) {
              const label = `${name} of row ${row} in [${own}] on ${threads} threads`;
              close(got[i]?.[name] as ArrayLike<number>, values, { label });
            }
          }
        }
      }
    },
    { limit: 300_000 },
  );

  test(`${dtype}: a dump is the same, byte for byte, for any batch and number of threads`, () =>
    withFolder(async (folder) => {
      async function* corpus() {
        yield* rows;
      }
      const folders: string[] = [];
      for (const [threads, batch] of [
        [1, 1],
        [2, 3],
        [3, 64],
      ] as const) {
        const device = testDevice(threads);
        using model = await Transformer.load('random:tiny', { device, dtype });
        const sizes = { nInputs: model.config.dModel, nLatents: 300, device, dtype };
        using ae = new Autoencoder({ ...sizes, activation: activations.topK(7) });
        const out = `${folder}/${threads}-${batch}`;
        const locations = ['1/resid/delta_mlp -> ae', '0/mlp/post_act'];
        await dump({ model, corpus: corpus(), locations, autoencoders: { ae }, out, context: 40, batch });
        folders.push(out);
      }
      for (const other of folders.slice(1)) await assertSameFolder(other, folders[0] as string);
    }));
}

test.run();
