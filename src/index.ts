// The only door: named re-exports, no logic.
export {
  type Device,
  type DeviceDescription,
  type DeviceName,
  getDefaultDevice,
  listDevices,
  openDevice,
} from './engine/device.js';
export type { DType, HostArray } from './engine/dtype.js';
export { DeviceError, OutOfMemoryError } from './engine/errors.js';
export type { HostData } from './engine/host_data.js';
export { type AttentionOptions, attention, maskLogits } from './engine/ops/attention.js';
export { embedding } from './engine/ops/embedding.js';
export { gelu, relu } from './engine/ops/gelu.js';
export { layerNorm, rootMeanSquare } from './engine/ops/layer_norm.js';
export { type Activation, linear, matmul, type Precision } from './engine/ops/matmul.js';
export { softmax, softmaxNumerator } from './engine/ops/softmax.js';
export { type SparseEncodeOptions, type SparseLatents, sparseDecode, sparseEncode } from './engine/ops/sparse.js';
export { topKMask } from './engine/ops/top_k.js';
export { type PackedMatrix, packWeights } from './engine/packed_matrix.js';
export { Tensor, type TensorOptions } from './engine/tensor.js';
