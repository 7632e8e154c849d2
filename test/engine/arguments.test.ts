// Wrong arguments of every function and method of the engine. Oracle: an error is sonde's own, named after what was called.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { Device, openDevice } from '../../src/engine/device.js';
import { OutOfMemoryError } from '../../src/engine/errors.js';
import { packageRoot } from '../../src/engine/native.js';
import { chooseIndex } from '../../src/engine/ops/choose_index.js';
import { PackedMatrix, packWeights } from '../../src/engine/ops/pack_weights.js';
import { Tensor } from '../../src/engine/ops/tensor.js';
import { updateLastNonzero } from '../../src/engine/ops/update_last_nonzero.js';
import { isRecorded } from '../../src/engine/record.js';
import * as sonde from '../../src/index.js';
import { testDevice } from '../support/device.js';
import { rejects, suite } from '../support/harness.js';

const test = suite('arguments');
test.limit(120_000);

// biome-ignore lint/suspicious/noExplicitAny: the functions are called with what their types forbid
type Anything = any;

interface Call {
  /** Right arguments, made anew for each call. Those that may be left out are given too. */
  readonly args: () => Anything[];
  readonly call: (...args: Anything[]) => unknown;
  /** The operation that its errors name. */
  readonly name: string;
}

const device = testDevice();
/** What becomes of the floats among right arguments. */
let given = (floats: Tensor): Tensor => floats;
const floats = (...shape: number[]) => given(Tensor.zeros(shape, { device }));
const integers = (...shape: number[]) => Tensor.zeros(shape, { device, dtype: 'int32' });
const flags = (...shape: number[]) => Tensor.zeros(shape, { device, dtype: 'bool' });
const packed = (k = 4, n = 3) => packWeights(Tensor.zeros([k, n], { device }));
const latents = () => ({
  rowPtr: BigInt64Array.of(0n, 1n),
  indices: Int32Array.of(2),
  values: Float32Array.of(1.5),
});

const twoSides = ['add', 'sub', 'mul', 'div', 'maximum', 'minimum'];
const comparisons = ['eq', 'ne', 'lt', 'le', 'gt', 'ge'];
const ofOne = ['exp', 'log', 'sqrt', 'abs', 'neg', 'sign', 'tanh', 'sigmoid', 'relu', 'gelu'];
const inPlace = (names: string[]): string[] => names.map((name) => `${name}_`);
const each = <T>(names: string[], value: T): Record<string, T> =>
  Object.fromEntries(names.map((name) => [name, value]));
const called = (name: string): Call['call'] => (sonde as unknown as Record<string, Call['call']>)[name] as Call['call'];

