// Uploads weights from files to a device, slice by slice, so that a weight takes only a few slices of host memory.
import type { Device } from '../../engine/device.js';
import type { DType } from '../../engine/dtype.js';
import { Tensor } from '../../engine/ops/tensor.js';
import type { StoredTensor } from '../../files/host_tensor.js';

const sliceBytes = 2 ** 21;

/** A function that uploads a stored tensor to the device as one of `dtype`. Only one call may run at a time. */
export function uploader(device: Device, dtype: DType): (stored: StoredTensor) => Promise<Tensor> {
  const buffer = new ArrayBuffer(sliceBytes);
  let beforeLast = Promise.resolve();
  let last = beforeLast;
  return async (stored) => {
    const out = Tensor.empty([...stored.shape], { device, dtype });
    try {
      const flat = out.reshape(out.size);
      let at = 0;
      for await (const data of stored.slices(buffer)) {
        await beforeLast; // the device is at most two slices behind
        using slice = Tensor.from({ dtype: stored.dtype, shape: [data.length], data }, { device });
        flat.slice(0, at, at + data.length).copyFrom(slice);
        at += data.length;
        beforeLast = last;
        last = device.reached();
      }
      return out;
    } catch (error) {
      out.dispose();
      throw error;
    }
  };
}
