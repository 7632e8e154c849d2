// Errors of a device: work that failed after it was queued, and memory that ran out.

/** An operation failed on its device. Reported by the next `read()` or `synchronize()`; later operations work again. */
export class DeviceError extends Error {
  override readonly name = 'DeviceError';
  readonly operation: string;
  readonly device: string;

  constructor(device: string, message: string) {
    super(message);
    this.device = device;
    this.operation = /^\w+/.exec(message)?.[0] ?? '';
  }
}

/** There was not enough memory on a device. */
export class OutOfMemoryError extends Error {
  override readonly name = 'OutOfMemoryError';
}