/** Functions, by their name in src/index.ts. */
const functions: Record<string, [call: Call['call'], args: Call['args']]> = {
  addLayerNorm: [sonde.addLayerNorm, () => [floats(2, 3), floats(2, 3), floats(3), floats(3), { eps: 1 }]],
  all: [sonde.all, () => [flags(2, 3), [0], { keepDim: true }]],
  any: [sonde.any, () => [floats(2, 3), [0], { keepDim: true }]],
  argmax: [sonde.argmax, () => [integers(2, 3), 0, { keepDim: true }]],
  argmin: [sonde.argmin, () => [floats(2, 3), 0, { keepDim: true }]],
  attention: [
    sonde.attention,
    () => {
      const [q, k, v] = [floats(1, 2, 1, 4), floats(1, 2, 1, 4), floats(1, 2, 1, 4)];
      return [q, k, v, { causal: true, pad: flags(1, 2), scale: 1, probs: floats(1, 2, 2, 1) }];
    },
  ],
  arange: [sonde.arange, () => [0, 5, 2, { device, dtype: 'float16' }]],
  cat: [sonde.cat, () => [[floats(2, 3), floats(1, 3)], 0]],
  diagonal: [sonde.diagonal, () => [floats(2, 3), 1, 0, 1]],
  dot: [sonde.dot, () => [floats(3), floats(3)]],
  einsum: [sonde.einsum, () => ['ij,jk->ik', floats(2, 3), floats(3, 4)]],
  crossEntropy: [sonde.crossEntropy, () => [floats(2, 3), integers(2), { pad: flags(2), reduction: 'mean' }]],
  cumsum: [sonde.cumsum, () => [floats(2, 3), 0]],
  embedding: [sonde.embedding, () => [integers(2), floats(3, 4), { addTo: floats(2, 4) }]],
  ...Object.fromEntries(
    [...twoSides, ...comparisons, 'and', 'or'].map((name) => [name, [called(name), () => [floats(2, 3), floats(3)]]]),
  ),
  ...Object.fromEntries(
    [...ofOne, 'not'].filter((name) => name !== 'relu').map((name) => [name, [called(name), () => [floats(2)]]]),
  ),
  pow: [sonde.pow, () => [floats(2), 3]],
  clamp: [sonde.clamp, () => [floats(2), 0, 1]],
  where: [sonde.where, () => [flags(2), floats(2), 1]],
  gather: [sonde.gather, () => [floats(2, 3), 1, integers(2, 1)]],
  expand: [sonde.expand, () => [floats(1, 3), 2, 3]],
  eye: [sonde.eye, () => [2, 3, { device, dtype: 'int32' }]],
  flatten: [sonde.flatten, () => [floats(2, 3, 4), 0, 1]],
  full: [sonde.full, () => [[2], 3, { device, dtype: 'int32' }]],
  getDefaultDevice: [sonde.getDefaultDevice, () => []],
  indexCopy: [sonde.indexCopy, () => [floats(2, 3), 1, [0, -1], floats(2, 2)]],
  indexSelect: [sonde.indexSelect, () => [floats(2, 3), 1, integers(4)]],
  layerNorm: [sonde.layerNorm, () => [floats(2, 3), floats(3), floats(3), { eps: 1 }]],
  linear: [
    sonde.linear,
    () => {
      const out = floats(2, 3);
      const others = { bias: floats(3), residual: floats(2, 3), out };
      return [floats(2, 4), packed(), { ...others, activation: 'relu', precision: 'strict' }];
    },
  ],
  listDevices: [sonde.listDevices, () => []],
  logSoftmax: [sonde.logSoftmax, () => [floats(2, 3), 0]],
  logSumExp: [sonde.logSumExp, () => [floats(2, 3), [0, 1], { keepDim: true }]],
  maskLogits: [sonde.maskLogits, () => [floats(1, 1, 2, 2), { causal: false, pad: flags(1, 2) }]],
  matmul: [
    sonde.matmul,
    () => {
      const options = { transposeB: false, bias: floats(4), out: floats(2, 4), precision: 'tf32' };
      return [floats(2, 3), floats(3, 4), options];
    },
  ],
  ones: [sonde.ones, () => [[2], { device, dtype: 'int32' }]],
  outer: [sonde.outer, () => [floats(3), floats(2)]],
  max: [sonde.max, () => [floats(2, 3), [0, 1], { keepDim: true }]],
  mean: [sonde.mean, () => [floats(2, 3), [0, 1], { keepDim: true }]],
  min: [sonde.min, () => [integers(2, 3), [0, 1], { keepDim: true }]],
  norm: [sonde.norm, () => [floats(2, 3), [0, 1], { keepDim: true }]],
  openDevice: [sonde.openDevice, () => ['cpu', { threads: 1 }]],
  packWeights: [sonde.packWeights, () => [floats(3, 4), { transposeB: true, dtype: 'bfloat16' }]],
  rootMeanSquare: [sonde.rootMeanSquare, () => [floats(2, 3), { eps: 1 }]],
  scatterAdd: [sonde.scatterAdd, () => [floats(2, 3), 1, [[0, 0]], floats(2, 2)]],
  softmax: [sonde.softmax, () => [floats(2, 3), 0]],
  softmaxNumerator: [sonde.softmaxNumerator, () => [floats(2, 3), 0]],
  sort: [sonde.sort, () => [floats(2, 3), 0, { descending: true }]],
  sparseDecode: [sonde.sparseDecode, () => [latents(), packed(), { bias: floats(3), dtype: 'float16' }]],
  sparseEncode: [
    sonde.sparseEncode,
    () => {
      const options = { bias: floats(3), threshold: 1, k: 2, relu: true, precision: 'bf16', filter: false };
      return [floats(2, 4), packed(), options];
    },
  ],
  split: [sonde.split, () => [floats(2, 3), 1, 0]],
  squeeze: [sonde.squeeze, () => [floats(2, 1, 3), 1]],
  stack: [sonde.stack, () => [[floats(2, 3), floats(2, 3)], 0]],
  std: [sonde.std, () => [floats(2, 3), [0, 1], { keepDim: true, correction: 0 }]],
  sum: [sonde.sum, () => [floats(2, 3), [0, 1], { keepDim: true }]],
  topKMask: [sonde.topKMask, () => [floats(2, 3), 2, { relu: false }]],
  tril: [sonde.tril, () => [floats(2, 3), 1]],
  triu: [sonde.triu, () => [floats(2, 3), 1]],
  transpose: [sonde.transpose, () => [floats(2, 3), 0, 1]],
  unsqueeze: [sonde.unsqueeze, () => [floats(2, 3), 0]],
  var: [sonde.var, () => [floats(2, 3), [0, 1], { keepDim: true, correction: 0 }]],
};

