// Arguments that make no sense: every function of autoencoders answers with an error of its own, which says which
// argument is wrong. Oracle: the beginning of the message; an engine's own errors have none.
import * as assert from 'uvu/assert';
import { activations, relu } from '../../src/autoencoder/activation.js';
import { Autoencoder } from '../../src/autoencoder/autoencoder.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import type { StateDict } from '../../src/files/host_tensor.js';
import { type Call, exactly, noOptions, refusesGarbage } from '../support/arguments/garbage.js';
import { testDevice } from '../support/device.js';
import { rejects, suite, throws } from '../support/harness.js';

const test = suite('bad arguments of autoencoders');
const device = testDevice();

test('each argument', async () => {
  using ae = new Autoencoder({ nLatents: 4, nInputs: 3, device });
  using normalizing = new Autoencoder({ nLatents: 4, nInputs: 3, normalize: true, device });
  using x = Tensor.zeros([2, 3], { device });
  using latents = Tensor.zeros([2, 4], { device });
  const sparse = await ae.encodeSparse(x);
  const state = await ae.stateDict();
  const own = { nLatents: 4, nInputs: 3, device };
  const disposing = async (make: Autoencoder | Promise<Autoencoder>): Promise<void> => (await make).dispose();
  const option = (name: string, valid: readonly unknown[] = []): [string, Call, readonly unknown[]] => [
    `^Autoencoder: ${name} must be`,
    (value) => disposing(new Autoencoder({ ...own, [name]: value })),
    valid,
  ];
  const stateOption = (name: string, valid: readonly unknown[] = []): [string, Call, readonly unknown[]][] => [
    [
      `^Autoencoder\\.fromStateDict: ${name} must be`,
      (value) => disposing(Autoencoder.fromStateDict(state, { [name]: value })),
      [undefined, ...valid],
    ],
    [
      `^Autoencoder\\.load: ${name} must be|^openBlob: /none: there is no such`,
      (value) => Autoencoder.load('/none', { [name]: value }),
      valid,
    ],
  ];
  const entry = (name: string): [string, Call] => [
    `^Autoencoder: .*${name.replace('[', '\\[')}`,
    (value) => disposing(Autoencoder.fromStateDict({ ...state, [name]: value as never })),
  ];
  const wrong: string[] = [];
  const freeing = (made: Tensor): void => made.dispose();
  for (const [prefix, call, valid = []] of [
    ["^Autoencoder: (options must|nLatents must|'0' is no)", (value) => new Autoencoder(value as never)],
    option('nLatents', [5]),
    option('nInputs', [5]),
    option('activation', [undefined]),
    option('tied', [undefined, true]),
    option('normalize', [undefined, true]),
    option('filter', [undefined, true]),
    option('device', [undefined]),
    option('dtype', [undefined]),
    option('seed', [undefined, 5]),
    ['^openBlob: |^Autoencoder\\.load: ', (value) => Autoencoder.load(value as never)],
    ["^Autoencoder\\.load: (options must|'0' is no)|^openBlob: ", (value) => Autoencoder.load('/none', value as never)],
    [
      '^Autoencoder(\\.fromStateDict: state must be|: the state dict lacks)',
      (value) => Autoencoder.fromStateDict(value as never),
    ],
    [
      "^Autoencoder\\.fromStateDict: (options must|'0' is no)",
      (value) => disposing(Autoencoder.fromStateDict(state, value as never)),
      noOptions,
    ],
    ...stateOption('strict', [true]),
    ...stateOption('normalize', [true]),
    ...stateOption('filter', [true]),
    ...stateOption('device'),
    ...stateOption('dtype'),
    [
      '^Autoencoder\\.load: onProgress must be|^openBlob: /none: there is no such',
      (value) => Autoencoder.load('/none', { onProgress: value as never }),
    ],
    [
      '^Autoencoder\\.load: signal must be|^openBlob: /none: there is no such',
      (value) => Autoencoder.load('/none', { signal: value as never }),
    ],
    entry('pre_bias'),
    entry('encoder.weight'),
    entry('decoder.weight'),
    entry('latent_bias'),
    entry('stats_last_nonzero'),
    entry('ranking.indices'),
    [
      '^Autoencoder: activation must be',
      (value) => disposing(Autoencoder.fromStateDict({ ...state, activation: value as never })),
      [undefined],
    ],
    [
      '^topK: k must be',
      (value) => Autoencoder.fromStateDict({ ...state, activation: 'TopK', activation_state_dict: value as never }),
    ],
    [
      '^topK: k must be',
      (value) =>
        Autoencoder.fromStateDict({
          ...state,
          activation: 'TopK',
          activation_state_dict: { k: value as never },
        }).dispose(),
      [5],
    ],
    [
      '^Autoencoder: activation_state_dict\\.threshold must be',
      (value) => Autoencoder.fromStateDict({ ...state, activation: 'JumpReLU', activation_state_dict: value as never }),
    ],
    [
      '^Autoencoder: activation_state_dict\\.threshold must be',
      (value) =>
        Autoencoder.fromStateDict({
          ...state,
          activation: 'JumpReLU',
          activation_state_dict: { threshold: value as never },
        }),
    ],
    [
      '^Autoencoder: normalize in activation_state_dict',
      (value) =>
        Autoencoder.fromStateDict({ ...state, activation_state_dict: { normalize: value as never } }).dispose(),
      [undefined, true],
    ],
    ['^encodePreAct: x must be a tensor', (value) => ae.encode(value as never)],
    ['^encodePreAct: x must be a tensor', (value) => ae.encodePreAct(value as never)],
    ["^encodePreAct: (options must|'0' is no)", (value) => freeing(ae.encodePreAct(x, value as never)), noOptions],
    [
      '^encodePreAct: latentSlice must be',
      (value) => freeing(ae.encodePreAct(x, { latentSlice: value as never })),
      [undefined],
    ],
    ['^encodePreAct: latentSlice\\[0\\] must be', (value) => ae.encodePreAct(x, { latentSlice: [value as never, 2] })],
    ['^encodePreAct: latentSlice\\[1\\] must be', (value) => ae.encodePreAct(x, { latentSlice: [1, value as never] })],
    ['^encodeSparse: x must be a tensor', (value) => ae.encodeSparse(value as never)],
    ["^encodeSparse: (options must|'0' is no)", (value) => ae.encodeSparse(x, value as never), noOptions],
    [
      '^encodeSparse: threshold must be',
      (value) => ae.encodeSparse(x, { threshold: value as never }),
      [undefined, 5, 0.5],
    ],
    ['^decode: x must be a tensor', (value) => ae.decode(value as never)],
    ["^decode: (options must|'0' is no)", (value) => freeing(ae.decode(latents, value as never)), noOptions],
    [
      '^decode: inputs must be a tensor',
      (value) => freeing(ae.decode(latents, { inputs: value as never })),
      [undefined],
    ],
    ['^decode: inputs must be', (value) => normalizing.decode(latents, { inputs: value as never })],
    ['^decodeSparse: sparse must be', (value) => ae.decodeSparse(value as never)],
    ['^decodeSparse: sparse must be', (value) => normalizing.decodeSparse(value as never, { inputs: x })],
    ["^decodeSparse: (options must|'0' is no)", (value) => freeing(ae.decodeSparse(sparse, value as never)), noOptions],
    [
      '^decodeSparse: inputs must be a tensor',
      (value) => freeing(ae.decodeSparse(sparse, { inputs: value as never })),
      [undefined],
    ],
    ['^encodePreAct: x must be a tensor', (value) => ae.forward(value as never)],
    ['^selectLatents: indices must', (value) => ae.selectLatents(value as never)],
    ['^selectLatents: indices must be an integer', (value) => ae.selectLatents([value as never])],
    ['^selectLatents: indices must be an array', () => ae.selectLatents(Float32Array.of(16_777_217) as never)],
    ['^relu: x must be a tensor', (value) => relu(value as never)],
    ['^topK: k must be', (value) => void activations.topK(value as never), [5]],
    ['^jumpReLU: thresholds(\\[0\\])? must', (value) => void activations.jumpReLU(value as never)],
    ['^jumpReLU: thresholds\\[1\\] must be', (value) => void activations.jumpReLU([1, value as never]), [5, 0.5]],
    ['^topK: after must be', (value) => void activations.topK(2, value as never), [undefined]],
    ...[activations.relu(), activations.identity(), activations.topK(2), activations.jumpReLU([1])].map(
      (activation): [string, Call] => ['^apply: preAct must be a tensor', (value) => activation.apply(value as never)],
    ),
  ] as [string, Call, unknown[]?][]) {
    await refusesGarbage(new RegExp(prefix), call, valid).catch((error) => wrong.push(error.message));
  }
  assert.is(wrong.join('\n'), '');
});

