// What sparseEncode reads beside a packed matrix to leave out sums that cannot pass: native/cpu/filter.h says how.
import type { Device } from '../device.js';
import type { DType } from '../dtype.js';
import { dtypeCode } from '../dtype.js';
import { OutOfMemoryError } from '../errors.js';
import { native, type PackedArgument, type ViewArgument } from '../native.js';
import { writeView } from '../native_arguments.js';
import type { Storage } from '../storage.js';

/** A packed matrix [k, n]. */
interface Packed extends PackedArgument {
  readonly device: Device;
  readonly dtype: DType;
  readonly k: number;
  readonly n: number;
}

/** The filter of a packed matrix, which ends with it. It changes no bit of a result. */
export class SumFilter implements ViewArgument {
  readonly argument = 'view';
  readonly storage: Storage;

  constructor(device: Device, bytes: number) {
    this.storage = device.storage(bytes);
  }

  write(numbers: Float64Array, at: number): number {
    return writeView(numbers, at, this.storage, 'bool', 0, [this.storage.bytes], [1]);
  }
}

/** Makes the filter of a packed matrix; undefined where sparseEncode of so many rows uses none, null without memory for it. */
export function filterOf(matrix: Packed, rows: number): SumFilter | null | undefined {
  const { device, dtype, k, n } = matrix;
  const bytes = native.filterBytes(device.handle, rows, k, n, dtypeCode(dtype));
  if (bytes === 0) return undefined;
  try {
    const filter = new SumFilter(device, bytes);
    device.run('packFilter', filter, matrix);
    return filter;
  } catch (error) {
    if (error instanceof OutOfMemoryError) return null; // it only saves time
    throw error;
  }
}