/** Static methods of Tensor. */
const statics: Record<string, Call['args']> = {
  from: () => [[1, 2], { device, dtype: 'float16', shape: [2, 1] }],
  empty: () => [[2], { device, dtype: 'int32' }],
  zeros: () => [[2], { device, dtype: 'int32' }],
  full: () => [[2], 3, { device, dtype: 'int32' }],
  ones: () => [[2], { device, dtype: 'int32' }],
  arange: () => [0, 5, 2, { device, dtype: 'float16' }],
  eye: () => [2, 3, { device, dtype: 'int32' }],
  randn: () => [[2], { device, dtype: 'float16', seed: 1, mean: 2, std: 3 }],
  randint: () => [0, 5, [2], { device, seed: 1, dtype: 'int32' }],
};

/** Methods of a tensor [2, 3] of float32, or of the shape in `shapes`. */
const methods: Record<string, Call['args']> = {
  read: () => [],
  readInto: () => [new Float32Array(6)],
  item: () => [],
  toArray: () => [],
  dispose: () => [],
  reshape: () => [3, 2],
  select: () => [0, 1],
  slice: () => [1, 0, 2],
  permute: () => [[1, 0]],
  unsqueeze: () => [1],
  squeeze: () => [1],
  expand: () => [2, 2, 3],
  transpose: () => [0, 1],
  flatten: () => [0, 1],
  diagonal: () => [1, 0, 1],
  split: () => [2, 1],
  clone: () => [],
  to: () => ['int32'],
  fill: () => [2],
  copyFrom: () => [floats(3)],
  ...each(twoSides, () => [floats(2, 3)]),
  ...each(inPlace(twoSides), () => [floats(2, 3)]),
  ...each(ofOne, () => []),
  pow: () => [2],
  clamp: () => [0, 1],
  ...each(inPlace(ofOne), () => []),
  pow_: () => [2],
  clamp_: () => [0, 1],
  ...each(comparisons, () => [floats(2, 3)]),
  and: () => [flags(2, 3)],
  or: () => [floats(2, 3)],
  not: () => [],
  sum: () => [0, { keepDim: true }],
  mean: () => [1, { keepDim: true }],
  max: () => [1, { keepDim: true }],
  min: () => [[1], { keepDim: true }],
  any: () => [[0, 1], { keepDim: true }],
  all: () => [[0, -1], { keepDim: true }],
  var: () => [[0, 1], { keepDim: true, correction: 0 }],
  std: () => [[0, 1], { keepDim: true, correction: 0 }],
  norm: () => [[0, 1], { keepDim: true }],
  logSumExp: () => [[0, 1], { keepDim: true }],
  argmax: () => [0, { keepDim: true }],
  argmin: () => [0, { keepDim: true }],
  cumsum: () => [0],
  softmax: () => [0],
  logSoftmax: () => [0],
  crossEntropy: () => [integers(2), { pad: flags(2), reduction: 'sum' }],
  topk: () => [2],
  gather: () => [1, [[0], [-1]]],
  indexSelect: () => [1, [0, -1]],
  indexCopy: () => [0, integers(1), floats(1, 3)],
  indexCopy_: () => [0, [1], floats(1, 3)],
  scatterAdd: () => [1, integers(2, 3), floats(2, 3)],
  scatterAdd_: () => [1, [[0]], floats(2, 3)],
  sort: () => [1, { descending: true }],
  tril: () => [1],
  tril_: () => [1],
  triu: () => [1],
  triu_: () => [1],
  dot: () => [floats(3)],
  outer: () => [floats(3)],
  toString: () => [],
};

