// Gradients of matrix products, einsum and products of vectors against central differences of plain loops.
import { einsum } from '../../../../src/engine/ops/einsum.js';
import { type Activation, linear } from '../../../../src/engine/ops/linear.js';
import { matmul } from '../../../../src/engine/ops/matmul.js';
import { type PackedMatrix, packWeights } from '../../../../src/engine/ops/pack_weights.js';
import { sparseDecode } from '../../../../src/engine/ops/sparse_decode.js';
import { sparseEncode } from '../../../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../../../src/engine/ops/tensor.js';
import { dot, outer } from '../../../../src/engine/ops/vector_products.js';
import { GradientRecord, record, recordingIn } from '../../../../src/engine/record.js';
import { close } from '../../../support/close.js';
import { rejects, suite, throws } from '../../../support/harness.js';
import { coordinates, product } from '../../../support/operations/cases.js';
import { anyFloat, gradients, type Own } from './differences.js';
import { device, maybe, normal } from './inputs.js';
import { thinned, underneath } from './parts.js';

const test = suite('gradients of products');

const activated: Record<Activation, (x: number) => number> = {
  none: (x) => x,
  relu: (x) => Math.max(x, 0),
  gelu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** A packed matrix whose gradient becomes that of b [K, N], or [N, K] with transposeB. */
function packed(own: Own, b: Tensor, transposeB: boolean): PackedMatrix {
  const w = own(packWeights(b.detach(), { transposeB }));
  record('pack', [w as unknown as Tensor], [transposeB ? b.permute([1, 0]) : b], () => (g) => [g]);
  return w;
}

test('linear: any bias, residual, activation and out', async () => {
  await gradients(260, (rng, seed) => {
    const [k, n] = rng.shape(2, { max: 17, min: maybe(rng, 0.1) ? 0 : 1 }) as [number, number];
    const lead = rng.shape(rng.integer(0, 4), { max: 7, elements: 24 });
    const rows = product(lead);
    const activation = rng.pick(['none', 'relu', 'gelu', 'gelu'] as const);
    const [dtype, outDType] = [anyFloat(rng), anyFloat(rng)];
    const given = rng.pick(['nothing', 'out', 'residual as out'] as const);
    const hasBias = maybe(rng);
    const hasResidual = given === 'residual as out' || maybe(rng);
    const transposeB = maybe(rng);
    const shape = [...lead, n];
    return {
      operation: `linear (${activation}, given ${given})`,
      inputs: [
        normal(rng, [...lead, k], dtype),
        normal(rng, transposeB ? [n, k] : [k, n], anyFloat(rng), 1 / Math.sqrt(k + 1)),
        ...(hasBias ? [normal(rng, [n])] : []),
        ...(hasResidual ? [normal(rng, shape, given === 'nothing' ? dtype : outDType)] : []),
      ],
      ours: (own, x, b, ...others) => {
        // what is kept of x is not changed by what is done to it later
        const input = own((x as Tensor).clone());
        const w = packed(own, b as Tensor, transposeB);
        const bias = hasBias ? others.shift() : undefined;
        const residual = others.shift();
        const out =
          given === 'nothing'
            ? undefined
            : given === 'out'
              ? own(input.make(shape, outDType).fill(7))
              : own((residual as Tensor).clone());
        const result = linear(input, w, {
          activation,
          ...(bias && { bias }),
          ...(residual && { residual: given === 'residual as out' ? (out as Tensor) : residual }),
          ...(out && { out }),
        });
        input.fill(seed);
        return result;
      },
      oracle: (x, b, ...others) => {
        const bias = hasBias ? others.shift() : undefined;
        const residual = others.shift();
        return Float64Array.from({ length: rows * n }, (_, i) => {
          const [row, column] = [Math.floor(i / n), i % n];
          let sum = bias?.[column] ?? 0;
          for (let j = 0; j < k; j++) {
            sum += (x?.[row * k + j] as number) * (b?.[transposeB ? column * k + j : j * n + column] as number);
          }
          return activated[activation](sum) + (residual?.[i] ?? 0);
        });
      },
      views: 'any',
      step: activation === 'relu' ? 1e-8 : 1e-5,
    };
  });
});

test('linear: parameters of a pass, and only what is wanted', async () => {
  using b = Tensor.randn([5, 3], { device, seed: 1 });
  using bias = Tensor.randn([3], { device, seed: 2 });
  using x = Tensor.randn([4, 5], { device, seed: 3 });
  using w = packWeights(b);
  const pass = new GradientRecord();
  pass.watch(w);
  pass.watch(bias);
  pass.willReturn({}, (of) => new Map([w, bias].map((t, i) => [String(i), of(t) as Tensor])));
  using loss = recordingIn(pass, () => linear(x, w, { bias, activation: 'relu' }).sum());
  const given = await loss.backward();
  const positive = await linear(x, w, { bias }).gt(0).to('float32').read();
  const values = await x.read();
  const [ofW, ofBias] = [new Float64Array(15), new Float64Array(3)];
  for (let row = 0; row < 4; row++) {
    for (let n = 0; n < 3; n++) {
      const g = positive[row * 3 + n] as number;
      ofBias[n] = (ofBias[n] as number) + g;
      for (let k = 0; k < 5; k++) ofW[k * 3 + n] = (ofW[k * 3 + n] as number) + g * (values[row * 5 + k] as number);
    }
  }
  close(await (given.get('0') as Tensor).read(), ofW, { rtol: 1e-6, atol: 1e-6 });
  close(await (given.get('1') as Tensor).read(), ofBias, { rtol: 1e-6 });
  for (const gradient of given.values()) gradient.dispose();
});

test('linear: a matrix that is gone is named, where backward needs it', async () => {
  using b = Tensor.randn([5, 3], { device, seed: 1 });
  const after = async (use: (w: PackedMatrix, x: Tensor, residual: Tensor) => Tensor): Promise<Float32Array> => {
    using x = Tensor.randn([2, 5], { device, seed: 3 }).requireGrad();
    using residual = Tensor.zeros([2, 3], { device }).requireGrad();
    const w = packWeights(b);
    using loss = use(w, x, residual).sum();
    w.dispose();
    await loss.backward();
    return (await residual.grad?.read()) as Float32Array;
  };
  const message = /^linear: backward needs a packed matrix \[5, 3\] that cannot be used: it was disposed$/;
  await rejects(
    after((w, x) => linear(x, w)),
    Error,
    message,
  );
  // the residual alone needs nothing
  close(await after((w, x, residual) => linear(x.detach(), w, { residual, activation: 'gelu' })), Array(6).fill(1));
});

test('linear: a row does not depend on the others', async () => {
  const [k, n] = [77, 33];
  const data = await Tensor.randn([64, k], { device, seed: 5 }).read();
  using b = Tensor.randn([k, n], { device, seed: 6 });
  using w = packWeights(b);
  const of = async (from: number, to: number): Promise<Float32Array> => {
    using x = Tensor.from(data.slice(from * k, to * k), { device, shape: [to - from, k] }).requireGrad();
    using out = linear(x, w, { activation: 'gelu' });
    using loss = out.mul(out).sum();
    await loss.backward();
    return (await x.grad?.read()) as Float32Array;
  };
  const all = await of(0, 64);
  for (const [from, to] of [
    [10, 11],
    [1, 50],
  ] as const) {
    close(await of(from, to), all.slice(from * k, to * k));
  }
});

test('unpack: back into the packed matrix', async () => {
  await gradients(200, (rng) => {
    const shape = rng.shape(2, { max: 13 });
    const [packTransposed, transposed] = [maybe(rng), maybe(rng)];
    return {
      operation: 'unpack',
      inputs: [normal(rng, shape)],
      ours: (own, b) => packed(own, b as Tensor, packTransposed).unpack({ transposeB: transposed }),
      oracle: (b) => {
        if (!b || packTransposed === transposed) return b as Float64Array;
        const [rows, columns] = shape as [number, number];
        return b.map((_, i) => b[(i % rows) * columns + Math.floor(i / rows)] as number);
      },
      views: 'any',
    };
  });
});

test('matmul: leading dimensions that broadcast, transposeB, bias and out', async () => {
  await gradients(260, (rng, seed) => {
    const [m, k, n] = rng.shape(3, { max: 9, min: maybe(rng, 0.1) ? 0 : 1 }) as [number, number, number];
    const lead = rng.shape(rng.integer(0, 3), { max: 4, min: 1 });
    const [ofA, ofB] = maybe(rng) ? [lead, thinned(rng, lead)] : [thinned(rng, lead), lead];
    const [transposeB, hasBias, hasOut] = [maybe(rng), maybe(rng), maybe(rng)];
    const outDType = anyFloat(rng);
    return {
      operation: 'matmul',
      inputs: [
        normal(rng, [...ofA, m, k], anyFloat(rng)),
        normal(rng, [...ofB, ...(transposeB ? [n, k] : [k, n])], anyFloat(rng)),
        ...(hasBias ? [normal(rng, [n])] : []),
      ],
      ours: (own, ...inputs) => {
        const [a, b, bias] = inputs as [Tensor, Tensor, Tensor | undefined];
        const out = hasOut ? own(a.make([...lead, m, n], outDType).fill(seed)) : undefined;
        return matmul(a, b, { transposeB, ...(bias && { bias }), ...(out && { out }) });
      },
      oracle: (a, b, bias) => {
        const [lefts, rights] = [underneath(ofA, lead), underneath(ofB, lead)];
        return Float64Array.from({ length: product(lead) * m * n }, (_, i) => {
          const [matrix, row, column] = coordinates([product(lead), m, n], i) as [number, number, number];
          const left = ((lefts[matrix] as number) * m + row) * k;
          const right = (rights[matrix] as number) * k * n;
          let sum = bias?.[column] ?? 0;
          for (let j = 0; j < k; j++) {
            sum += (a?.[left + j] as number) * (b?.[right + (transposeB ? column * k + j : j * n + column)] as number);
          }
          return sum;
        });
      },
      views: 'any',
    };
  });
});

/** einsum of operands with these sizes of letters, in loops over all letters. */
function einsumOracle(inputs: readonly string[], output: string, sizes: ReadonlyMap<string, number>) {
  const letters = [...sizes.keys()];
  const all = letters.map((letter) => sizes.get(letter) as number);
  const strides = (list: string): number[] => {
    const steps = letters.map(() => 0);
    let step = 1;
    for (const letter of [...list].reverse()) {
      const d = letters.indexOf(letter);
      steps[d] = (steps[d] as number) + step;
      step *= sizes.get(letter) as number;
    }
    return steps;
  };
  const [to, ...from] = [output, ...inputs].map(strides) as [number[], ...number[][]];
  const at = (place: readonly number[], steps: readonly number[]) =>
    place.reduce((index, j, d) => index + j * (steps[d] as number), 0);
  return (...operands: Float64Array[]): Float64Array => {
    const out = new Float64Array(product([...output].map((letter) => sizes.get(letter) as number)));
    for (let i = 0; i < product(all); i++) {
      const place = coordinates(all, i);
      const term = operands.reduce((p, x, o) => p * (x[at(place, from[o] as number[])] as number), 1);
      const index = at(place, to);
      out[index] = (out[index] as number) + term;
    }
    return out;
  };
}

const equations = [
  ...['bqhc,bkhc->bhqk', 'bqhc,bkhc->bqkh', 'bhqk,bkhc->bqhc', 'bshc,hcd->bsd', 'bsd,dhc->bshc', 'ij,jk->ki'],
  ...['ba->ab', 'ij->', 'ii->', 'iji->ij', 'iijj->ji', 'iij,jk->ik', 'ij,ij->', 'bij,bji->b', 'i,j->ij', ',i->i'],
  ...['ab,bc->', 'abc,cd->bd', 'abc,bad->cd', 'abc,bac->', 'abcxy,yxc->ba', ',->', '->'],
];

test('einsum: random equations and some by hand', async () => {
  await gradients(220 + equations.length, (rng, seed) => {
    const pool = [...'abcdX'];
    const operand = () => Array.from({ length: rng.integer(0, 4) }, () => rng.pick(pool)).join('');
    const random = () => {
      const operands = maybe(rng, 0.25) ? [operand()] : [operand(), operand()];
      const output: string[] = [];
      for (const letter of new Set(operands.join(''))) {
        if (maybe(rng, 0.55)) output.splice(rng.integer(0, output.length + 1), 0, letter);
      }
      return `${operands.join(',')}->${output.join('')}`;
    };
    const equation = equations[seed - 1] ?? random();
    const [left, output] = equation.split('->') as [string, string];
    const inputs = left.split(',');
    const sizes = new Map(
      [...new Set(left.replaceAll(',', ''))].map((letter) => [
        letter,
        maybe(rng, 0.03) ? 0 : rng.pick([1, 2, 3, 3, 4]),
      ]),
    );
    return {
      operation: `einsum '${equation}'`,
      inputs: inputs.map((letters) =>
        normal(
          rng,
          [...letters].map((letter) => sizes.get(letter) as number),
          anyFloat(rng),
        ),
      ),
      ours: (_, ...operands) => einsum(equation, ...operands),
      oracle: einsumOracle(inputs, output, sizes),
      views: 'any',
    };
  });
});

test('einsum: one operand given twice', async () => {
  await gradients(30, (rng) => {
    const [n, m] = rng.shape(2, { max: 5 }) as [number, number];
    const [equation, output] = rng.pick([
      ['ij,kj->ik', 'ik'],
      ['ij,ij->', ''],
      ['ij,ik->kj', 'kj'],
      ['ij,ij->ji', 'ji'],
    ] as const);
    const sizes = new Map(Object.entries({ i: n, j: m, k: equation === 'ij,kj->ik' ? n : m }));
    if (!equation.includes('k')) sizes.delete('k');
    const inputs = (equation.split('->')[0] as string).split(',');
    const oracle = einsumOracle(inputs, output, sizes);
    return {
      operation: `einsum '${equation}' of one operand`,
      inputs: [normal(rng, [n, m])],
      ours: (_, x) => einsum(equation, x as Tensor, x as Tensor),
      oracle: (x) => oracle(x as Float64Array, x as Float64Array),
      views: 'any',
    };
  });
});

test('dot and outer', async () => {
  await gradients(420, (rng, seed) => {
    const [m, n] = rng.shape(2, { max: 33, elements: 400 }) as [number, number];
    const isDot = seed % 2 === 0;
    return {
      operation: isDot ? 'dot' : 'outer',
      inputs: [normal(rng, [m], anyFloat(rng)), normal(rng, [isDot ? m : n], anyFloat(rng))],
      ours: (_, ...[a, b]) => (isDot ? dot : outer)(a as Tensor, b as Tensor),
      oracle: (...[a, b]) => {
        const value = (i: number, j: number) => (a?.[i] as number) * (b?.[j] as number);
        if (isDot) return Float64Array.of(Array.from({ length: m }, (_, i) => value(i, i)).reduce((s, v) => s + v, 0));
        return Float64Array.from({ length: m * n }, (_, i) => value(Math.floor(i / n), i % n));
      },
      views: 'any',
    };
  });
});

test('what cannot be differentiated names itself', async () => {
  using leaf = Tensor.zeros([3, 3], { device }).requireGrad();
  using bias = Tensor.zeros([3], { device }).requireGrad();
  using matrix = Tensor.zeros([3, 3], { device });
  using recorded = leaf.mul(2);
  using w = packWeights(matrix);
  const refused = (operation: string, argument: string) =>
    new RegExp(
      `^${operation}: ${argument} must not be recorded for gradients, as ${operation} cannot be differentiated`,
    );
  for (const t of [leaf, recorded]) {
    throws(() => packWeights(t), Error, refused('packWeights', 'b'));
    await rejects(sparseEncode(t, w), Error, refused('sparseEncode', 'x'));
  }
  await rejects(sparseEncode(matrix, w, { bias }), Error, refused('sparseEncode', 'bias'));
  const latents = await sparseEncode(leaf.detach(), w, { bias: bias.detach() });
  throws(() => sparseDecode(latents, w, { bias }), Error, refused('sparseDecode', 'bias'));
  sparseDecode(latents, w, { bias: bias.detach() }).dispose();
  packWeights(leaf.detach()).dispose();
  using pass = new GradientRecord();
  pass.watch(w);
  await rejects(sparseEncode(matrix, w), Error, refused('sparseEncode', 'w'));
  throws(() => sparseDecode(latents, w), Error, refused('sparseDecode', 'w'));
});

test.run();
