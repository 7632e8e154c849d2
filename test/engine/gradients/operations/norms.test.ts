// Gradients of norms against central differences of plain loops.
import { addLayerNorm } from '../../../../src/engine/ops/add_layer_norm.js';
import { layerNorm } from '../../../../src/engine/ops/layer_norm.js';
import { rootMeanSquare } from '../../../../src/engine/ops/root_mean_square.js';
import { Tensor } from '../../../../src/engine/ops/tensor.js';
import { close } from '../../../support/close.js';
import { suite } from '../../../support/harness.js';
import { eachRow, product } from '../../../support/operations/cases.js';
import { layerNormed } from '../../../support/operations/rows.js';
import type { Random } from '../../../support/random.js';
import { anyFloat, gradients, type Input } from './differences.js';
import { maybe, normal } from './inputs.js';

const test = suite('gradients of norms');

/** Rows wide enough that none is nearly constant. */
const rowsOf = (rng: Random): number[] => [
  ...rng.shape(rng.integer(0, 4), { max: 5, elements: 20, min: maybe(rng, 0.1) ? 0 : 1 }),
  rng.pick([5, 8, 17, 33, 65]),
];

const eps = (rng: Random): { eps?: number } => (maybe(rng) ? {} : { eps: rng.pick([1e-3, 0.25, 3]) });

/** Eighths, whose sums are exact in 16 bits. */
const eighths = (input: Input): Input => ({ ...input, values: input.values.map((v) => Math.round(v * 8) / 8) });

test('layerNorm', async () => {
  await gradients(200, (rng) => {
    const shape = rowsOf(rng);
    const width = shape.at(-1) as number;
    const options = eps(rng);
    return {
      operation: 'layerNorm',
      inputs: [normal(rng, shape, anyFloat(rng), 3), normal(rng, [width], anyFloat(rng)), normal(rng, [width])],
      ours: (own, ...[x, gain, bias]) => {
        const copies = [x, gain].map((t) => own((t as Tensor).clone())) as [Tensor, Tensor];
        const out = layerNorm(...copies, bias as Tensor, options);
        for (const copy of copies) copy.fill(7);
        return out;
      },
      oracle: (...[x, gain, bias]) =>
        layerNormed(x as Float64Array, shape, gain as Float64Array, bias as Float64Array, options.eps ?? 1e-5),
      views: 'distinct',
    };
  });
});

test('addLayerNorm: a loss of the sum, of the norm, or of both', async () => {
  await gradients(240, (rng) => {
    const shape = rowsOf(rng);
    const width = shape.at(-1) as number;
    const options = eps(rng);
    const dtype = anyFloat(rng);
    const used = rng.pick(['sum', 'out', 'both'] as const);
    const weights = used === 'sum' ? [] : [normal(rng, [width], anyFloat(rng)), normal(rng, [width])];
    return {
      operation: `addLayerNorm, ${used}`,
      inputs: [...[0, 1].map(() => eighths(normal(rng, shape, dtype, 2))), ...weights],
      ours: (own, ...inputs) => {
        const [a, b, gain, bias] = inputs as [Tensor, Tensor, Tensor?, Tensor?];
        const constant = () => own(a.make([width]).fill(1));
        const { sum, out } = addLayerNorm(a, b, gain ?? constant(), bias ?? constant(), options);
        own(sum);
        own(out);
        const shown = used === 'both' ? [own(sum.clone()), out] : [used === 'sum' ? own(sum.clone()) : out];
        sum.fill(7);
        return shown;
      },
      oracle: (...[a, b, gain, bias]) => {
        const sum = (a as Float64Array).map((v, i) => v + (b?.[i] as number));
        if (!gain || !bias) return sum;
        const out = layerNormed(sum, shape, gain, bias, options.eps ?? 1e-5);
        return used === 'both' ? [sum, out] : out;
      },
      views: 'distinct',
    };
  });
});

test('rootMeanSquare', async () => {
  await gradients(200, (rng) => {
    const shape = rowsOf(rng).with(-1, rng.pick([1, 2, 5, 17, 33]));
    const options = eps(rng);
    return {
      operation: 'rootMeanSquare',
      inputs: [normal(rng, shape, anyFloat(rng))],
      ours: (own, x) => {
        const copy = own((x as Tensor).clone());
        const out = rootMeanSquare(copy, options);
        copy.fill(7);
        return out;
      },
      oracle: (x) => {
        const out = new Float64Array(product(shape.slice(0, -1)));
        eachRow(shape, (row, offset, n) => {
          const squares = (x as Float64Array).subarray(offset, offset + n).reduce((sum, v) => sum + v * v, 0);
          out[row] = Math.sqrt(squares / n + (options.eps ?? 1e-5));
        });
        return out;
      },
      views: 'distinct',
    };
  });
});

test('rows do not depend on the batch', async () => {
  const data = await Tensor.randn([64, 777], { seed: 5 }).read();
  using gain = Tensor.randn([777], { seed: 6 });
  using bias = Tensor.zeros([777]);
  const of = async (from: number, to: number, norm: (x: Tensor) => Tensor): Promise<Float32Array> => {
    using x = Tensor.from(data.slice(from * 777, to * 777), { shape: [to - from, 777] }).requireGrad();
    using out = norm(x);
    using loss = out.mul(out).sum();
    await loss.backward();
    return (await x.grad?.read()) as Float32Array;
  };
  for (const norm of [
    (x: Tensor) => layerNorm(x, gain, bias),
    (x: Tensor) => addLayerNorm(x, x, gain, bias).out,
    (x: Tensor) => rootMeanSquare(x),
  ]) {
    const all = await of(0, 64, norm);
    for (const [from, to] of [
      [10, 11],
      [1, 50],
    ] as const) {
      close(await of(from, to, norm), all.slice(from * 777, to * 777));
    }
  }
});

test.run();