/** Methods of a tensor [2, 3] of bool. */
const methodsOfBools: Record<string, Call['args']> = {
  and_: () => [flags(2, 3)],
  or_: () => [flags(3)],
  not_: () => [],
  where: () => [floats(2, 3), 1],
};

/** Methods of a leaf [1], on the CPU. */
const methodsOfLeaves: Record<string, Call['args']> = {
  requireGrad: () => [],
  zeroGrad: () => [],
  detach: () => [],
  backward: () => [{ retain: true }],
};

/** The shapes of those tensors that cannot be [2, 3]. */
const shapes = new Map([
  ['item', [1]],
  ['dot', [3]],
  ['outer', [3]],
]);

const methodsOfDevices: Record<string, Call['args']> = {
  synchronize: () => [],
  memory: () => [],
  profile: () => [async () => {}],
  toString: () => [],
};

/** Not for callers: what these are given is checked before. */
const internal = {
  static: ['create', 'upload', 'filled', 'range', 'identity', 'kindOf'],
  tensor: ['readChecked', 'make', 'window', 'transferTo', 'release', 'stride', 'write', 'shared'],
  device: ['reached', 'section', 'run', 'upload', 'read', 'takeBuffer', 'giveBuffer', 'settled', 'record', 'storage'],
  matrix: ['write', 'detach', 'filterFor', 'release'],
};

const method =
  (name: string, make: () => Anything): Call['call'] =>
  (...args) =>
    make()[name](...args);

const calls: readonly Call[] = [
  ...Object.entries(functions).map(([name, [call, args]]) => ({ name, call, args })),
  ...Object.entries(statics).map(([name, args]) => ({
    name: `Tensor.${name}`,
    call: (...all: Anything[]) => (Tensor as Anything)[name](...all),
    args,
  })),
  ...Object.entries(methods).map(([name, args]) => ({
    name,
    call: method(name, () => floats(...(shapes.get(name) ?? [2, 3]))),
    args,
  })),
  ...Object.entries(methodsOfBools).map(([name, args]) => ({ name, call: method(name, () => flags(2, 3)), args })),
  ...Object.entries(methodsOfLeaves).map(([name, args]) => ({
    name,
    call: method(name, () => Tensor.zeros([1], { device: openDevice('cpu') }).requireGrad()),
    args,
  })),
  ...Object.entries(methodsOfDevices).map(([name, args]) => ({ name, call: method(name, () => device), args })),
  { name: 'crossEntropy', call: sonde.crossEntropy, args: () => [floats(2, 3), [0, 1], { pad: [0, true] }] },
  { name: 'fill', call: method('fill', () => integers(2, 3)), args: () => [2] },
  { name: 'fill', call: method('fill', () => flags(2, 3)), args: () => [1] },
  { name: 'add', call: method('add', () => integers(2, 3)), args: () => [integers(3)] },
  { name: 'unpack', call: method('unpack', packed), args: () => [{ transposeB: true }] },
  { name: 'relu', call: sonde.relu, args: () => [floats(2)] },
  {
    name: 'sparseEncode',
    call: sonde.sparseEncode,
    args: () => [floats(2, 4), packed(), { bias: floats(3), thresholds: floats(3), k: 0, relu: true }],
  },
  { name: 'updateLastNonzero', call: updateLastNonzero, args: () => [integers(3), floats(2, 3)] },
  { name: 'chooseIndex', call: chooseIndex, args: () => [integers(2, 2), floats(2, 3), integers(2, 2)] },
];

