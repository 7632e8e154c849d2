// Some latents of an autoencoder have the values that they have in the full one. Oracle: the full one, whose columns
// are chosen on the host.
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { activations } from '../../src/autoencoder/activation.js';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { omitLeastActiveLatents } from '../../src/context/autoencoder_context.js';
import type { SparseLatents } from '../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import type { HostTensor, StateDict } from '../../src/files/host_tensor.js';
import { loadTorch, saveTorch } from '../../src/files/torch/torch.js';
import { close } from '../support/close.js';
import { emulated, testDevice } from '../support/device.js';
import { withFolder } from '../support/folders.js';
import { suite, throws } from '../support/harness.js';
import { random } from '../support/random.js';

const test = suite('selection of latents');
const device = testDevice();

const floats = (shape: number[], data: Iterable<number>): HostTensor => ({
  dtype: 'float32',
  shape,
  data: Float32Array.from(data),
});

interface Shape {
  latents: number;
  inputs: number;
  k: number;
}

/** Weights of whole numbers: pre-activations are exact, and many are equal. */
function stateOf({ latents: L, inputs: N, k }: Shape, seed: number, more: StateDict = {}): StateDict {
  const r = random(seed);
  const whole = (count: number) => Array.from({ length: count }, () => r.integer(-2, 2));
  return {
    pre_bias: floats([N], whole(N)),
    latent_bias: floats([L], whole(L)),
    'encoder.weight': floats([L, N], whole(L * N)),
    'decoder.weight': floats([N, L], whole(L * N)),
    stats_last_nonzero: { dtype: 'int64', shape: [L], data: BigInt64Array.from(whole(L), BigInt) },
    latents_activation_frequency: floats([L], whole(L).map(Math.abs)),
    latents_mean_square: floats([L], whole(L)),
    activation: 'TopK',
    activation_state_dict: { k, postact_fn: 'ReLU' },
    ...more,
  };
}

/** The columns of [rows, width] by their indices. */
const columns = (all: ArrayLike<number>, width: number, indices: readonly number[]): number[] =>
  Array.from({ length: all.length / width }, (_, row) => indices.map((i) => all[row * width + i] as number)).flat();

function sparseOf(dense: readonly number[], width: number): { rowPtr: number[]; indices: number[]; values: number[] } {
  const out = { rowPtr: [0], indices: [] as number[], values: [] as number[] };
  for (let at = 0; at < dense.length; at += width) {
    for (let i = 0; i < width; i++) {
      if (dense[at + i] === 0) continue;
      out.indices.push(i);
      out.values.push(dense[at + i] as number);
    }
    out.rowPtr.push(out.indices.length);
  }
  return out;
}
const plain = ({ rowPtr, indices, values }: SparseLatents) => ({
  rowPtr: Array.from(rowPtr, Number),
  indices: [...indices],
  values: [...values],
});

test('the issue: k = 2, pre-activations 4, 3, 2, 1, and the last two selected', async () => {
  const state: StateDict = {
    pre_bias: floats([1], [0]),
    latent_bias: floats([4], [4, 3, 2, 1]),
    'encoder.weight': floats([4, 1], [0, 0, 0, 0]),
    'decoder.weight': floats([1, 4], [1, 2, 3, 4]),
    activation: 'TopK',
    activation_state_dict: { k: 2, postact_fn: 'ReLU' },
  };
  using ae = Autoencoder.fromStateDict(state, { strict: false, device });
  using x = Tensor.zeros([1, 1], { device });
  for (const [indices, expected] of [
    [
      [2, 3],
      [0, 0],
    ],
    [
      [3, 1],
      [0, 3],
    ],
    [
      [1, 0, 1],
      [3, 4, 3],
    ],
  ] as const) {
    using some = ae.selectLatents(indices);
    using latents = some.encode(x);
    assert.equal([...(await latents.read())], [...expected]);
    assert.equal(plain(await some.encodeSparse(x)), sparseOf([...expected], indices.length));
    using preAct = some.encodePreAct(x);
    assert.equal(
      [...(await preAct.read())],
      indices.map((i) => 4 - i),
    );
  }
});

const shapes: readonly Shape[] = [
  { latents: 7, inputs: 3, k: 2 },
  { latents: 40, inputs: 8, k: 5 },
  { latents: 130, inputs: 20, k: 32 },
  { latents: 9, inputs: 4, k: 50 },
];

