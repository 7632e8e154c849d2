// Gradients through autoencoders of every kind, with normalised inputs and without, selections and slices included.
// Oracle: central differences of the formulas in double precision.
import * as assert from 'uvu/assert';
import { activations } from '../../src/autoencoder/activation.js';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { openDevice } from '../../src/engine/device.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import type { HostTensor, StateDict } from '../../src/files/host_tensor.js';
import { gradients, smallShape } from '../engine/gradients/operations/differences.js';
import { rejects, suite } from '../support/harness.js';
import { type Random, random } from '../support/random.js';

const test = suite('gradients of autoencoders');
const device = openDevice('cpu');

type Row = readonly number[];
const kinds = ['ReLU', 'TopK', 'Identity', 'JumpReLU'] as const;

interface Weights {
  readonly encoder: Float32Array; // [latents, inputs]
  readonly decoder: Float32Array; // [inputs, latents]
  readonly preBias: Float32Array;
  readonly latentBias: Float32Array;
  readonly thresholds: Float32Array; // of JumpReLU
}

const dot = (a: ArrayLike<number>, from: number, row: Row): number =>
  row.reduce((sum, x, i) => sum + x * (a[from + i] as number), 0);

function statistics(row: Row): { mean: number; std: number } {
  const mean = row.reduce((a, b) => a + b) / row.length;
  return { mean, std: Math.sqrt(row.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (row.length - 1)) };
}

/** The latents and the reconstruction of a row. */
function exact(row: Row, w: Weights, kind: (typeof kinds)[number], k: number, normalize: boolean): [Row, Row] {
  const n = row.length;
  const { mean, std } = statistics(row);
  const inputs = normalize ? row.map((x) => (x - mean) / (std + 1e-5)) : row;
  const centred = inputs.map((x, i) => x - (w.preBias[i] as number));
  const preAct = Array.from(w.latentBias, (bias, l) => bias + dot(w.encoder, l * n, centred));
  const least = [...preAct].sort((a, b) => b - a)[k - 1] as number;
  const latents = preAct.map((x, l) => {
    if (kind === 'Identity') return x;
    if (kind === 'JumpReLU') return x > (w.thresholds[l] as number) ? x : 0;
    return kind === 'TopK' && x < least ? 0 : Math.max(x, 0);
  });
  return [latents, decodedBy(row, w, latents, normalize)];
}

/** The reconstruction of a row from given latents. */
function decodedBy(row: Row, w: Weights, latents: Row, normalize: boolean): Row {
  const { mean, std } = statistics(row);
  const decoded = Array.from(w.preBias, (bias, i) => bias + dot(w.decoder, i * latents.length, latents));
  return normalize ? decoded.map((x) => x * std + mean) : decoded;
}

function autoencoder(rng: Random, nInputs: number, nLatents: number, kind: (typeof kinds)[number], normalize: boolean) {
  const w: Weights = {
    encoder: rng.floats(nLatents * nInputs),
    decoder: rng.floats(nLatents * nInputs),
    preBias: rng.floats(nInputs),
    latentBias: rng.floats(nLatents),
    thresholds: rng.floats(nLatents).map((v) => (v < 0 ? 0 : v)),
  };
  const k = rng.integer(1, nLatents + 1);
  const host = (shape: number[], data: Float32Array): HostTensor => ({ dtype: 'float32', shape, data });
  const state: StateDict = {
    'encoder.weight': host([nLatents, nInputs], w.encoder),
    'decoder.weight': host([nInputs, nLatents], w.decoder),
    pre_bias: host([nInputs], w.preBias),
    latent_bias: host([nLatents], w.latentBias),
    activation: kind,
    ...(kind === 'TopK' && { activation_state_dict: { k, postact_fn: 'ReLU' } }),
    ...(kind === 'JumpReLU' && { activation_state_dict: { threshold: host([nLatents], w.thresholds) } }),
  };
  const on = ({ device }: Tensor) => Autoencoder.fromStateDict(state, { strict: false, device, normalize });
  return { w, k, on };
}