const disposed = (t: Tensor | PackedMatrix) => {
  t.dispose();
  return t;
};

/** What is put in the place of each argument, and of each option. */
const wrongValues: Record<string, () => unknown> = {
  undefined: () => undefined,
  null: () => null,
  '{}': () => ({}),
  '[]': () => [],
  '[[]]': () => [[], 1],
  '[10n]': () => [10n, -1],
  '5': () => 5,
  '-1': () => -1,
  '0.5': () => 0.5,
  '2 ** 40': () => 2 ** 40,
  NaN: () => Number.NaN,
  Infinity: () => Number.POSITIVE_INFINITY,
  "'x'": () => 'x',
  "'toString'": () => 'toString',
  '10n': () => 10n,
  true: () => true,
  symbol: () => Symbol('s'),
  '[symbol]': () => [Symbol('s')],
  function: () => () => 1,
  date: () => new Date(0),
  'no prototype': () => Object.create(null),
  'like a tensor': () => {
    const t = floats(2, 3);
    const { storage, dtype, shape, strides, offset, size, device, argument } = t;
    const write = (numbers: Float64Array, at: number) => t.write(numbers, at);
    return { storage, dtype, shape, strides, offset, size, device, argument, write, ended: undefined };
  },
  'in the place of a tensor': () => Object.create(Tensor.prototype),
  'a disposed tensor': () => disposed(floats(2, 3)),
  'a disposed matrix': () => disposed(packed()),
  'a matrix': () => packed(),
  'a scalar': () => floats(),
  'an empty tensor': () => floats(0, 3),
  'nine dimensions': () => new Array(9).fill(1),
  integers: () => integers(2, 3),
  flags: () => flags(2, 3),
  'another device': () => Tensor.zeros([2, 3], { device: openDevice('cpu', { threads: 1 }) }),
  'an array of bytes': () => new Uint8Array(6),
  'a huge length': () => ({ length: 2 ** 40 }),
};

const foreign =
  /Cannot|is not (a function|iterable|defined|a constructor|extensible)|Invalid|native call|circular|Reduce of|BigInt|undefined value|bad_|std::|Maximum call/;

/** The error of a call; undefined where it succeeds. Everything that it queued is done. */
async function errorOf({ call }: Call, args: unknown[]): Promise<Error | undefined> {
  try {
    const result = await call(...args);
    await device.synchronize();
    for (const out of [result, ...Object.values(Object(result))]) if (out instanceof Tensor) out.dispose();
    return undefined;
  } catch (error) {
    await device.synchronize().catch(() => {});
    return error as Error;
  }
}