test('an unknown option is refused, with the nearest one that is known', async () => {
  using ae = new Autoencoder({ nLatents: 4, nInputs: 3, device });
  using x = Tensor.zeros([2, 3], { device });
  const state = await ae.stateDict();
  const sparse = await ae.encodeSparse(x);
  for (const [call, message] of [
    [
      () => new Autoencoder({ n_latents: 4, nInputs: 3 } as never),
      "Autoencoder: 'n_latents' is no option; the nearest one is 'nLatents'",
    ],
    [
      () => Autoencoder.fromStateDict(state, { normalise: true } as never),
      "Autoencoder.fromStateDict: 'normalise' is no option; the nearest one is 'normalize'",
    ],
    [
      () => Autoencoder.load('x', { progress: 1 } as never),
      "Autoencoder.load: 'progress' is no option; the nearest one is",
    ],
    [
      () => ae.encodePreAct(x, { latent_slice: [0, 1] } as never),
      "encodePreAct: 'latent_slice' is no option; the nearest one is 'latentSlice'",
    ],
    [
      () => ae.encodeSparse(x, { treshold: 1 } as never),
      "encodeSparse: 'treshold' is no option; the nearest one is 'threshold'",
    ],
    [() => ae.decode(x, { input: x } as never), "decode: 'input' is no option; the nearest one is 'inputs'"],
    [() => ae.decodeSparse(sparse, { x } as never), "decodeSparse: 'x' is no option; the nearest one is 'inputs'"],
  ] as [() => unknown, string][]) {
    await rejects((async () => call())(), TypeError, exactly(message));
  }
});

