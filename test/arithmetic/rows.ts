// The part of the fixed program that goes over rows: reductions, orders, softmax, norms, and what picks elements by indices.
import { addLayerNorm } from '../../src/engine/ops/add_layer_norm.js';
import { cat } from '../../src/engine/ops/cat.js';
import { chooseIndex } from '../../src/engine/ops/choose_index.js';
import { crossEntropy } from '../../src/engine/ops/cross_entropy.js';
import { embedding } from '../../src/engine/ops/embedding.js';
import { layerNorm } from '../../src/engine/ops/layer_norm.js';
import { all, any, logSumExp, max, mean, min, norm, std, sum, variance } from '../../src/engine/ops/reduce.js';
import { rootMeanSquare } from '../../src/engine/ops/root_mean_square.js';
import { logSoftmax, softmax, softmaxNumerator } from '../../src/engine/ops/softmax.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { topKMask } from '../../src/engine/ops/top_k.js';
import { updateLastNonzero } from '../../src/engine/ops/update_last_nonzero.js';
import type { Digests } from './digests.js';
import { type Kind, type Layout, layouts, Values } from './values.js';

type Dims = undefined | number | number[];

const reduced: [shape: number[], dims: Dims[]][] = [
  [[], [undefined]],
  [[1], [0]],
  [[0], [0]],
  ...[17, 63, 64, 65, 127, 128, 129, 769, 1031].map((n): [number[], Dims[]] => [[n], [undefined]]),
  [[131_077], [0]],
  [
    [3, 769],
    [0, 1, undefined],
  ],
  [
    [769, 3],
    [0, 1],
  ],
  [
    [5, 7, 129],
    [0, 1, 2, [0, 1], [0, 2], [1, 2]],
  ],
  [
    [2, 0, 3],
    [0, 2],
  ],
  [[41, 1031], [0]],
  [[2, 70_001], [1]],
];

const reductions = { sum, mean, var: variance, std, norm, logSumExp, max, min, any, all };
const rowKinds: readonly Kind[] = ['plain', 'cancelling', 'finite', 'rare', 'awkward'];
const widths = [1, 2, 3, 17, 63, 64, 65, 127, 128, 129, 767, 768, 769, 1537];

const kindOf = (i: number): Kind => rowKinds[i % rowKinds.length] as Kind;
const layoutOf = (i: number): Layout => layouts[i % layouts.length] as Layout;

export async function rows(d: Digests): Promise<void> {
  await reductionsOf(d);
  await ordersOf(d);
  for (const [i, width] of widths.entries()) {
    for (const kind of rowKinds) {
      const x = d.floats([7, width], kind, layoutOf(i));
      await d.take('softmax', softmax(x), softmax(x, 0));
      await d.take('log_softmax', logSoftmax(x), logSoftmax(x, 0));
      await d.take('softmax numerator', softmaxNumerator(x));
      const [gain, bias] = [d.floats([width]), d.floats([width], kind === 'awkward' ? 'awkward' : 'plain')];
      await d.take('layer_norm', layerNorm(x, gain, bias), layerNorm(x, gain, bias, { eps: 1e-3 }));
      const both = addLayerNorm(x, d.floats([7, width], kind, layoutOf(i + 1)), gain, bias);
      await d.take('add_layer_norm', both.sum, both.out);
      await d.take('root_mean_square', rootMeanSquare(x));
      const targets = d.integers([7], 0, width);
      const options = { pad: d.bools([7]), reduction: 'none' } as const;
      await d.take('cross_entropy', crossEntropy(x, targets, options), crossEntropy(x, targets));
    }
  }
  const long = d.floats([2, 50_257], 'plain');
  await d.take('softmax', softmax(long), softmax(d.floats([3, 40, 5], 'finite', 'reversed'), 1));
  await d.take('log_softmax', logSoftmax(long), logSoftmax(d.floats([0, 5])));
  await d.take('cross_entropy', crossEntropy(long, d.integers([2], 0, 50_257), { reduction: 'none' }));
  const infinite = Tensor.full([2, 17], Number.NEGATIVE_INFINITY, { device: d.device, dtype: d.dtype });
  await d.take('softmax', softmax(infinite), softmaxNumerator(infinite), logSoftmax(infinite));
  await indexing(d);
}