for (const normalize of [false, true]) {
  test(`latents and reconstructions, ${normalize ? '' : 'not '}normalised`, () =>
    gradients(120, (rng) => {
      const kind = rng.pick(kinds);
      const nInputs = rng.integer(3, 12);
      const nLatents = rng.integer(1, 20);
      const { w, k, on } = autoencoder(rng, nInputs, nLatents, kind, normalize);
      const chosen = rng.next() < 0.3 ? Array.from({ length: 3 }, () => rng.integer(0, nLatents)) : undefined;
      const lead = smallShape(rng, 0, 2).map((n) => Math.min(n, 5));
      const rows = lead.reduce((a, b) => a * b, 1);
      return {
        operation: `${kind} of ${nLatents} latents`,
        inputs: [{ shape: [...lead, nInputs], values: rng.floats(rows * nInputs) }],
        ours: (own, ...[x]) => {
          const inputs = x as Tensor;
          const ae = own(on(inputs));
          const selected = chosen ? own(ae.selectLatents(chosen)) : ae;
          const latents = selected.encode(inputs);
          return [latents, selected.decode(latents, { inputs })];
        },
        oracle: (x) => {
          const all = Array.from({ length: rows }, (_, r) => {
            const row = Array.from((x as Float64Array).subarray(r * nInputs, (r + 1) * nInputs));
            if (!chosen) return exact(row, w, kind, k, normalize);
            const [latents] = exact(row, w, kind, k, normalize);
            const own = chosen.map((l) => latents[l] as number);
            const decoder = Float32Array.from({ length: nInputs * 3 }, (_, i) => {
              return w.decoder[Math.floor(i / 3) * nLatents + (chosen[i % 3] as number)] as number;
            });
            return [own, decodedBy(row, { ...w, decoder }, own, normalize)] as const;
          });
          return [Float64Array.from(all.flatMap(([l]) => l)), Float64Array.from(all.flatMap(([, d]) => d))];
        },
        step: 1e-7,
        // what is normalised does not see a shift or a scale: large terms of its gradient cancel
        bound: normalize ? 1e-4 : 2e-5,
        views: 'distinct',
      };
    }));
}

test('pre-activations, and a slice of them', () =>
  gradients(60, (rng) => {
    const [nInputs, nLatents] = [rng.integer(2, 12), rng.integer(2, 20)];
    const { w, on } = autoencoder(rng, nInputs, nLatents, 'ReLU', false);
    const from = rng.integer(0, nLatents);
    const to = rng.next() < 0.5 ? nLatents : rng.integer(from, nLatents + 1);
    return {
      operation: `pre-activations ${from} to ${to}`,
      inputs: [{ shape: [nInputs], values: rng.floats(nInputs) }],
      ours: (own, ...[x]) => own(on(x as Tensor)).encodePreAct(x as Tensor, { latentSlice: [from, to] }),
      oracle: (x) => {
        const centred = Array.from(x as Float64Array, (v, i) => v - (w.preBias[i] as number));
        return Float64Array.from({ length: to - from }, (_, i) => {
          return (w.latentBias[from + i] as number) + dot(w.encoder, (from + i) * nInputs, centred);
        });
      },
    };
  }));

test('a row whose normalisation is undefined has finite gradients', async () => {
  using ae = autoencoder(random(1), 4, 3, 'Identity', true).on(Tensor.zeros([1], { device }));
  using x = Tensor.from(
    [
      [2, 2, 2, 2],
      [1, 2, 3, 4],
    ],
    { device },
  ).requireGrad();
  using latents = ae.encode(x);
  await latents.sum().backward();
  assert.ok((await (x.grad as Tensor).read()).every(Number.isFinite));
});

test('sparse latents have no gradient, and say so', async () => {
  using ae = new Autoencoder({ nLatents: 4, nInputs: 3, activation: activations.relu(), device });
  using x = Tensor.from([1, 2, 3], { device }).requireGrad();
  await rejects(ae.encodeSparse(x), Error, /sparseEncode: x must not be recorded for gradients.*detach\(\)/);
  await ae.encodeSparse(x.detach());
});

test.run();
