// The example of the original's README, with files of the published layout and sizes, from a server on this machine.
// Oracle: the encoder's formula in doubles on activations read in another process.
import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/engine/native.js';
import type { HostTensor } from '../../src/files/host_tensor.js';
import { saveTorch } from '../../src/files/torch/torch.js';
import { Transformer } from '../../src/transformer/transformer.js';
import { BlobServer, type Content } from '../support/blobs/blob_server.js';
import { withFolder } from '../support/folders.js';
import { suite } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('published files');
test.limit(240_000);

/** A file as a server reads it, by ranges. */
async function contentOf(path: string): Promise<Content> {
  const { size } = await stat(path);
  return {
    size,
    async read(from, to) {
      const parts: Buffer[] = [];
      if (to > from)
        for await (const part of createReadStream(path, { start: from, end: to - 1, highWaterMark: 2 ** 22 }))
          parts.push(part);
      return Buffer.concat(parts);
    },
  };
}

/** Values that look random, `size` of them, at the speed of a copy. */
function floats(size: number, seed: number, scale: number): Float32Array {
  const block = random(seed)
    .floats(1_000_003)
    .map((x) => x * scale);
  const out = new Float32Array(size);
  for (let at = 0; at < size; at += block.length) out.set(block.subarray(0, Math.min(block.length, size - at)), at);
  return out;
}

const latents = 32_768;

/** A file like the published ones: only tensors. */
function stateOf(inputs: number): Record<string, HostTensor> {
  const tensor = (shape: number[], seed: number, scale: number): HostTensor => {
    return {
      dtype: 'float32',
      shape,
      data: floats(
        shape.reduce((a, b) => a * b),
        seed,
        scale,
      ),
    };
  };
  return {
    pre_bias: tensor([inputs], 1, 0.1),
    latent_bias: tensor([latents], 2, 0.1),
    stats_last_nonzero: { dtype: 'int64', shape: [latents], data: new BigInt64Array(latents) },
    'encoder.weight': tensor([latents, inputs], 3, 0.05),
    'decoder.weight': tensor([inputs, latents], 4, 0.05),
  };
}

/** The largest latent of x [rows, inputs]. */
function largestLatent(x: Float32Array, state: Record<string, HostTensor>): number {
  const [weight, bias, preBias] = ['encoder.weight', 'latent_bias', 'pre_bias'].map(
    (name) => state[name]?.data as Float32Array,
  );
  const inputs = (preBias as Float32Array).length;
  let most = 0;
  for (let row = 0; row < x.length / inputs; row++) {
    const centred = Float64Array.from(
      { length: inputs },
      (_, i) => (x[row * inputs + i] as number) - (preBias?.[i] as number),
    );
    for (let latent = 0; latent < latents; latent++) {
      let sum = bias?.[latent] as number;
      for (let i = 0; i < inputs; i++) sum += (centred[i] as number) * (weight?.[latent * inputs + i] as number);
      most = Math.max(most, sum);
    }
  }
  return most;
}

/** Writes an autoencoder, and gives the largest latent of the model's activations; keeps nothing of it in memory. */
async function saveAutoencoder(
  path: string,
  inputs: number,
  model: Transformer,
  tokens: number[],
  where: string,
): Promise<number> {
  const state = stateOf(inputs);
  await saveTorch(path, state);
  const activations = await model.activations([tokens], [where]);
  using x = activations.get(where);
  return largestLatent((await x?.read()) as Float32Array, state);
}

const location: Record<string, string> = { mlp_post_act: '0/mlp/post_act', resid_delta_mlp: '0/resid/delta_mlp' };

test('the example runs, unchanged but for the endpoint, and with the widest autoencoders', () =>
  withFolder(async (folder) => {
    await using server = await BlobServer.start();
    using model = await Transformer.load('random:gpt2-small?5');
    const checkpoint = join(folder, 'small');
    await model.saveCheckpoint(checkpoint);
    for (const file of await readdir(checkpoint, { recursive: true })) {
      const path = join(checkpoint, file);
      if ((await stat(path)).isFile()) {
        server.put(`openaipublic/neuron-explainer/subject-models/gpt2/small/${file}`, await contentOf(path));
      }
    }
    const program = join(packageRoot, 'build-test/test/published_example.js');
    const widest = program.replace('.js', '_mlp.js');
    const source = await readFile(program, 'utf8');
    await writeFile(widest, source.replace("'resid_delta_attn'][1]", "'resid_delta_attn'][0]"));
    const environment = { SONDE_CACHE: join(folder, 'cache'), SONDE_BLOB_ENDPOINT: server.endpoint };
    const tokens = model.enc.encode('What is essential is invisible to the');
    for (const [which, file, inputs] of [
      ['resid_delta_mlp', program, 768],
      ['mlp_post_act', widest, 3072],
    ] as const) {
      const path = join(folder, `${which}.pt`);
      const expected = await saveAutoencoder(path, inputs, model, tokens, location[which] as string);
      server.put(`openaipublic/sparse-autoencoder/gpt2-small/${which}_v4/autoencoders/0.pt`, await contentOf(path));
      const before = server.requests.length;
      const { stdout } = await promisify(execFile)(process.execPath, [file], {
        env: { ...process.env, ...environment },
      });
      const lines = stdout.trimEnd().split('\n');
      assert.equal(lines.slice(0, 2), ['Loading autoencoder..', 'Loading transformer..']);
      assert.match(stdout, /'What', *' is', *' essential'/);
      const [, shape, value] =
        /^(\[ \d+, \d+ \]) Float32Array\(1\) \[ ([\d.e+-]+) \]$/.exec(lines.at(-1) as string) ?? [];
      assert.is(shape, `[ ${tokens.length}, ${latents} ]`);
      assert.ok(Math.abs(Number(value) / expected - 1) < 1e-4, `${value}, but ${expected} was expected`);
      assert.ok(server.requests.length > before);
      await rm(path);
    }
    await rm(widest);
    // all parameters were fetched once, by the first of the two programs
    const parameters = server.requests.filter(
      ({ method, path }) => method === 'HEAD' && path.includes('/model_pieces/'),
    );
    assert.is(parameters.length, 12 * 16 + 2 + 2 + 1);
  }));

test.run();