async function reductionsOf(d: Digests): Promise<void> {
  for (const [i, [shape, dims]] of reduced.entries()) {
    const kinds: readonly Kind[] = shape.length > 1 ? [kindOf(i), kindOf(i + 2)] : rowKinds;
    for (const kind of kinds) {
      const x = d.floats(shape, kind, layoutOf(i));
      for (const dim of dims) {
        for (const [name, reduce] of Object.entries(reductions)) {
          if (!shape.includes(0) || !['max', 'min'].includes(name)) await d.take(name, reduce(x, dim));
        }
      }
    }
  }
  for (const correction of [0, 1, 5, 100]) {
    const x = d.floats([3, 17], 'cancelling');
    await d.take('var', variance(x, 1, { correction }), std(x, 0, { correction, keepDim: true }));
  }
}

async function ordersOf(d: Digests): Promise<void> {
  for (const [i, width] of [...widths, 1031].entries()) {
    for (const kind of ['equal', 'awkward', 'plain'] as const) {
      const x = d.floats([3, width], kind, layoutOf(i));
      await d.take('argmax', x.argmax(1), x.argmax(), x.argmin(1), x.argmin(0));
      await d.take('cumsum', x.cumsum(1), x.cumsum(0), d.floats([width], 'cancelling').cumsum(0));
      for (const descending of [false, true]) {
        const { values, indices } = x.sort(1, { descending });
        await d.take('sort', values, indices);
      }
      for (const k of [1, 2, 32, 100, width]) {
        if (k > width) continue;
        const { values, indices } = x.topk(k);
        await d.take('top_k', values, indices);
        await d.take('top_k_mask', topKMask(x, k), topKMask(x, k, { relu: false }));
      }
    }
  }
}

async function indexing(d: Digests): Promise<void> {
  const table = d.floats([37, 65], 'awkward');
  await d.take('embedding', embedding(d.integers([3, 11], 0, 37, 'reversed'), table));
  const addTo = d.floats([5, 65], 'plain');
  await d.take('embedding', embedding(d.integers([5], 0, 37), table, { addTo }));
  for (const [i, layout] of layouts.entries()) {
    const x = d.floats([7, 9, 13], 'awkward', layout);
    for (const dim of [0, 1, 2]) {
      const shape = [7, 9, 13].with(dim, 21);
      const size = x.shape[dim] as number;
      const index = d.integers(shape, 0, size, layoutOf(i + 1));
      await d.take('gather', x.gather(dim, index), x.gather(dim, d.integers([2, 3, 4], 0, size)));
      await d.take('index_select', x.indexSelect(dim, d.integers([17], 0, size)));
      const source = d.floats(shape, 'plain', layoutOf(i + 2));
      await d.take('index_copy', x.indexCopy(dim, d.integers([21], 0, size), source));
      await d.take('scatter_add', x.scatterAdd(dim, index, source));
      const plain = d.floats([7, 9, 13], 'cancelling', layout);
      await d.take('scatter_add', plain.scatterAdd(dim, index, d.float32(shape, 'cancelling')));
    }
  }
  const many = d.integers([4, 3000], 0, 5);
  await d.take('scatter_add', d.floats([4, 5], 'plain').scatterAdd(1, many, d.floats([4, 3000], 'cancelling')));
  const stats = d.integers([129], 0, 1000);
  updateLastNonzero(stats, d.floats([7, 129], 'equal', 'reversed'));
  updateLastNonzero(stats, d.floats([3, 129], 'awkward'));
  await d.take('update_last_nonzero', stats);
  await choices(d);
  for (const [shape, seed] of [
    [[], 1],
    [[0], 1],
    [[1], 2],
    [[7, 13], 3],
    [[65_539], 2 ** 33 + 5],
  ] as const) {
    const options = { device: d.device, dtype: d.dtype, seed };
    await d.take(
      'randn',
      Tensor.randn([...shape], options),
      Tensor.randn([...shape], { ...options, mean: 2, std: 0.1 }),
    );
  }
}

/** From float32, whatever the program's dtype. Values of its own leave those of the rest of the program as they are. */
async function choices(d: Digests): Promise<void> {
  const own = new Values(d.device, 'float32', 2);
  const chosen = (x: Tensor, random?: Tensor): Tensor => {
    const out = Tensor.empty([2, x.shape[0] as number], { dtype: 'int32', device: d.device });
    chooseIndex(out, x, random);
    return out;
  };
  for (const [i, width] of [...widths, 50_257].entries()) {
    for (const kind of ['plain', 'equal', 'finite', 'rare', 'awkward'] as const) {
      const x = own.floats([7, width], kind, layoutOf(i));
      const words = cat([own.integers([7, 1], 0, 2 ** 27), own.integers([7, 1], 0, 2 ** 26)], 1);
      await d.take('choose_index', chosen(x), chosen(x, words), chosen(softmax(x), words));
    }
  }
}
