// The activations of autoencoders, and the relu of the index, which is the operation on a tensor as well. Oracle: the
// operation of the engine, bit for bit, and the rule written out.
import * as assert from 'uvu/assert';
import { relu as operation } from '../../src/engine/ops/unary.js';
import {
  Autoencoder,
  type AutoencoderActivation,
  activations,
  Hooks,
  identity,
  jumpReLU,
  relu,
  Tensor,
  topK,
} from '../../src/index.js';
import { testDevice } from '../support/device.js';
import { suite, throws } from '../support/harness.js';
import { specialValues } from '../support/operations/elementwise.js';

const test = suite('activations');
const device = testDevice();

test('relu(x) is the operation of the engine: dtypes, views, NaN and zeros', async () => {
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
    using whole = Tensor.from([...specialValues, -2, 0.5, -0.25], { shape: [3, 4], device, dtype });
    const views = [
      whole,
      whole.select(1, 0),
      whole.slice(0, 1).slice(1, 1, 3),
      whole.permute([1, 0]),
      whole.slice(1, 2, 2),
    ];
    for (const x of views) {
      using got: Tensor = relu(x);
      using same = operation(x);
      const values = await got.read();
      const where = `${x}: ${values}`;
      assert.equal([[...got.shape], got.dtype, got.device], [[...x.shape], dtype, device], where);
      const expected = await same.read();
      for (const [i, v] of (await x.read()).entries()) {
        assert.ok(Object.is(values[i], expected[i]), where);
        assert.equal(values[i] === 0 ? 0 : values[i], v > 0 || Number.isNaN(v) ? v : 0, where); // -0 or 0
      }
      assert.ok(got.storage !== x.storage, 'a new tensor');
    }
  }
});

test('relu() without an argument is the activation that an autoencoder takes', async () => {
  const activation: AutoencoderActivation = relu();
  const known = activations.relu();
  assert.equal([activation.name, activation.k, activation.positive], ['ReLU', 0, true]);
  assert.equal(Object.keys(activation), Object.keys(known));
  const sizes = { nLatents: 9, nInputs: 4, seed: 2, device };
  using x = Tensor.randn([5, 4], { seed: 1, device });
  const latentsOf = async (ae: Autoencoder): Promise<number[]> => {
    using own = ae;
    using latents = own.encode(x);
    return [...(await latents.read())];
  };
  const latents = await latentsOf(new Autoencoder({ ...sizes, activation }));
  assert.equal(latents, await latentsOf(new Autoencoder({ ...sizes, activation: known })));
  assert.equal(latents, await latentsOf(new Autoencoder(sizes)));
  assert.ok(latents.includes(0) && latents.some((v) => v > 0) && latents.every((v) => v >= 0), String(latents));
});

test('relu of something else is an error of the operation; one argument too many is not looked at', async () => {
  for (const [value, shown] of [
    [undefined, 'undefined'],
    [null, 'null'],
    [3, '3'],
    [[1, 2], 'an array of length 2'],
    [activations.relu(), 'a Object'],
    [activations, 'a Object'],
  ]) {
    throws(() => relu(value as never), TypeError, new RegExp(`^relu: x must be a tensor, but is ${shown}$`));
    throws(() => relu(...([value, 1] as unknown as [Tensor])), TypeError, /^relu: x must be a tensor/);
  }
  using integers = Tensor.zeros([2], { device, dtype: 'int32' });
  throws(() => relu(integers), TypeError, /^relu: x must be float32, bfloat16 or float16, but is int32$/);
  const ended = Tensor.zeros([2], { device });
  ended.dispose();
  throws(() => relu(ended), Error, /^relu: x cannot be used: it was disposed$/);
  using x = Tensor.from([-1, 2], { device });
  using same = relu(...([x, 3] as unknown as [Tensor]));
  assert.equal([...(await same.read())], [0, 2]);
});

test('relu where a function of a tensor is expected: map, and as a hook', async () => {
  using x = Tensor.from([-1, 2], { device });
  const [made]: Tensor[] = [x].map(relu);
  assert.equal([...((await made?.read()) ?? [])], [0, 2]);
  made?.dispose();
  using hooked = await new Hooks().append(relu).run(x);
  assert.equal([...(await hooked.read())], [0, 2]);
});

test('`activations` has all of them and cannot be changed; the exported ones are the same', async () => {
  assert.equal(Object.keys(activations).sort(), ['identity', 'jumpReLU', 'relu', 'topK']);
  assert.ok(Object.isFrozen(activations));
  throws(() => Object.assign(activations, { relu: undefined }), TypeError, /read only/);
  throws(() => Object.assign(activations, { sigmoid: relu }), TypeError, /not extensible/);
  assert.is(identity, activations.identity);
  assert.is(topK, activations.topK);
  assert.is(jumpReLU, activations.jumpReLU);
  const { topK: alone } = activations; // needs no `this`
  using x = Tensor.from([-3, 2, -1, 4], { shape: [1, 4], device });
  for (const [activation, name, k, positive, expected] of [
    [activations.relu(), 'ReLU', 0, true, [0, 2, 0, 4]],
    [activations.identity(), 'Identity', 0, false, [-3, 2, -1, 4]],
    [alone(3), 'TopK', 3, true, [0, 2, 0, 4]],
    [alone(3, activations.identity()), 'TopK', 3, false, [0, 2, -1, 4]],
    [alone(3, relu()), 'TopK', 3, true, [0, 2, 0, 4]],
    [jumpReLU([0, 2, 0, 3]), 'JumpReLU', 0, true, [0, 0, 0, 4]],
  ] as const) {
    assert.equal([activation.name, activation.k, activation.positive], [name, k, positive]);
    using latents = activation.apply(x);
    assert.equal([...(await latents.read())], [...expected], `${name} ${k} ${positive}`);
  }
});

test.run();
