// A weight matrix in the order the device's matmul reads it: packed once, used many times.
import { checkFloat, checkOperands, checkRank, wrong } from '../check.js';
import type { Device } from '../device.js';
import { byteWidth, type DType, dtypeCode, isFloat } from '../dtype.js';
import { native, type PackedHandle } from '../native.js';
import { showShape } from '../shape.js';
import { Storage } from '../storage.js';
import { Tensor } from './tensor.js';

export class PackedMatrix {
  /** Rows: the width of what is multiplied with it. */
  readonly k: number;
  /** Columns: the width of the product. */
  readonly n: number;
  readonly dtype: DType;
  readonly device: Device;
  /** @internal */
  readonly storage: Storage;
  readonly #handle: PackedHandle;

  /** @internal Use packWeights. */
  constructor(device: Device, k: number, n: number, dtype: DType) {
    const code = dtypeCode(dtype);
    this.k = k;
    this.n = n;
    this.dtype = dtype;
    this.device = device;
    this.storage = new Storage(device, native.packedBytes(device.handle, k, n, code));
    this.#handle = native.packed(device.handle, this.storage.buffer, code, k, n);
  }

  get ended(): string | undefined {
    return this.storage.ended;
  }

  /** Bytes of the values alone, without the padding of the packed order. */
  get bytes(): number {
    return this.k * this.n * byteWidth(this.dtype);
  }

  /** @internal */
  get handle(): PackedHandle {
    if (this.ended) throw new Error(`a packed matrix [${this.k}, ${this.n}] cannot be used: ${this.ended}`);
    return this.#handle;
  }

  /** The matrix as a tensor [k, n], or [n, k] with transposeB. */
  unpack({ transposeB = false }: { transposeB?: boolean } = {}): Tensor {
    checkOperands('unpack', { matrix: this });
    const out = Tensor.empty(transposeB ? [this.n, this.k] : [this.k, this.n], {
      device: this.device,
      dtype: this.dtype,
    });
    this.device.run('unpackWeights', (transposeB ? out.permute([1, 0]) : out).handle, this.handle);
    return out;
  }

  dispose(): void {
    this.storage.release('it was disposed');
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Packs b [K, N], or [N, K] with transposeB (the layout of a linear layer's weight), for `linear`.
 * @param options.dtype the type the values are stored in; b's by default.
 * @throws RangeError unless b has two dimensions; TypeError unless it is of floats.
 */
export function packWeights(b: Tensor, options: { transposeB?: boolean; dtype?: DType } = {}): PackedMatrix {
  const device = checkOperands('packWeights', { b });
  checkFloat('packWeights', 'b', b);
  checkRank('packWeights', 'b', b, 2);
  if (b.shape.length > 2) {
    throw new RangeError(wrong('packWeights', 'b', 'a matrix', showShape(b.shape)));
  }
  const dtype = options.dtype ?? b.dtype;
  if (!isFloat(dtype)) throw new TypeError(wrong('packWeights', 'dtype', 'float32, bfloat16 or float16', dtype));
  const matrix = options.transposeB ? b.permute([1, 0]) : b;
  const packed = new PackedMatrix(device, matrix.shape[0] as number, matrix.shape[1] as number, dtype);
  device.run('packWeights', packed.handle, matrix.handle);
  return packed;
}
