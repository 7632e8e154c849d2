// A weight matrix in the order the device's matmul reads it: packed once, used many times.
import { checkBoolean, checkDTypeName, checkFloat, checkOperands, checkOptions, checkRank, wrong } from '../check.js';
import type { Device } from '../device.js';
import { byteWidth, type DType, dtypeCode } from '../dtype.js';
import { native } from '../native.js';
import { writePacked } from '../native_arguments.js';
import { Operand, type OperandWindow } from '../operand.js';
import { checkNotRecorded, hasHistory, record } from '../record.js';
import { showShape } from '../shape.js';
import type { Storage } from '../storage.js';
import { filterOf, type SumFilter } from './pack_filter.js';
import { Tensor } from './tensor.js';

export class PackedMatrix extends Operand {
  /** Rows: the width of what is multiplied with it. */
  readonly k: number;
  /** Columns: the width of the product. */
  readonly n: number;
  readonly dtype: DType;
  readonly device: Device;
  /** @internal */
  readonly storage: Storage;
  #filter: SumFilter | null | undefined; // undefined until it is of use, null where there is no memory for it

  /** @internal Use packWeights. */
  constructor(device: Device, k: number, n: number, dtype: DType, storage?: Storage) {
    super('a packed matrix');
    this.k = k;
    this.n = n;
    this.dtype = dtype;
    this.device = device;
    this.storage = storage ?? device.storage(native.packedBytes(device.handle, k, n, dtypeCode(dtype)));
  }

  /** @internal Why it can no longer be used, or undefined while it can. */
  get ended(): string | undefined {
    return this.storage.ended;
  }

  /** @internal The same matrix without its history; it ends with this one. */
  detach(): PackedMatrix {
    return new PackedMatrix(this.device, this.k, this.n, this.dtype, this.storage.detached());
  }

  /** @internal What sparseEncode of so many rows reads besides, made when it is first of use; null where there is none. */
  filterFor(rows: number): SumFilter | null {
    if (this.#filter === undefined) this.#filter = filterOf(this, rows);
    return this.#filter ?? null;
  }

  /** @internal Its gradient is a matrix [k, n]. */
  get gradientWindow(): OperandWindow {
    const { storage, k, n } = this;
    return { storage, shape: [k, n], strides: [n, 1], offset: 0, elements: k * n };
  }

  /** Bytes of the values alone, without the padding of the packed order. */
  get bytes(): number {
    return this.k * this.n * byteWidth(this.dtype);
  }

  /** @internal */
  get argument(): 'packed' {
    return 'packed';
  }

  /** @internal */
  write(numbers: Float64Array, at: number): number {
    if (this.ended) throw new Error(`a packed matrix [${this.k}, ${this.n}] cannot be used: ${this.ended}`);
    return writePacked(numbers, at, this.storage, this.dtype, this.k, this.n);
  }

  /** The matrix as a tensor [k, n], or [n, k] with transposeB. */
  unpack(options: { transposeB?: boolean } = {}): Tensor {
    checkOptions('unpack', options, { transposeB: true });
    const { transposeB = false } = options;
    checkBoolean('unpack', 'transposeB', transposeB);
    checkOperands('unpack', {}, { packed: { matrix: this } });
    const out = Tensor.empty(transposeB ? [this.n, this.k] : [this.k, this.n], {
      device: this.device,
      dtype: this.dtype,
    });
    const matrix = transposeB ? out.permute([1, 0]) : out;
    this.device.run('unpackWeights', matrix, this);
    if (hasHistory(this)) record('unpack', [matrix], [this], () => (g) => [g]);
    return out;
  }

  dispose(): void {
    this.release('it was disposed');
  }

  /** @internal Ends it; using it afterwards throws `reason`. */
  release(reason: string): void {
    this.#filter?.storage.release(reason);
    this.storage.release(reason);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  override toString(): string {
    const { k, n, dtype, device, ended } = this;
    return `PackedMatrix ${showShape([k, n])} ${dtype} on ${device}${ended ? ' (ended)' : ''}`;
  }
}

/**
 * Packs b [K, N], or [N, K] with transposeB (the layout of a linear layer's weight), for `linear`.
 * @param options.dtype the type the values are stored in; b's by default.
 * @throws RangeError unless b has two dimensions; TypeError unless it is of floats.
 */
export function packWeights(b: Tensor, options: { transposeB?: boolean; dtype?: DType } = {}): PackedMatrix {
  checkOptions('packWeights', options, { transposeB: true, dtype: true });
  const { transposeB = false } = options;
  checkBoolean('packWeights', 'transposeB', transposeB);
  const device = checkOperands('packWeights', { b });
  checkFloat('packWeights', 'b', b);
  checkNotRecorded('packWeights', 'b', b);
  checkRank('packWeights', 'b', b, 2);
  if (b.shape.length > 2) {
    throw new RangeError(wrong('packWeights', 'b', 'a matrix', showShape(b.shape)));
  }
  const { dtype = b.dtype } = options;
  checkDTypeName('packWeights', dtype, { floats: true });
  const matrix = transposeB ? b.permute([1, 0]) : b;
  const packed = new PackedMatrix(device, matrix.shape[0] as number, matrix.shape[1] as number, dtype);
  device.run('packWeights', packed, matrix);
  return packed;
}
