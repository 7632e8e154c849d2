// Maps for the copy engine are made by the driver, whose function is looked up when it is first needed: nothing links to the driver.
#include "primitives.cuh"

#ifdef __CUDACC__

namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
  // as CUDA 12.0 has it, where it came with Hopper
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  if (error == cudaSuccess && found == cudaDriverEntryPointSuccess) return reinterpret_cast<Encode>(function);
  cudaGetLastError();
  return nullptr;
}

}  // namespace

bool make_tma_map(TmaMap* map, const void* base, uint64_t rows, uint64_t columns, uint64_t pitch_bytes,
                  uint32_t box_rows) {
  static const Encode encode = find_encode();
  if (!encode) return false;
  const cuuint64_t shape[2] = {columns, rows}, stride[1] = {pitch_bytes};
  const cuuint32_t box[2] = {64, box_rows}, step[2] = {1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, const_cast<void*>(base), shape, stride, box, step,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#endif