test('random shapes, orders, repetitions and ties: encode, its sparse version, forward and decode', async () => {
  const before = device.memory().allocated;
  for (const [at, shape] of shapes.entries()) {
    const r = random(100 + at);
    const rows = 6;
    for (const more of [{}, { activation_state_dict: { k: shape.k, postact_fn: 'Identity' } }] as StateDict[]) {
      for (const normalize of [false, true]) {
        using full = Autoencoder.fromStateDict(stateOf(shape, at, more), { device, normalize });
        using x = Tensor.from(
          Float32Array.from({ length: rows * shape.inputs }, () => r.integer(-3, 3)),
          { shape: [2, 3, shape.inputs], device },
        );
        using all = full.encode(x);
        const dense = await all.read();
        const count = r.integer(2, shape.latents);
        const indices = Array.from({ length: count }, () => r.integer(0, shape.latents - 1)); // some of them twice
        using some = full.selectLatents(Int32Array.from(indices));
        const expected = columns(dense, shape.latents, indices);
        using latents = some.encode(x);
        assert.equal([...latents.shape], [2, 3, count]);
        assert.equal([...(await latents.read())], expected);
        const sparse = await some.encodeSparse(x);
        const ownSparse = plain(await full.encodeSparse(x));
        assert.equal(sparse.rowPtr.length, rows + 1);
        const fullDense = new Array(rows * shape.latents).fill(0);
        for (let row = 0; row < rows; row++) {
          for (let i = ownSparse.rowPtr[row] as number; i < (ownSparse.rowPtr[row + 1] as number); i++) {
            fullDense[row * shape.latents + (ownSparse.indices[i] as number)] = ownSparse.values[i];
          }
        }
        assert.equal(plain(sparse), sparseOf(columns(fullDense, shape.latents, indices), count));
        const strong = plain(await some.encodeSparse(x, { threshold: 2 }));
        assert.ok(strong.values.every((value) => Math.abs(value) > 2));

        using preAct = some.encodePreAct(x);
        using fullPreAct = full.encodePreAct(x);
        close(await preAct.read(), columns(await fullPreAct.read(), shape.latents, indices), {
          rtol: 1e-6,
          atol: 1e-6,
        });
        const [from, to] = [Math.floor(count / 3), count];
        using part = some.encodePreAct(x, { latentSlice: [from, to] });
        close(await part.read(), columns(await preAct.read(), count, range(from, to)), {
          rtol: 1e-6,
          atol: 1e-6,
        });

        using decoded = some.decode(latents, { inputs: x });
        using fromSparse = some.decodeSparse(sparse, { inputs: x });
        close(await fromSparse.read(), await decoded.read(), { rtol: 1e-4, atol: 1e-4 });
        const passed = await some.forward(x);
        assert.equal([...(await passed.latents.read())], expected);
        close(await passed.reconstruction.read(), await decoded.read(), { rtol: 1e-5, atol: 1e-5 });
        for (const t of Object.values(passed)) t.dispose();

        // a selection of the selection ranks over all, too
        const second = Array.from({ length: 3 }, () => r.integer(0, count - 1));
        using fewer = some.selectLatents(second);
        full.dispose(); // it is independent of both
        some.dispose();
        using few = fewer.encode(x);
        assert.equal([...(await few.read())], columns(expected, count, second));
      }
    }
  }
  assert.is(device.memory().allocated, before);
});

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

test('other activations look at no other latent, and a selection holds no more than its own', async () => {
  for (const activation of ['ReLU', 'Identity']) {
    using full = Autoencoder.fromStateDict(stateOf(shapes[1] as Shape, 5, { activation }), { device });
    using some = full.selectLatents([3, 1]);
    assert.not.ok(Object.keys(await some.stateDict()).some((name) => name.startsWith('ranking.')));
    using x = Tensor.from(random(3).floats(16), { shape: [2, 8], device });
    using all = full.encode(x);
    using latents = some.encode(x);
    close(await latents.read(), columns(await all.read(), 40, [3, 1]), { rtol: 1e-6, atol: 1e-6 });
  }
});

