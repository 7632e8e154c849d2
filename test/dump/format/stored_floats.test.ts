// Oracles: float32 dumps of the same values, and the bound on the error that the format promises.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { dequantized, quantized } from '../../../src/dump/format/stored_floats.js';
import { openDump } from '../../../src/dump/read/reader.js';
import { dump } from '../../../src/dump/run.js';
import { loadSafetensors } from '../../../src/files/safetensors/safetensors.js';
import { Transformer } from '../../../src/transformer/transformer.js';
import { close } from '../../support/close.js';
import { withFolder } from '../../support/folders.js';
import { rejects, suite, throws } from '../../support/harness.js';
import { random } from '../../support/random.js';
import { resealed, sampleText } from '../folders.js';
import { plantedModel, setAt } from '../planted.js';

const test = suite('stored floats');

test('int8: no value is off by more than half a scale, and each vector uses its whole range', () => {
  const rng = random(2);
  for (let i = 0; i < 60; i++) {
    const [vectors = 0, width = 1] = rng.shape(2, { min: 1 });
    const values = rng.floats(vectors * width, rng.pick([1e-38, 1e-3, 1, 1e30]));
    if (i % 3 === 0) values.fill(0, 0, width);
    const { integers, scales } = quantized(values, width);
    const back = dequantized({ integers, scales });
    for (let v = 0; v < vectors; v++) {
      const own = values.subarray(v * width, (v + 1) * width);
      const largest = own.reduce((a, x) => Math.max(a, Math.abs(x)), 0);
      const scale = scales[v] as number;
      close([scale], [largest / 127], { rtol: 1e-6, atol: 1e-45, label: `scale ${v}` });
      for (let c = 0; c < width; c++) {
        const error = Math.abs((back[v * width + c] as number) - (own[c] as number));
        assert.ok(error <= scale * 0.5001 + 1e-45, `${own[c]} became ${back[v * width + c]}, scale ${scale}`);
      }
    }
  }
  // The scale of the smallest numbers is not exact.
  const tiny = Float32Array.of(2e-43, -2.1e-43, 1e-45, 0);
  close(dequantized(quantized(tiny, 4)), tiny, { atol: 4e-44 });
  for (const odd of [Number.NaN, Infinity, -Infinity]) {
    throws(() => quantized(Float32Array.of(1, odd), 2), RangeError, /is not finite, which int8 cannot hold/);
  }
});

for (const drop of [[], ['padding']] as const) {
  test(`an int8 dump${drop.length > 0 ? ' without padding' : ''}: a scale for each token; latents are float16`, () =>
    withFolder(async (folder) => {
      const [exact, out] = [join(folder, 'exact'), join(folder, 'out')];
      const locations = ['1/mlp/post_act', '0/attn/q', '1/resid/delta_mlp -> ae-resid-delta-mlp'];
      const model = await Transformer.load('demo');
      const options = { model, corpus: sampleText, locations, limit: 700, context: 32, shardTokens: 320 };
      await dump({ ...options, out: exact, dtype: 'float32' });
      await dump({ ...options, out, dtype: 'int8', drop });
      await using before = await openDump(exact);
      await using made = await openDump(out);
      assert.equal(await made.verify(), []);
      for (const location of ['1/mlp/post_act', '0/attn/q'] as const) {
        const [{ data: expected }, { data, shape }] = [await before.rows(location), await made.rows(location)];
        const width = shape.slice(2).reduce((a, b) => a * b, 1);
        for (let from = 0; from < data.length; from += width) {
          const own = expected.subarray(from, from + width);
          const half = own.reduce((a, x) => Math.max(a, Math.abs(x)), 0) / 254;
          close(data.subarray(from, from + width), own, { atol: half * 1.001, label: `${location} ${from / width}` });
        }
      }
      const [latents, wanted] = [
        await made.rows('1/resid/delta_mlp/latents'),
        await before.rows('1/resid/delta_mlp/latents'),
      ];
      assert.equal(latents.indices, wanted.indices);
      close(latents.values, wanted.values, { rtol: 1e-3, atol: 1e-6 });
      const shard = await loadSafetensors(join(out, 'shard-00000.safetensors'));
      const leading = drop.length > 0 ? [shard.positions?.shape[0]] : [10, 32];
      assert.equal(shard['0/attn/q']?.shape, [...leading, ...(shard['0/attn/q']?.shape.slice(leading.length) ?? [])]);
      assert.equal([shard['0/attn/q']?.dtype, shard['0/attn/q.scale']?.dtype], ['int8', 'float32']);
      assert.equal(shard['0/attn/q.scale']?.shape, leading);

      const bytes = await readFile(join(out, 'shard-00000.safetensors'));
      const scales = (shard['0/attn/q.scale'] as { data: Float32Array }).data;
      const at = bytes.indexOf(Buffer.from(scales.buffer));
      bytes.writeFloatLE(Number.NaN, at + 4);
      await writeFile(join(out, 'shard-00000.safetensors'), bytes);
      await resealed(out, 0);
      await using broken = await openDump(out);
      assert.match((await broken.verify())[0]?.problem ?? '', /0\/attn\/q\.scale: value 1 is NaN/);
    }));
}

test('a value that int8 cannot hold is refused by name', () =>
  withFolder(async (folder) => {
    const model = await Transformer.load('demo');
    const broken = plantedModel(model, (_, activations) =>
      setAt(activations.get('1/mlp/post_act'), 0, 2, 9, Number.NaN),
    );
    const options = { model: broken, corpus: sampleText, locations: '1/mlp/post_act', limit: 64, context: 32 };
    await rejects(
      dump({ ...options, dtype: 'int8', out: join(folder, 'out') }),
      RangeError,
      /dump: 1\/mlp\/post_act: NaN is not finite, which int8 cannot hold: choose float16, and another folder\. It is value 9 at position 2 in document 0 \(row 0, position 2 of shard-00000\.safetensors\)$/,
    );
  }));

test.run();