/** Fails unless the error is sonde's own. `copy`, `reduce` and the like name operations that fail on their data. */
function checkOwn({ name }: Call, error: Error | undefined, where: string): void {
  if (error === undefined || error instanceof OutOfMemoryError) return;
  assert.instance(error, Error, where);
  const { message } = error;
  const names = [name, ...(error.name === 'DeviceError' ? ['copy', 'reduce', 'binary', 'binaryScalar'] : [])];
  assert.ok(
    names.some((operation) => message.startsWith(`${operation}: `)),
    `${where}: the message is "${message}"`,
  );
  assert.not.match(message.replace(/'[^']*'|BigInt64Array/g, ''), foreign, where);
}

test('the table has every function and method of the engine', () => {
  const exported = readFileSync(join(packageRoot, 'src', 'index.ts'), 'utf8').matchAll(
    /^export \{([^}]*)\} from '\.\/engine\/[^']*';/gm,
  );
  const names = [...exported].flatMap(([, list]) =>
    (list as string).split(',').map((name) => name.trim().replace(/^\w+ as /, '')),
  );
  const values = names.filter((name) => /^[a-z]\w*$/.test(name));
  assert.equal(values.sort(), Object.keys(functions).sort());
  const callable = (object: object, known: Record<string, unknown>, others: readonly string[]) => {
    const own = Object.entries(Object.getOwnPropertyDescriptors(object));
    const found = own.filter(([name, { value }]) => typeof value === 'function' && name !== 'constructor');
    assert.equal(
      found
        .map(([name]) => name)
        .filter((name) => !others.includes(name) && name !== 'prototype')
        .sort(),
      Object.keys(known).sort(),
    );
  };
  callable(Tensor, statics, internal.static);
  callable(Tensor.prototype, { ...methods, ...methodsOfBools, ...methodsOfLeaves }, internal.tensor);
  callable(Device.prototype, { synchronize: 1, ...methodsOfDevices }, [...internal.device, 'ceilings']);
  callable(PackedMatrix.prototype, { unpack: 1, dispose: 1, toString: 1 }, internal.matrix);
});

test('right arguments', async () => {
  for (const call of calls) assert.is(await errorOf(call, call.args()), undefined, call.name);
});

test('anything in the place of any argument: an error of that operation, or none', async () => {
  let errors = 0;
  for (const call of calls) {
    for (let i = 0; i < Math.max(call.args().length, 1); i++) {
      for (const [value, make] of Object.entries(wrongValues)) {
        const args = call.args();
        args[i] = make();
        const error = await errorOf(call, args);
        errors += error ? 1 : 0;
        checkOwn(call, error, `${call.name} with argument ${i} ${value}`);
      }
    }
  }
  assert.ok(errors > 1000, `only ${errors}`);
});

/** The tensors in a result. */
const tensorsIn = (result: unknown): Tensor[] => {
  if (result instanceof Tensor) return [result];
  return typeof result === 'object' && result !== null ? Object.values(result).flatMap(tensorsIn) : [];
};

if (device.kind === 'cpu') {
  test('of recorded tensors, every result is recorded, a constant whose operation has a name, or refused', async () => {
    const refused = new Map([
      ['packWeights', /packWeights: b must not be recorded/],
      ['sparseEncode', /sparseEncode: (x|bias) must not be recorded/],
      ['sparseDecode', /sparseDecode: bias must not be recorded/],
    ]);
    let recorded = 0;
    given = (t) => {
      recorded++;
      return t.requireGrad().add(0);
    };
    try {
      for (const { name, args, call } of calls) {
        if (['requireGrad', 'detach', 'unpack'].includes(name)) continue;
        recorded = 0;
        let results: Tensor[];
        try {
          results = tensorsIn(await call(...args()));
        } catch (error) {
          const message = refused.get(name);
          assert.ok(message, `${name}: ${error}`);
          assert.match((error as Error).message, message);
          continue;
        }
        assert.not.ok(refused.has(name), name);
        if (recorded === 0) continue;
        for (const t of results) {
          const isFloat = !['int32', 'bool'].includes(t.dtype);
          assert.is(isRecorded(t), isFloat, `${name} gives ${t}`);
          if (isFloat) continue;
          const cut = t.to('float32').sum().backward();
          await rejects(cut, Error, /but by way of \w+, which cannot be differentiated/);
        }
      }
    } finally {
      given = (t) => t;
    }
  });
}

const isOptions = (x: unknown): x is Record<string, unknown> =>
  typeof x === 'object' && x !== null && Object.getPrototypeOf(x) === Object.prototype && !('rowPtr' in x);

