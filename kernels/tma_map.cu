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

static bool encode_map(TmaMap* map, const void* base, int rank, const cuuint64_t* shape, const cuuint64_t* pitches,
                       const cuuint32_t* box) {
  static const Encode encode = find_encode();
  if (!encode) return false;
  const cuuint32_t step[4] = {1, 1, 1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT16, cuuint32_t(rank), const_cast<void*>(base), shape, pitches, box,
                step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool make_tma_map(TmaMap* map, const void* base, uint64_t rows, uint64_t columns, uint64_t pitch_bytes,
                  uint32_t box_rows) {
  const cuuint64_t shape[2] = {columns, rows}, pitch[1] = {pitch_bytes};
  const cuuint32_t box[2] = {64, box_rows};
  return encode_map(map, base, 2, shape, pitch, box);
}

bool make_tma_map_4d(TmaMap* map, const void* base, const uint64_t (&shape)[4], const uint64_t (&pitch_bytes)[3],
                     uint32_t box_rows) {
  cuuint64_t sizes[4], pitches[3];
  for (int d = 0; d < 4; ++d) sizes[d] = shape[d];
  for (int d = 0; d < 3; ++d) pitches[d] = pitch_bytes[d];
  const cuuint32_t box[4] = {64, 1, box_rows, 1};
  return encode_map(map, base, 4, sizes, pitches, box);
}

#endif
