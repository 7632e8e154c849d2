// Random operands of sparseEncode that are awkward for its filter: outliers, ties, values of every magnitude, NaN.
import type { Device } from '../../../src/engine/device.js';
import type { DType } from '../../../src/engine/dtype.js';
import type { SparseLatents } from '../../../src/engine/ops/sparse_encode.js';
import { Tensor } from '../../../src/engine/ops/tensor.js';
import { type Random, random } from '../random.js';
import { floats } from './cases.js';

/** The values of every result of sparseEncode as bytes, which unlike numbers tell NaN from NaN and 0 from -0. */
export function bytesOf({ rowPtr, indices, values }: SparseLatents): Buffer {
  return Buffer.concat([rowPtr, indices, values].map((a) => Buffer.from(a.buffer, a.byteOffset, a.byteLength)));
}

const bits = new Int32Array(1);
const asFloat = new Float32Array(bits.buffer);
/** The float32 that follows a positive one, or with `by` -1 the one before it. */
export function neighbour(value: number, by: 1 | -1): number {
  asFloat[0] = value;
  bits[0] = (bits[0] as number) + by;
  return asFloat[0] as number;
}

const normals = random(1).floats(1 << 18); // drawing each number anew would take most of the time

/** n normal numbers times scale. */
export function someFloats(rng: Random, n: number, scale = 1): Float32Array {
  const out = new Float32Array(n);
  for (let at = 0; at < n; ) {
    const from = rng.integer(0, normals.length);
    const part = normals.subarray(from, from + n - at);
    out.set(part, at);
    at += part.length;
  }
  if (scale !== 1) for (let i = 0; i < n; i++) out[i] = (out[i] as number) * scale;
  return out;
}

const specials: readonly number[] = [
  NaN,
  Infinity,
  -Infinity,
  3.4e38,
  -3.4e38,
  2 ** 61,
  -(2 ** 119),
  1e-45,
  -1e-40,
  -0,
];

function spoil(rng: Random, x: Float32Array): void {
  const kinds = rng.next() < 0.5 ? [rng.pick(specials)] : specials;
  const share = rng.pick([0.3 / x.length, 0.01, 0.3]);
  for (let i = rng.integer(0, Math.ceil(1 / share)); i < x.length; i += rng.integer(1, Math.ceil(2 / share))) {
    x[i] = rng.pick(kinds);
  }
}

const scales: readonly number[] = [1, 1, 1, 1, 1, 0.01, 2 ** -100, 2 ** -127, 2 ** -140, 2 ** 40, 2 ** 59, 2 ** 70];

// Multiplies channel p of a matrix in which they are `step` apart.
function scaleChannel(x: Float32Array, p: number, channels: number, by: number): void {
  for (let i = p; i < x.length; i += channels) x[i] = (x[i] as number) * by;
}

/** Rows [rows, k] whose channels may have outliers. */
function rowsOf(rng: Random, rows: number, k: number): Float32Array {
  const x = someFloats(rng, rows * k, rng.pick(scales));
  const kind = rng.integer(0, 9);
  const far = () => rng.pick([10, 30, 100, 1000]);
  if (kind === 0) for (let i = 0; i < x.length; i++) x[i] = Math.round(x[i] as number);
  else if (kind === 1) {
    const by = far();
    for (let i = rng.integer(1, 20); i > 0; i--) scaleChannel(x, rng.integer(0, k), k, by);
  } else if (kind === 2) for (let p = rng.integer(0, 3); p < k; p += rng.integer(1, 5)) scaleChannel(x, p, k, far());
  else if (kind === 3) {
    for (let row = 0; row < rows; row++) {
      const at = row * k + rng.integer(0, k);
      x[at] = (x[at] as number) * far();
    }
  } else if (kind === 4) {
    const zeros = rng.pick([1, 3, 7]);
    for (let i = 0; i < x.length; i++) if (rng.integer(0, zeros + 1) > 0) x[i] = 0;
  } else if (kind === 5) for (let row = 0; row < rows; row += 2) x.fill(0, row * k, (row + 1) * k);
  else if (kind === 6) spoil(rng, x);
  return x;
}

/** A matrix [k, n]. */
export function matrixOf(rng: Random, k: number, n: number): Float32Array {
  const w = someFloats(rng, k * n, rng.pick(scales));
  const kind = rng.integer(0, 8);
  if (kind === 0) for (let i = 0; i < w.length; i++) w[i] = Math.round(w[i] as number);
  else if (kind === 1) {
    for (let p = 0; p < k; p++) for (let j = 1; j < n; j++) if (j % 7) w[p * n + j] = w[p * n + j - (j % 7)] as number;
  } else if (kind === 2) for (let j = rng.integer(0, 2); j < n; j += rng.integer(1, 4)) scaleChannel(w, j, n, 0);
  else if (kind === 3) for (let j = rng.integer(0, 2); j < n; j += rng.integer(1, 9)) scaleChannel(w, j, n, 300);
  else if (kind === 4) for (let p = rng.integer(0, 9); p < k; p += 17) w.fill(40, p * n, (p + 1) * n);
  else if (kind === 5) spoil(rng, w);
  return w;
}

/** A bias [n], or undefined for none. */
export function biasOf(rng: Random, n: number): Float32Array | undefined {
  const kind = rng.integer(0, 9);
  if (kind === 0) return undefined;
  const bias = someFloats(rng, n, rng.pick([0, 1, 1, 1, 2 ** -130, 2 ** 100]));
  if (kind < 4) for (let j = 0; j < n; j++) bias[j] = (bias[j] as number) - rng.pick([1, 3, 3, 10]);
  else if (kind === 4) bias.fill(rng.pick([-Infinity, -3.4e38, -1e38, -1e37, -1e30, -1e20, 1e37]), rng.integer(0, n));
  else if (kind === 5) spoil(rng, bias);
  else if (kind === 6) for (let j = 0; j < n; j++) bias[j] = Math.round(bias[j] as number);
  return bias;
}

/** Rows [rows, k] on a device, of any dtype of floats and any strides. What it makes is given to `own`, to be freed. */
export function rowTensor(rng: Random, device: Device, rows: number, k: number, own: (t: Tensor) => Tensor): Tensor {
  const dtype: DType = rng.pick(floats);
  const upload = (x: Float32Array, shape: number[]) => own(Tensor.from(x, { shape, device })).to(dtype);
  const layout = rng.integer(0, 8);
  if (layout === 0) return own(upload(rowsOf(rng, k, rows), [k, rows])).permute([1, 0]);
  if (layout === 1)
    return own(upload(rowsOf(rng, rows + 1, k + 3), [rows + 1, k + 3]))
      .slice(0, 1)
      .slice(1, 2, k + 2);
  if (layout === 2) return own(upload(rowsOf(rng, 1, k), [1, k])).expand([rows, k]);
  return own(upload(rowsOf(rng, rows, k), [rows, k]));
}