test('anything in the place of any option: an error of that operation, or none', async () => {
  for (const call of calls) {
    for (const [i, options] of call.args().entries()) {
      if (!isOptions(options)) continue;
      for (const option of Object.keys(options)) {
        for (const [value, make] of Object.entries(wrongValues)) {
          const args = call.args();
          args[i][option] = make();
          checkOwn(call, await errorOf(call, args), `${call.name} with ${option} ${value}`);
        }
      }
    }
  }
});

test('an option that is unknown is named, with the nearest one that is known', async () => {
  let tried = 0;
  for (const call of calls) {
    for (const [i, options] of call.args().entries()) {
      if (!isOptions(options)) continue;
      for (const option of Object.keys(options)) {
        for (const name of [
          option.toUpperCase(),
          `_${option}`,
          option.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`),
        ]) {
          if (name === option) continue;
          const args = call.args();
          args[i][name] = args[i][option];
          const { message } = (await errorOf(call, args)) as Error;
          assert.is(message, `${call.name}: '${name}' is no option; the nearest one is '${option}'`);
          tried++;
        }
      }
    }
  }
  assert.ok(tried > 60, String(tried));
});

test('nothing is allocated before all arguments are checked', async () => {
  const cpu = openDevice('cpu', { threads: 1 });
  const options = { device: cpu };
  const t = Tensor.zeros([4, 4], options);
  const flag = t.to('bool');
  const matrix = packWeights(t);
  const ended = disposed(Tensor.zeros([4], options)) as Tensor;
  const bad: (() => unknown)[] = [
    () => Tensor.randn([1e9], { ...options, seed: -1 }),
    () => Tensor.randn([1e9], { ...options, seed: 2 ** 53 }),
    () => Tensor.randn([1e9], { ...options, seed: 1, std: '1' as never }),
    () => Tensor.randn([1e9], { ...options, seed: 1, dtype: 'int32' }),
    () => Tensor.randn([1e9], options as never),
    () => Tensor.randint(0, 0, [1e9], { ...options, seed: 1 }),
    () => Tensor.randint(0, 2 ** 32, [1e9], { ...options, seed: 1 }),
    () => Tensor.randint(0, 2, [1e9], { ...options, seed: 0.5 }),
    () => Tensor.full([1e9], 1.5, { ...options, dtype: 'int32' }),
    () => Tensor.full([1e9], '1' as never, options),
    () => Tensor.arange(0, 1e9, 1, { ...options, dtype: 'bool' }),
    () => Tensor.arange(0, 1e9, 1, { ...options, dtyp: 'bool' } as never),
    () => Tensor.eye(1e5, 1e5, { ...options, dtype: 'float64' as never }),
    () => sonde.cat([t, t, flag, Tensor.prototype]),
    () => sonde.stack([t, flag.slice(0, 1)]),
    () => sonde.einsum('ij,jk->kl', t, t),
    () => sonde.einsum('ij,j->i', t.transpose(0, 1), t.slice(0, 1).select(1, 0)),
    () => sonde.dot(t.select(0, 0), t),
    () => Tensor.from(new Float32Array(8), { ...options, dtype: 'int8' as never }),
    () => ended.clone(),
    () => ended.to('int32'),
    () => t.to('int64' as never),
    () => flag.sum(5),
    () => t.mean(5),
    () => t.topk(5),
    () => sonde.rootMeanSquare(t, { eps: 'x' as never }),
    () => sonde.packWeights(t, { dtype: 'int32' }),
    () => sonde.sparseDecode(latents(), matrix, { dtype: 'bool' }),
  ];
  for (const [i, call] of bad.entries()) {
    const before = cpu.memory().allocated;
    let error: Error | undefined;
    try {
      call();
    } catch (caught) {
      error = caught as Error;
    }
    assert.ok(error instanceof Error, `call ${i} succeeded`);
    assert.is(cpu.memory().allocated, before, `call ${i}`);
  }
  assert.ok(cpu.memory().peak < 1e9);
});

test.run();
