// An input that alone is recorded gets the gradient that it gets beside others, and the others get none.
import * as assert from 'uvu/assert';
import { addLayerNorm } from '../../../../src/engine/ops/add_layer_norm.js';
import { attention } from '../../../../src/engine/ops/attention.js';
import { cat } from '../../../../src/engine/ops/cat.js';
import { einsum } from '../../../../src/engine/ops/einsum.js';
import { embedding } from '../../../../src/engine/ops/embedding.js';
import { layerNorm } from '../../../../src/engine/ops/layer_norm.js';
import { type Activation, linear } from '../../../../src/engine/ops/linear.js';
import { matmul } from '../../../../src/engine/ops/matmul.js';
import { packWeights } from '../../../../src/engine/ops/pack_weights.js';
import { Tensor } from '../../../../src/engine/ops/tensor.js';
import { record } from '../../../../src/engine/record.js';
import { close } from '../../../support/close.js';
import { suite } from '../../../support/harness.js';

const test = suite('gradients of one input alone');

type Operation = (...inputs: Tensor[]) => Tensor | Tensor[];

/** linear of x, a matrix, a bias and a residual, in new memory or in that of the residual. */
const linearOf =
  (activation: Activation, isGiven: boolean): Operation =>
  (...inputs) => {
    const [x, b, bias, residual] = inputs as [Tensor, Tensor, Tensor, Tensor];
    const w = packWeights(b.detach());
    record('pack', [w as unknown as Tensor], [b], () => (g) => [g]);
    const out = isGiven ? residual.clone() : undefined;
    return linear(x, w, { activation, bias, residual: out ?? residual, ...(out && { out }) });
  };

const rows = [2, 3];
const all: Record<string, [of: Operation, ...shapes: number[][]]> = {
  linear: [linearOf('none', false), [2, 5], [5, 3], [3], rows],
  'linear, given out': [linearOf('none', true), [2, 5], [5, 3], [3], rows],
  'linear, gelu': [linearOf('gelu', false), [2, 5], [5, 3], [3], rows],
  'linear, relu, given out': [linearOf('relu', true), [2, 5], [5, 3], [3], rows],
  matmul: [(...[a, b, bias]) => matmul(a as Tensor, b as Tensor, { bias: bias as Tensor }), [4, 2, 5], [5, 3], [3]],
  'matmul, given out': [
    (...[a, b, bias]) => matmul(a as Tensor, b as Tensor, { bias: bias as Tensor, out: Tensor.zeros([2, 2, 3]) }),
    [2, 2, 5],
    [2, 5, 3],
    [3],
  ],
  'einsum, matmul': [(...t) => einsum('abc,bad->cd', ...t), [2, 3, 4], [3, 2, 5]],
  'einsum, mul': [(...t) => einsum('ab,bc->abc', ...t), [2, 3], [3, 4]],
  'einsum, sums': [(...t) => einsum('ab,cb->b', ...t), [2, 3], [4, 3]],
  'einsum of nothing': [(...t) => einsum('ab,bc->ac', ...t), [2, 0], [0, 3]],
  embedding: [
    (...[table, before]) =>
      embedding(Tensor.from([2, 0, 2], { dtype: 'int32' }), table as Tensor, { addTo: (before as Tensor).clone() }),
    [4, 2],
    [3, 2],
  ],
  indexCopy: [(...[x, source]) => (x as Tensor).indexCopy(0, [1, 0, 1], source as Tensor), [4, 2], [3, 2]],
  scatterAdd: [(...[x, source]) => (x as Tensor).scatterAdd(1, [[1, 0, 1]], source as Tensor), [4, 2], [1, 3]],
  cat: [(...t) => cat(t, 1), [2, 3], [2, 1], [2, 2]],
  layerNorm: [(...[x, gain, bias]) => layerNorm(x as Tensor, gain as Tensor, bias as Tensor), [4, 5], [5], [5]],
  addLayerNorm: [
    (...inputs) => {
      const { sum, out } = addLayerNorm(...(inputs as [Tensor, Tensor, Tensor, Tensor]));
      return [sum, out];
    },
    [4, 5],
    [4, 5],
    [5],
    [5],
  ],
  attention: [(...t) => attention(...(t as [Tensor, Tensor, Tensor])), [2, 3, 2, 4], [2, 5, 2, 4], [2, 5, 2, 3]],
  'attention, probabilities': [
    (...inputs) => {
      const probs = Tensor.zeros([2, 3, 5, 2]);
      return [attention(...(inputs as [Tensor, Tensor, Tensor]), { probs }), probs];
    },
    [2, 3, 2, 4],
    [2, 5, 2, 4],
    [2, 5, 2, 3],
  ],
};

for (const [name, [of, ...shapes]] of Object.entries(all)) {
  test(name, async () => {
    /** The gradients of the inputs, of which those in the list are leaves. */
    const gradients = async (leaves: readonly number[]): Promise<(ArrayLike<number> | undefined)[]> => {
      const inputs = shapes.map((shape, seed) => Tensor.randn(shape, { seed }));
      for (const i of leaves) inputs[i]?.requireGrad();
      const outputs = [of(...inputs)].flat();
      const terms = outputs.map((out, i) => out.mul(Tensor.randn([...out.shape], { seed: 10 + i })).sum());
      await terms.reduce((a, b) => a.add(b)).backward();
      return Promise.all(inputs.map(({ grad }) => grad?.read()));
    };
    const indices = [...shapes.keys()];
    const together = await gradients(indices);
    for (const i of indices) {
      const alone = await gradients([i]);
      for (const other of indices) assert.is(alone[other] !== undefined, other === i, `${other} beside ${i}`);
      close(alone[i] as ArrayLike<number>, together[i] as ArrayLike<number>, { label: `input ${i}` });
    }
  });
}

test.run();