test('counts beyond int32 are refused by their name, and so are counts that are no integers', async () => {
  using ae = new Autoencoder({ nLatents: 2, nInputs: 3, device });
  const state = await ae.stateDict();
  const before = device.memory().allocated;
  const counting = (data: BigInt64Array | Float32Array): StateDict => ({
    ...state,
    stats_last_nonzero: { dtype: data instanceof Float32Array ? 'float32' : 'int64', shape: [2], data },
  });
  for (const value of [2n ** 31n, -(2n ** 31n) - 1n, 2n ** 62n]) {
    throws(
      () => Autoencoder.fromStateDict(counting(BigInt64Array.of(0n, value)), { device }),
      RangeError,
      exactly(`Autoencoder: stats_last_nonzero[1] must be an integer from -2147483648 to 2147483647, but is ${value}`),
    );
  }
  throws(
    () => Autoencoder.fromStateDict(counting(Float32Array.of(1, 2)), { device }),
    Error,
    /stats_last_nonzero must be of integers, but is float32/,
  );
  throws(
    () =>
      Autoencoder.fromStateDict(
        { ...state, latent_bias: { dtype: 'float32', shape: [2], data: new Float64Array(2) } },
        { device },
      ),
    Error,
    /latent_bias: data of dtype float32 must be a Float32Array, but is Float64Array/,
  );
  using most = Autoencoder.fromStateDict(counting(BigInt64Array.of(2n ** 31n - 1n, -(2n ** 31n))), { device });
  assert.equal([...(await most.statsLastNonzero.read())], [2 ** 31 - 1, -(2 ** 31)]);
  most.dispose();
  assert.is(device.memory().allocated, before);
});

test.run();