test('saved and read again, a selection keeps its values and its digest', () =>
  withFolder(async (folder) => {
    const shape = shapes[1] as Shape;
    const tied = stateOf(shape, 8);
    tied['decoder.linear.weight'] = tied['encoder.weight'] as HostTensor;
    delete tied['decoder.weight'];
    for (const [at, state] of [stateOf(shape, 8), tied].entries()) {
      for (const dtype of ['float32', 'bfloat16'] as const) {
        using full = Autoencoder.fromStateDict(state, { device, dtype });
        using some = full.selectLatents([39, 0, 7, 7]);
        const path = join(folder, `${at}${dtype}.pt`);
        await saveTorch(path, await some.stateDict());
        using again = await Autoencoder.load(path, { device, dtype });
        assert.is(await again.digest(), await some.digest());
        using plainAgain = Autoencoder.fromStateDict(await full.stateDict(), { device, dtype });
        assert.is(await plainAgain.digest(), await full.digest());
        assert.is.not(await some.digest(), await full.digest());
        using x = Tensor.from(random(3).floats(16), { shape: [2, 8], device, dtype });
        using expected = some.encode(x);
        using latents = again.encode(x);
        assert.equal([...(await latents.read())], [...(await expected.read())]);
        using nested = again.selectLatents([1]);
        using one = nested.encode(x);
        assert.equal([...(await one.read())], columns(await expected.read(), 4, [1]));

        const saved = await loadTorch(path);
        const without = (name: string, value?: HostTensor): StateDict => {
          const { [name]: _, ...rest } = saved;
          return value ? { ...rest, [name]: value } : rest;
        };
        throws(
          () => Autoencoder.fromStateDict(without('ranking.indices'), { device }),
          Error,
          /lacks ranking\.indices/,
        );
        throws(
          () => Autoencoder.fromStateDict({ ...saved, activation: 'ReLU' }, { device }),
          Error,
          /activation must be TopK where there is ranking\.encoder\.weight, but is ReLU/,
        );
        const beyond: HostTensor = { dtype: 'int64', shape: [4], data: BigInt64Array.of(0n, 1n, 40n, 2n) };
        throws(
          () => Autoencoder.fromStateDict(without('ranking.indices', beyond), { device }),
          RangeError,
          /ranking\.indices\[2\] must be an integer from 0 to 39, but is 40/,
        );
        throws(
          () => Autoencoder.fromStateDict(without('ranking.latent_bias', floats([3], [1, 2, 3])), { device }),
          Error,
          /ranking\.latent_bias must be \[40\] .*but is \[3\]/,
        );
      }
    }
  }));

test('latents that a context omits do not change what the others are', async () => {
  const shape = shapes[1] as Shape;
  using full = Autoencoder.fromStateDict(stateOf(shape, 11), { device });
  using x = Tensor.from(random(3).floats(16), { shape: [2, 8], device });
  using all = full.encode(x);
  const dense = await all.read();
  for (const preserveIndices of [true, false]) {
    using smaller = await omitLeastActiveLatents(full, 25, { preserveIndices });
    const frequencies = await full.latentsActivationFrequency.read();
    const kept = preserveIndices
      ? range(0, 25)
      : range(0, 40)
          .sort((a, b) => (frequencies[b] as number) - (frequencies[a] as number))
          .slice(0, 25)
          .sort((a, b) => a - b);
    using latents = smaller.encode(x);
    assert.equal([...(await latents.read())], columns(dense, 40, kept));
  }
});

test('counts beyond 2^24 and latents beyond 2^24 are exact', async () => {
  const counts = [16_777_217, -16_777_217, 2 ** 31 - 1, -(2 ** 31), 0, -1, 65_535, 2_147_418_113];
  const state = stateOf({ latents: counts.length, inputs: 2, k: 2 }, 1, {
    stats_last_nonzero: { dtype: 'int64', shape: [counts.length], data: BigInt64Array.from(counts, BigInt) },
  });
  using ae = Autoencoder.fromStateDict(state, { device });
  const indices = [3, 2, 1, 0, 7, 6, 5, 4];
  using some = ae.selectLatents(indices);
  assert.equal(
    [...(await some.statsLastNonzero.read())],
    indices.map((i) => counts[i]),
  );
  if (emulated()) return; // so many latents take too long there
  using many = new Autoencoder({
    nLatents: 2 ** 24 + 3,
    nInputs: 1,
    tied: true,
    activation: activations.topK(1),
    device,
  });
  using x = Tensor.from([[1]], { device });
  const strongest = (await many.encodeSparse(x)).indices[0] as number;
  using two = many.selectLatents([16_777_217, strongest]);
  using preAct = many.encodePreAct(x);
  using own = two.encodePreAct(x);
  assert.equal(
    [...(await own.read())],
    [
      ...(await preAct.slice(1, 16_777_217, 16_777_218).read()),
      ...(await preAct.slice(1, strongest, strongest + 1).read()),
    ],
  );
  assert.equal([...(await two.encodeSparse(x)).indices], [1]);
});

test('no rows at all', async () => {
  using full = Autoencoder.fromStateDict(stateOf(shapes[0] as Shape, 2), { device });
  using some = full.selectLatents([1, 0]);
  using x = Tensor.zeros([0, 3], { device });
  using latents = some.encode(x);
  assert.equal([...latents.shape], [0, 2]);
  assert.equal([...(await some.encodeSparse(x)).rowPtr], [0n]);
});

test.run();
